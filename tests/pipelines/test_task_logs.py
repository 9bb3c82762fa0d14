"""What a person sees of a task of KFP: the end of its log and its termination message, through a task's own program."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import FINETUNE, with_our_code
from waiting import LONG

from steps.messages import columns

# Runs KFP's entry of our images with a step that does what its settings say, and another termination log.
PROGRAM = """
import os, sys
from pathlib import Path

from steps import outages, outcome, running
from steps.errors import NumericError, Outage, OutOfResources, Preempted, Problem, SecurityRefusal, UserError

outcome.TERMINATION_LOG = outages.TERMINATION_LOG = Path(os.environ["TEST_TERMINATION_LOG"])
outages.WAITS = tuple(map(float, os.environ.get("TEST_WAITS", "0.1 0.2").split()))
STARTED = []


def step(plan: Path, evaluation: Path, report: Path):
    STARTED.append(1)
    print("printed by the step", end="")
    exec(os.environ["TEST_STEP"], globals())


running.load = lambda name: step
from pipelines import in_pod

if lines := os.environ.get("TEST_FUNCTION"):
    from pipelines.components import Artifact, HTML, Input, Output

    def function(plan: Input[Artifact], evaluation: Input[Artifact], run_report: Output[HTML]):
        exec(lines, globals())

    in_pod.function_of = lambda *names: function
if running.RECORDS not in os.environ:  # as the module does when it is run
    running.mask_children()
in_pod.main(sys.argv[1:])
"""
ROW = 'Problem("DATA-E0412", "train.jsonl:7 messages[1].role", "\'bot\'", "one of system, user", "rename the role")'
ADDRESS = "s3://bucket/" + "folder-with-a-long-name/" * 8 + "train.jsonl"
FAR = f'Problem("URI-E0201", "train_file_path", "nothing at \'{ADDRESS}\'", "a file", "correct it")'
ENDS = {
    "a user error": (f"raise UserError([{ROW}, {FAR}])", 2, "user error"),
    "a refusal": (f"raise SecurityRefusal({ROW})", 3, "refused for security"),
    "an outage": (f"raise Outage({FAR})", 4, "not available"),
    "a service that is silent": ("raise ConnectionRefusedError('x')", 4, "not available"),
    "memory": ("raise MemoryError()", 5, "not enough resources"),
    "numbers": (f"raise NumericError({ROW})", 6, "NaN or infinity"),
    "a bug": ("{}['x']", 70, "bug"),
    "an exit of a user's function": ("raise SystemExit(0)", 70, "bug"),
    "a checkpoint": (f"raise Preempted({ROW}, resume_from='/c/checkpoint-9')", 143, "stopped from outside"),
}


def words(place: Path, name: str = "report", *inputs: str, **values: object) -> list[str]:
    """Return what KFP's backend passes to a task: a name, and its inputs and outputs with their places."""
    artifacts = {key: {"artifacts": [{"name": key, "uri": str(place / key), "type": {}}]} for key in inputs}
    given = {
        "inputs": {"artifacts": artifacts, "parameterValues": values},
        "outputs": {"artifacts": {"run_report": {"artifacts": [{"name": "run_report", "uri": str(place / "report"),
                                                                "type": {"schemaTitle": "system.HTML"}}]}},
                    "outputFile": str(place / "output.json")},
    }  # fmt: skip
    return ["kfp.dsl.executor_main", name, "--executor_input", json.dumps(given), "--function_to_execute", name]


def environment(place: Path, **more: str) -> dict[str, str]:
    """Return the environment of a task in a pod, with a termination log."""
    file = place / "termination-log"
    file.write_text("")
    return {**with_our_code(), "KFP_POD_NAME": "chat-1-impl-1", "TEST_TERMINATION_LOG": str(file), **more}


def command(place: Path) -> list[str]:
    return [sys.executable, "-c", PROGRAM, *words(place, "report", "plan", "evaluation")]


def run(place: Path, step: str, **more: str) -> tuple[int, list[str], str]:
    """Run a task; return its exit code, the lines of its log and its termination message."""
    done = subprocess.run(command(place), env=environment(place, TEST_STEP=step, **more), stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True)  # fmt: skip
    return done.returncode, done.stdout.splitlines(), (place / "termination-log").read_text("utf-8")


def block(log: list[str]) -> list[str]:
    """Return the last lines of a log, from the last one that begins with ERROR."""
    start = max(number for number, line in enumerate(log) if line.startswith("ERROR"))
    return log[start:]


@pytest.mark.parametrize("kind", ENDS)
def test_the_log_of_a_failed_task_ends_with_lines_that_the_viewer_shows(tmp_path, kind):
    settings, code, meaning = ENDS[kind]
    got, log, _ = run(tmp_path, settings)
    end = block(log)
    assert got == code
    assert end[0].startswith(f"ERROR report ended with code {code} ({meaning})")
    assert len(end) <= 30
    assert all(columns(line) <= 80 for line in end)
    assert any(line.startswith("Fix: ") for line in end)
    assert not any(line.startswith("{") for line in log)  # the JSON is in the termination message
    assert sum("Traceback" in line for line in log) == (code == 70)
    assert any(line.startswith("printed by the step") for line in log)
    if "UserError" in settings:
        assert ADDRESS in "".join(end)


@pytest.mark.parametrize("kind", ENDS)
def test_the_termination_message_begins_with_the_sentence_for_people(tmp_path, kind):
    settings, code, meaning = ENDS[kind]
    _, _, message = run(tmp_path, settings)
    first, last = message.split("\n")
    assert first.startswith(f"report ended with code {code} ({meaning})")
    assert re.search(r": found .*; expected .*\. Fix: ", first)
    told = json.loads(last)
    assert (told["code"], told["step"], told["retryable"]) == (code, "report", code in (4, 143))
    assert all(told[part] for part in ("where", "found", "expected", "fix"))
    assert told["resume_from"] == ("/c/checkpoint-9" if code == 143 else "")
    assert len(message.encode()) < 2048


def test_the_log_of_a_task_has_only_lines_of_ours(tmp_path):
    code, log, message = run(tmp_path, "print(); import logging; logging.getLogger('finetune').info('ours')")
    assert (code, log, message) == (0, ["printed by the step", "ours"], "")
    assert "run_report" in json.loads((tmp_path / "output.json").read_text())["artifacts"]  # KFP's executor went on


def test_a_warning_of_a_library_stands_in_the_log_without_kfps_prefix(tmp_path):
    _, log, _ = run(tmp_path, "print(); import logging; logging.getLogger('lib').warning('odd')")
    assert log[-1] == "WARNING: odd"


LATER = {
    "at exit": "import atexit; atexit.register(lambda: print('later'))",
    "of a thread": "import threading, time; "
                   "threading.Thread(target=lambda: [time.sleep(0.3), print('later', flush=True)]).start()",
    "of the system": "import atexit, os; atexit.register(lambda: os.write(2, b'later'))",
    "of an object": "import sys; sys.kept = type('Kept', (), {'__del__': lambda self: print('later')})()",
    "of logging": "import atexit, logging; atexit.register(lambda: logging.getLogger('lib').warning('later'))",
}  # fmt: skip


@pytest.mark.parametrize("what", LATER)
def test_nothing_follows_the_error(tmp_path, what):
    code, log, _ = run(tmp_path, f"{LATER[what]}; raise UserError({ROW})")
    assert (code, log[-1]) == (2, "Fix: rename the role.")


OUTSIDE = {
    "a bug": ("{}['x']", 70, "BUG-E0070"),
    "a full disk": ("raise OSError(28, 'No space left on device', '/data/x')", 5, "DISK-E0102"),
    "our own": (f"from steps.errors import Problem, UserError; raise UserError({ROW})", 2, "DATA-E0412"),
}


@pytest.mark.parametrize("kind", OUTSIDE)
def test_what_is_raised_beside_the_step_is_told_in_the_same_way(tmp_path, kind):
    function, code, named = OUTSIDE[kind]
    got, log, message = run(tmp_path, "", TEST_FUNCTION=function)
    end = block(log)
    assert got == code
    assert end[0].startswith(f"ERROR report ended with code {code}")
    assert end[1].startswith(named)
    assert json.loads(message.split("\n")[1])["code"] == code
    assert sum("Traceback" in line for line in log) == (code == 70)


def test_a_lost_artifact_is_told_at_once_by_the_real_program(tmp_path):
    program = [sys.executable, "-m", "pipelines.in_pod", *words(tmp_path, "report", "plan", "evaluation")]
    done = subprocess.run(
        program, env=environment(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    log = done.stdout.splitlines()
    assert done.returncode == 4
    assert block(log) == log[1:]
    assert log[1] == "ERROR report ended with code 4 (not available)"
    assert log[2].startswith("ARTIFACT-E0101")


def test_a_local_run_is_told_as_before(tmp_path):
    # The local runner reads the error from its records, and shows it on the terminal.
    records = tmp_path / "records"
    records.mkdir()
    code, log, _ = run(tmp_path, f"raise UserError({ROW})", STEP_RECORDS=str(records))
    assert code == 2
    assert json.loads(log[-1])["problems"][0].startswith("DATA-E0412")
    assert not any(line.startswith("ERROR") for line in log)
    (record,) = records.glob("*-report.json")
    assert json.loads(record.read_text())["error"]["code"] == 2


def test_a_step_from_a_shell_prints_its_json_also_in_a_pod(tmp_path):
    command = [sys.executable, "-m", "steps", "report", "--plan", "no", "--evaluation", "no", "--report", "no"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == json.loads(done.stderr.splitlines()[-1])["code"] == 4
    assert "ERROR" not in done.stderr


def test_a_command_in_a_pod_prints_only_its_json(tmp_path):
    command = [*FINETUNE, "plan", "chat_completion", "--json", "-p", "lora_r=0"]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == json.loads(done.stdout)["error"]["code"] == json.loads(done.stderr)["code"] == 2


def test_an_outage_is_waited_for(tmp_path):
    settings = f"print(); len(STARTED) < 3 and exec('''raise Outage({FAR})''')"
    code, log, message = run(tmp_path, settings)
    assert (code, message) == (0, "")
    waits = [line for line in log if "trying again" in line]
    assert [line.partition(": ")[0] for line in waits] == [
        "not available, trying again in 0.1 s (2 of 3)",
        "not available, trying again in 0.2 s (3 of 3)",
    ]


@pytest.mark.parametrize(
    "settings",
    [
        f"raise UserError({ROW})",
        f"raise Outage({ROW}, transient=False)",
        "from steps.artifacts import read_manifest; read_manifest(Path('/nowhere'), 'model')",
        "raise OSError(28, 'No space left on device', '/data/x')",
    ],
)
def test_what_another_try_cannot_change_is_told_at_once(tmp_path, settings):
    code, log, _ = run(tmp_path, settings, TEST_WAITS="60 60")
    assert code in (2, 4, 5)
    assert not any("trying again" in line for line in log)


def test_nobody_waits_on_a_laptop(tmp_path):
    env = environment(tmp_path, TEST_WAITS="1000 1000", TEST_STEP=f"raise Outage({FAR})")
    del env["KFP_POD_NAME"]
    (tmp_path / "termination-log").unlink()
    started = time.monotonic()
    done = subprocess.run(command(tmp_path), env=env, capture_output=True, text=True)
    assert done.returncode == 4
    assert time.monotonic() - started < LONG


def test_a_task_that_waits_leaves_at_once_when_it_is_stopped(tmp_path):
    env = environment(tmp_path, TEST_WAITS="1000 1000", TEST_STEP=f"raise Outage({FAR})")
    process = subprocess.Popen(command(tmp_path), env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    while "trying again" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    log = process.stdout.read().splitlines()
    assert process.wait() == 143
    assert time.monotonic() - started < LONG
    assert block(log)[0] == "ERROR report ended with code 143 (stopped from outside)"


FINISHED = """
import os, signal, subprocess, sys
from steps import running
running.load = lambda name: lambda: None
running.run_step("report")
os.kill(os.getpid(), signal.SIGTERM)
child = subprocess.Popen([sys.executable, "-c", "print('begun', flush=True); import time; time.sleep(60)"], stdout=-1)
child.stdout.readline()
child.send_signal(signal.SIGTERM)
print("child", child.wait())
"""


def test_a_finished_step_ignores_a_request_to_stop_and_its_children_do_not():
    done = subprocess.run([sys.executable, "-c", FINISHED], env=with_our_code(), capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["child -15"]), done.stderr


BARS = """
import os, sys
print()
from tqdm import tqdm as plain
from tqdm.auto import tqdm as auto
from huggingface_hub.utils import tqdm as hub
from datasets.utils import tqdm as datasets
from transformers.utils.logging import tqdm as transformers
for bar in (plain, auto, hub, datasets, transformers):
    list(bar(range(3), desc="Writing model shards"))
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
print("mlflow", MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.get())
"""


@pytest.mark.parametrize("ci", ["", "true"])
def test_no_library_draws_progress_bars_into_the_log_of_a_task(tmp_path, ci):
    code, log, _ = run(tmp_path, BARS, CI=ci)
    assert code == 0
    assert log[-1] == "mlflow False"
    assert not any("Writing model shards" in line or "%|" in line for line in log)


def test_a_user_keeps_progress_bars(tmp_path):
    _, log, _ = run(tmp_path, BARS, STEP_RECORDS=str(tmp_path))
    assert sum("Writing model shards: 100%" in line for line in log) >= 3
