"""Allowed imports between packages."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
STEP_ROOMS = (
    "plan", "import_model", "prepare_data", "finetune", "merge_adapter", "evaluate", "register_model", "adapter_tools",
    "sweep", "generate",
)  # fmt: skip
# Rooms that steps share, each of which may use those before it.
SHARED_ROOMS = (
    "secrets", "kinds", "params", "sources", "models", "tasks", "adapters", "launch", "generation", "scoring",
    "rewards", "tracking", "signing", "verl", "reports",
)  # fmt: skip
STANDARD = sys.stdlib_module_names
HEAVY = {"torch", "transformers", "trl", "peft", "mlflow", "datasets", "deepspeed", "vllm"}


def files(*folders: str) -> list[Path]:
    found = [file for folder in folders for file in sorted(ROOT.glob(folder))]
    assert found, folders
    return found


def imports(file: Path, whole: bool = True) -> Iterator[str]:
    """Every module that a file imports; with `whole` also inside functions."""
    tree = ast.parse(file.read_text("utf-8"))
    for node in ast.walk(tree) if whole else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def offenders(found: list[Path], allowed, whole: bool = True) -> list[str]:
    return [
        f"{file.relative_to(ROOT)} imports {name}"
        for file in found
        for name in imports(file, whole)
        if not allowed(name)
    ]


def within(name: str, *modules: str) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def test_parameters_and_errors_know_only_pydantic_and_the_standard_library():
    def allowed(name):
        return name.split(".")[0] in {*STANDARD, "pydantic", "pydantic_core"} or within(
            name, "steps.params", "steps.kinds", "steps.secrets", "steps.errors"
        )

    assert offenders(files("steps/params/**/*.py", "steps/errors.py"), allowed) == []


def test_records_of_kinds_know_only_the_standard_library():
    allowed = lambda name: name.split(".")[0] in STANDARD or within(name, "steps.kinds", "steps.errors")  # noqa: E731
    assert offenders(files("steps/kinds/**/*.py"), allowed) == []


def test_no_step_knows_kubeflow_or_the_pipelines():
    assert offenders(files("steps/**/*.py"), lambda name: not within(name, "kfp", "kfp_kubernetes", "pipelines")) == []


@pytest.mark.parametrize("room", STEP_ROOMS)
def test_no_step_reaches_into_another(room):
    others = [f"steps.{other}" for other in STEP_ROOMS if other != room]
    assert offenders(files(f"steps/{room}/**/*.py"), lambda name: not within(name, *others)) == []


def test_every_folder_is_a_room():
    folders = {folder.name for folder in (ROOT / "steps").iterdir() if any(folder.glob("*.py"))}
    assert folders == {*STEP_ROOMS, *SHARED_ROOMS}


@pytest.mark.parametrize("room", SHARED_ROOMS)
def test_what_steps_share_knows_no_step_and_no_later_room(room):
    later = SHARED_ROOMS[SHARED_ROOMS.index(room) + 1 :]
    forbidden = [f"steps.{name}" for name in (*STEP_ROOMS, *later)]
    assert offenders(files(f"steps/{room}/**/*.py"), lambda name: not within(name, *forbidden)) == []


def test_what_every_room_speaks_through_knows_no_step():
    rooms = [f"steps.{room}" for room in STEP_ROOMS]
    assert offenders(files("steps/*.py"), lambda name: not within(name, *rooms)) == []


@pytest.mark.parametrize(("part", "later"), [("read", ("check", "write")), ("check", ("write",))])
def test_rows_are_read_then_checked_then_written(part, later):
    forbidden = [f"steps.prepare_data.{name}" for name in later]
    assert offenders(files(f"steps/prepare_data/{part}/*.py"), lambda name: not within(name, *forbidden)) == []


def test_adapters_are_judged_without_torch():
    judging = [file for file in files("steps/adapters/*.py") if not file.name.startswith("arithmetic")]
    light = [*judging, *files("steps/merge_adapter/*.py", "steps/adapter_tools/*.py")]
    assert offenders(light, lambda name: name.split(".")[0] not in HEAVY, whole=False) == []


def test_pipelines_reach_steps_only_through_parameters_errors_and_running():
    early = ("steps.stopping", "steps.outlets")  # before anything else is loaded
    doors = ("steps.params", "steps.errors", "steps.redaction", "steps.running", "steps.wire", "steps.__version__")
    allowed = lambda name: not within(name, "steps") or within(name, *doors, *early)  # noqa: E731
    assert offenders(files("pipelines/**/*.py"), allowed) == []
    assert offenders(files("pipelines/**/*.py"), lambda name: name.split(".")[0] not in HEAVY) == []


def test_light_rooms_load_nothing_heavy_at_import():
    light = files(
        "steps/*.py",
        "steps/sources/*.py",
        "steps/models/*.py",
        "steps/tasks/**/*.py",
        "steps/launch/*.py",
        "steps/scoring/*.py",
        "steps/rewards/*.py",
        "steps/reports/*.py",
        "steps/plan/*.py",
        "steps/import_model/*.py",
    )
    assert offenders(light, lambda name: name.split(".")[0] not in HEAVY, whole=False) == []


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["list"],
        ["describe", "chat_completion"],
        ["run", "chat_completion", "--help"],
        ["submit", "chat_completion", "--help"],
        ["schedule", "--help"],
        ["compile", "-o", "."],
    ],
    ids=lambda words: " ".join(words),
)
def test_commands_that_train_nothing_load_no_torch(words, tmp_path):
    script = (
        "import sys\nfrom pipelines.cli import cli\n"
        "try:\n    cli(sys.argv[1:], prog_name='finetune')\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'torch', 'transformers', 'mlflow', 'datasets'} & set(sys.modules)), file=sys.stderr)\n"
        "print('kfp' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-W", "ignore", "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    loaded, kfp = done.stderr.splitlines()[-2:]
    assert loaded == "[]"
    assert kfp == str(words[0] == "compile")


def test_help_loads_nothing_but_click_and_our_own():
    script = (
        "import sys\nfrom pipelines.cli import cli\n"
        "try:\n    cli(['--help'], prog_name='finetune')\nexcept SystemExit:\n    pass\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = {name for name in ast.literal_eval(done.stderr.splitlines()[-1]) if not name.startswith("_")}
    assert loaded == {"click", "pipelines", "steps"}


def test_every_file_is_short_enough_to_read_in_one_go():
    long = [f"{file.relative_to(ROOT)}" for file in files("steps/**/*.py", "pipelines/**/*.py") if _lines(file) > 400]
    assert long == []


def _lines(file: Path) -> int:
    return file.read_text("utf-8").count("\n")
