"""trainer.evaluate: it refuses wrong arguments before it imports TensorFlow, which takes seconds."""

import json
import subprocess
import sys

import pytest

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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--job_dir is missing: set --job_dir=DIR"),
        (["--job_dir={folder}"], "--data_dir is missing: set --data_dir=DIR"),
        (["--job_dir={folder}", "--data_dir={folder}", "test"], "'test' is not a flag of trainer.evaluate"),
        (["--job_dir={folder}", "--data_dir={folder}", "--split=all"], "--split=all"),
        (["--job_dir={folder}", "--data_dir={folder}"], "holds no finished job"),
    ],
)
def test_a_wrong_argument_exits_2_before_tensorflow_is_imported(arguments, message, tmp_path):
    command = [sys.executable, "-c", _RUN, *(argument.format(folder=tmp_path) for argument in arguments)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=ENVIRONMENT)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout.splitlines()[-1]) == {"code": 2, "tensorflow": False}
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr
