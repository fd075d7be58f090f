"""trainer.evaluate: it refuses wrong arguments before it imports TensorFlow, which takes seconds."""

import json
import subprocess
import sys

from tests.support.commands import ENVIRONMENT, REPOSITORY

# Runs the command in a process of its own, and writes last which exit code it had and whether it imported TensorFlow.
_RUN = """
import json, runpy, sys
sys.argv[0] = "trainer.evaluate"
try:
    runpy.run_module("trainer.evaluate", run_name="__main__", alter_sys=True)
except SystemExit as exit:
    code = exit.code
print(json.dumps({"code": code, "tensorflow": "tensorflow" in sys.modules}))
"""


def test_a_wrong_argument_exits_2_before_tensorflow_is_imported(tmp_path):
    command = [sys.executable, "-c", _RUN, f"--job_dir={tmp_path}", f"--data_dir={tmp_path}"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=ENVIRONMENT)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == {"code": 2, "tensorflow": False}
    assert "holds no finished job" in ended.stderr
    assert "Traceback" not in ended.stderr
