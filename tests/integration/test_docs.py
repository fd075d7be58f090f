"""The commands, flags, links, modules and flag files that README.md and docs/ name, run or checked as they stand there."""

import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from launch.job import parse_training
from tests.support.commands import ENVIRONMENT, REPOSITORY
from trainer.config import TrainConfig

PAGES = (REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md")))
LINKING = (*PAGES, REPOSITORY / "CHANGELOG.md", *sorted((REPOSITORY / "benchmarks").glob("*.md")))
RECIPES = sorted((REPOSITORY / "recipes").glob("*.flags"))

# What the pages' own commands set before.
VARIABLES = {
    "PROJECT": "films",
    "REGION": "europe-west4",
    "BUCKET": "films-posters",
    "IMAGE": "europe-west4-docker.pkg.dev/films/images/poster-trainer:1",
    "ACCOUNT": "trainer@films.iam.gserviceaccount.com",
}

# The commands whose flags the pages name, and the flags of programs that are not this project's.
COMMANDS = ("trainer.task", "trainer.prepare", "trainer.evaluate", "trainer.predict", "trainer.demo", "launch")
CONVERTER = "trainer.model.convert_efficientnet_lite"
# A command of another program: to the end of its line of code, or between backquotes.
_PROGRAMS = r"(gcloud|kubectl|docker|tensorboard|\S*pip|python benchmarks/\S+) "
FOREIGN = re.compile(rf"(^\s*|&& |\$\(){_PROGRAMS}.*|`{_PROGRAMS}[^`]*`")
OTHERS_FLAGS = {
    "--no-deps": "pip",
    "--platform": "docker build",
    "--gpus": "docker run",
    "--shm-size": "docker run",
    "--entrypoint": "docker run",
    "--recipes": "benchmarks/accuracy.py",
    "--seeds": "benchmarks/accuracy.py",
    "--help": "absl",
    "--flagfile": "absl",
}


def name(value: object) -> str | None:
    """Names a page or flag file in the list of tests."""
    return str(value.relative_to(REPOSITORY)) if isinstance(value, Path) else None


def without_comments(page: Path) -> str:
    return re.sub(r"<!--.*?-->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def code_lines(page: Path) -> list[str]:
    """Returns the lines of a page's blocks without a language; a line that a backslash continues is joined with the next."""
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", without_comments(page), re.MULTILINE | re.DOTALL)
    lines = "".join(text for language, text in blocks if not language).replace("\\\n", " ").splitlines()
    return [" ".join(line.split()) for line in lines]


def commands(start: str) -> list[tuple[Path, str]]:
    """Returns each command of all pages that begins so, with its page."""
    return [(page, line) for page in PAGES for line in code_lines(page) if line.startswith(start)]


def recipe_commands(start: str) -> list[tuple[Path, str]]:
    """Returns each command in the comments of the flag files that begins so, with its file."""
    lines = [(file, line) for file in RECIPES for line in file.read_text(encoding="utf-8").splitlines()]
    return [(file, line.removeprefix("# ")) for file, line in lines if line.startswith(f"# {start}")]


def once(found: list[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """Returns the commands without those that differ in nothing but the paths, which the tests replace."""
    different = {re.sub(r"--(csv|images|output)=\S+", r"--\1", command): (page, command) for page, command in reversed(found)}
    return list(different.values())


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command of a page by the shell, with this interpreter, in a folder of its own."""
    command = re.sub("^python ", f"{shlex.quote(sys.executable)} ", command)
    environment = ENVIRONMENT | VARIABLES | {"PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, check=False)


def dry_run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a launch of a page with --dry_run."""
    return shell(command.replace("python -m launch", "python -m launch --dry_run", 1), folder)


def training_flags(command: str) -> list[str]:
    """Returns the flags of a trainer.task command; a flag file of recipes/ gets its full path."""
    words = shlex.split(command, comments=True)[3:]
    return [word.replace("--flagfile=recipes/", f"--flagfile={REPOSITORY}/recipes/") for word in words]


@pytest.fixture(scope="session")
def films(tmp_path_factory) -> Path:
    """A folder with films.csv and posters/, small enough that preparing takes a moment."""
    folder = tmp_path_factory.mktemp("films")
    (folder / "posters").mkdir()
    rows = ["id,genres"]
    for number in range(40):
        Image.effect_noise((40, 60), 60 + number).convert("RGB").save(folder / "posters" / f"f{number}.jpg")
        rows.append(f"f{number},{('Drama', 'Comedy', 'Drama|Comedy')[number % 3]}")
    (folder / "films.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="session")
def flags_of_commands() -> dict[str, set[str]]:
    """The flags of each command, by its name."""
    found = {}
    for module in (*COMMANDS, CONVERTER):
        text = shell(f"python -m {module} --helpfull", REPOSITORY).stdout
        found[module] = set(re.findall(r"^\s+(--[a-z][a-z_]*)", text.replace("[no]", ""), re.MULTILINE))
        assert found[module], module
    return found


def slug(heading: str) -> str:
    """Returns the anchor that GitHub gives a heading."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


def links(page: Path) -> Iterator[tuple[str, str]]:
    """Yields path and anchor of each link, relative to the page, either of which may be empty."""
    for target in re.findall(r"\]\(([^)\s]+)\)", without_comments(page)):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield path, anchor


class TestLaunches:
    def test_every_target_is_launched(self):
        text = " ".join(command for _, command in commands("python -m launch --target"))
        assert set(re.findall("--target=([a-z]+)", text)) == {"local", "kubernetes", "vertex"}

    @pytest.mark.parametrize(("page", "command"), once(commands("python -m launch --target")), ids=name)
    def test_a_launch_passes_a_dry_run(self, page, command, tmp_path):
        done = dry_run(command, tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout

    def test_the_job_file_passes_a_dry_run(self, tmp_path):
        text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
        (block,) = re.findall(r"^```yaml\n(# (python.*?)\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
        (tmp_path / "job.yaml").write_text(block[0])
        done = dry_run(block[1], tmp_path)
        assert done.returncode == 0, done.stderr
        assert "films/jobs/third" in done.stdout


class TestPrepare:
    @pytest.mark.parametrize(
        ("page", "command"),
        once([*commands("python -m trainer.prepare"), *recipe_commands("python -m trainer.prepare")]),
        ids=name,
    )
    def test_a_prepare_command_makes_a_data_set(self, page, command, films, tmp_path):
        own = {"csv": films / "films.csv", "images": films / "posters", "output": tmp_path / "dataset"}
        if "--csv" not in command:  # The images' folders are the genres.
            for number, poster in enumerate(sorted((films / "posters").iterdir())):
                folder = tmp_path / "tree" / ("Drama" if number % 2 else "War")
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(poster, folder)
            own = {"images": tmp_path / "tree", "output": tmp_path / "dataset"}
        for flag, value in own.items():
            command, count = re.subn(rf"--{flag}=\S+", f"--{flag}={shlex.quote(str(value))}", command)
            assert count == 1, f"{command} must give --{flag} once"
        done = shell(command, tmp_path)
        assert done.returncode == 0, done.stderr
        assert (tmp_path / "dataset" / "dataset.json").exists()


class TestTask:
    @pytest.mark.parametrize(
        ("page", "command"),
        [*commands("python -m trainer.task"), *recipe_commands("python -m trainer.task")],
        ids=name,
    )
    def test_a_training_command_has_valid_flags(self, page, command):
        assert parse_training(training_flags(command)).data_dir

    @pytest.mark.parametrize("file", RECIPES, ids=name)
    def test_a_recipe_is_a_valid_job(self, file):
        flags = [f"--flagfile={file}", "--data_dir=dataset/", "--job_dir=jobs/first"]
        job = parse_training(flags)
        assert job != TrainConfig(data_dir="dataset/", job_dir="jobs/first"), "it must say something"

    def test_each_recipe_is_described(self):
        text = (REPOSITORY / "docs" / "recipes.md").read_text(encoding="utf-8")
        assert {file.name for file in RECIPES} == set(re.findall(r"\.\./recipes/(\S+\.flags)\)", text))
        assert RECIPES


class TestPages:
    def test_the_readme_is_short(self):
        assert len((REPOSITORY / "README.md").read_text(encoding="utf-8").splitlines()) <= 200

    def test_every_page_is_reached_from_the_readme(self):
        reached = {path for path, _ in links(REPOSITORY / "README.md")}
        assert {str(page.relative_to(REPOSITORY)) for page in PAGES[1:]} <= reached

    @pytest.mark.parametrize("page", LINKING, ids=name)
    def test_links_lead_somewhere(self, page):
        for path, anchor in links(page):
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page.name} links to {path}"
            if anchor:
                assert anchor in anchors(target), f"{page.name} links to {path}#{anchor}"

    @pytest.mark.parametrize("page", PAGES, ids=name)
    def test_the_flags_of_a_command_are_its_own(self, page, flags_of_commands):
        for line in code_lines(page):
            for words in [shlex.split(line, comments=True)] if " -m " in line else []:
                module = words[words.index("-m") + 1] if "-m" in words else ""
                if module not in flags_of_commands or module == "launch":  # A launch is run above.
                    continue
                given = {word.partition("=")[0] for word in words if word.startswith("--")} - {"--help"}
                assert given <= flags_of_commands[module] | {"--flagfile"}, line

    @pytest.mark.parametrize("page", PAGES, ids=name)
    def test_every_flag_exists(self, page, flags_of_commands):
        known = set().union(*flags_of_commands.values()) | OTHERS_FLAGS.keys()
        # Commands of other programs have flags of their own.
        lines = without_comments(page).replace("\\\n", " ").splitlines()
        text = "\n".join(FOREIGN.sub("", line) for line in lines)
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z_-]*", text):
            assert flag in known, f"{page.name} names {flag}"

    @pytest.mark.parametrize("page", PAGES, ids=name)
    def test_every_module_and_file_exists(self, page):
        text = without_comments(page)
        for module in re.findall(r"`((?:trainer|launch)(?:\.[a-z_]+)+)`", text):
            path = REPOSITORY / module.replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py").is_file(), f"{page.name} names {module}"
        for path in re.findall(r"`((?:trainer|launch|tests|benchmarks|recipes|k8s)/[^`\s*]*)`", text):
            assert (REPOSITORY / path).exists(), f"{page.name} names {path}"

    def test_the_walks_name_modules(self):
        _, walks = (REPOSITORY / "docs" / "architecture.md").read_text(encoding="utf-8").split("## How a run goes through the code")
        modules = {file.stem for package in ("trainer", "launch") for file in (REPOSITORY / package).rglob("*.py")}
        modules |= {file.parent.name for package in ("trainer", "launch") for file in (REPOSITORY / package).rglob("*.py")}
        assert set(re.findall(r"`([a-z_]+)`", walks)) - modules == {"fit", "tf_keras"}

    @pytest.mark.parametrize("page", PAGES, ids=name)
    def test_every_make_target_exists(self, page):
        targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", without_comments(page), re.MULTILINE):
            assert target in targets, f"{page.name} names make {target}"

    def test_troubleshooting_quotes_messages_as_the_programs_print_them(self):
        texts = [
            text for package in ("trainer", "launch") for file in (REPOSITORY / package).rglob("*.py") for text in texts_of(file)
        ]
        page = (REPOSITORY / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
        tables = re.findall(r"^\| message \|.*?\n\|---.*?\n((?:\|.*\n)+)", page, re.MULTILINE)
        messages = [re.match(r"\| `(.*?)` \|", row) for table in tables for row in table.splitlines()]
        assert len(messages) > 40
        assert all(messages), "each row of a table begins with a message in backquotes"

        def is_printed(message: str) -> bool:
            pattern = re.compile(".*".join(re.escape(part.strip()) for part in message.split("…")))
            return any(pattern.search(text) for text in texts)

        assert not [message[1] for message in messages if message and not is_printed(message[1])]


def texts_of(file: Path) -> Iterator[str]:
    """Yields each text in a module's code, with … for what an f-string fills in."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
