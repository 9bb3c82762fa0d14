"""verl as a process: its metrics, its end, and each way in which it fails, by verl's stand-in."""

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from training_inputs import as_imported
from verl_runs import row, stopped_at, training, write_rows

import steps.launch.children as children
from steps.errors import NumericError, Outage, OutOfResources, Preempted, StepError, UserError
from steps.params.settings import RewardSettings
from steps.sources.locks import locked
from steps.verl.failures import Output, error_of
from steps.verl.metrics import Logged, MetricsFile, file_from, read_all
from steps.verl.process import Running
from steps.verl.training import train_by_verl


@pytest.fixture
def model(tiny_model, tmp_path) -> Path:
    return as_imported(tiny_model, tmp_path / "model")


@pytest.fixture(autouse=True)
def _logged(caplog):
    caplog.set_level(logging.INFO, "finetune")


def running(tmp_path: Path, script: str, **changes) -> Running:
    """A run of a package verl whose trainer is a short script."""
    package = tmp_path / "stand_in" / "verl" / "trainer"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "main_ppo.py").write_text(script, "utf-8")
    seen: list[Logged] = changes.pop("seen", [])
    values = {
        "overrides": ["data.train_batch_size=2", "note='a b; $(touch ran)'"],
        "folder": tmp_path / "folder",
        "metrics": MetricsFile(tmp_path / "metrics.jsonl"),
        "on_step": seen.append,
        "on_look": lambda: None,
        "environment": {"PYTHONPATH": str(tmp_path / "stand_in")},
    }
    return Running(**{**values, **changes})


def test_arguments_arrive_as_they_are_and_no_shell_reads_them(tmp_path, caplog):
    running(tmp_path, "import sys; print(sys.argv[1:])").run()
    assert "['data.train_batch_size=2', \"note='a b; $(touch ran)'\"]" in caplog.text
    assert not (tmp_path / "folder" / "ran").exists()
    assert "note='a b; $(touch ran)'" in (tmp_path / "folder" / "verl.log").read_text("utf-8")


def test_metrics_are_handed_on_while_verl_runs(tmp_path):
    seen: list[Logged] = []
    script = (
        "import os, sys, time\n"
        "file = open(os.environ['VERL_FILE_LOGGER_PATH'], 'wb', buffering=0)\n"
        "for step in (1, 2):\n"
        '    file.write(b\'{"step":%d,"data":{"actor/loss":0.5,"name":"x","odd":null}}\\n\' % step)\n'
        'file.write(b\'{"step":3,"da\')\n'
    )
    one = running(tmp_path, script, seen=seen)
    one.run()
    assert [logged.step for logged in seen] == [1, 2]
    assert seen[0].values == {"actor/loss": 0.5, "odd": None}
    assert seen[0].finite == {"actor/loss": 0.5}
    assert one.step == 2


def test_secrets_in_verls_output_are_not_logged(tmp_path, caplog, monkeypatch):
    secret = "hf_" + "a1B2c3D4e5" * 4
    monkeypatch.setenv("HF_TOKEN", secret)
    running(tmp_path, "import os; print('token', os.environ['HF_TOKEN'])").run()
    assert secret not in caplog.text
    assert secret not in (tmp_path / "folder" / "verl.log").read_text("utf-8")


def test_a_signal_from_outside_is_told_as_that(tmp_path):
    with pytest.raises(OutOfResources, match=r"VERL-E0503 .*killed from outside \(SIGKILL\)"):
        running(tmp_path, "import os; os.kill(os.getpid(), 9)").run()


@pytest.mark.parametrize(
    ("number", "expected"), [(signal.SIGTERM, Preempted), (signal.SIGINT, KeyboardInterrupt)], ids=["SIGTERM", "Ctrl-C"]
)
def test_verl_is_asked_to_stop_and_all_that_it_started_ends(tmp_path, number, expected):
    (tmp_path / "folder").mkdir()
    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "own = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], start_new_session=True)\n"
        "print('children', child.pid, own.pid, 'waiting', flush=True)\n"
        "time.sleep(600)\n"
    )
    checkpoints = tmp_path / "checkpoints"
    one = running(tmp_path, script, folder=checkpoints / "verl")
    with pytest.raises(expected), stopped_at("waiting", checkpoints, number):
        one.run()
    told = (checkpoints / "verl" / "verl.log").read_text("utf-8").split()
    assert not any(is_running(int(pid)) for pid in told[1:3])


def is_running(pid: int) -> bool:
    for _ in range(50):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return False
        if state == "Z":
            return False
        time.sleep(0.1)
    return True


def test_a_verl_that_does_not_stop_is_killed(tmp_path, caplog):
    script = (
        "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('waiting', flush=True)\n"
        "time.sleep(600)\n"
    )
    checkpoints = tmp_path / "checkpoints"
    one = running(tmp_path, script, folder=checkpoints / "verl", grace=0.3)
    started = time.monotonic()
    with pytest.raises(Preempted), stopped_at("waiting", checkpoints):
        one.run()
    assert time.monotonic() - started < 30
    assert "verl does not stop: killing it" in caplog.text


def test_the_folder_stays_locked_while_a_verl_lives_whose_parent_is_gone(tmp_path, monkeypatch):
    monkeypatch.setattr("steps.sources.locks.LOCK_SECONDS", 0.2)
    lock = locked(tmp_path / ".lock", "a verl")
    one = running(tmp_path, "import time; time.sleep(600)", lock=lock)
    one.folder.mkdir()
    process = one._start()
    try:
        lock.close()
        with pytest.raises(Outage, match="CHECKPOINT-E0401"):
            locked(tmp_path / ".lock", "a verl")
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    locked(tmp_path / ".lock", "a verl").close()


def test_a_stop_before_the_start_starts_nothing_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr("steps.launch.children.was_asked_to_stop", lambda: True)
    with pytest.raises(Preempted, match="there is no checkpoint yet"):
        running(tmp_path, "import time; time.sleep(600)").run()


@pytest.mark.parametrize(
    ("line", "kind", "code", "number"),
    [
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", OutOfResources, "VERL-E0501", 5),
        ("ValueError: No available memory for the cache blocks. Try increasing", OutOfResources, "VERL-E0501", 5),
        ("ray.exceptions.OutOfMemoryError: Task was killed due to the node", OutOfResources, "VERL-E0502", 5),
        ("OSError: [Errno 28] No space left on device", OutOfResources, "VERL-E0504", 5),
        ("ERROR: Unexpected bus error; insufficient shared memory (shm)", OutOfResources, "VERL-E0505", 5),
        ("ValueError: Total available GPUs 1 is less than total desired GPUs 8", OutOfResources, "VERL-E0506", 5),
        ("AssertionError: Train dataloader is empty!", UserError, "VERL-E0206", 2),
        ("(x pid=7) ray.exceptions.ActorDiedError: The actor died unexpectedly", Outage, "VERL-E0405", 4),
        ("ray.exceptions.WorkerCrashedError: The worker died", Outage, "VERL-E0405", 4),
        ("vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue", Outage, "VERL-E0405", 4),
        ("[rank3]: Watchdog caught collective operation timeout: WorkNCCL", Outage, "VERL-E0405", 4),
        ("TypeError: unsupported operand", StepError, "VERL-E0070", 70),
    ],
)  # fmt: skip
def test_each_kind_of_failure_has_its_exit_code(line, kind, code, number):
    output = Output()
    output.add("\x1b[36m(WorkerDict pid=12, ip=10.0.0.1)\x1b[0m " + line)
    output.add("ray.exceptions.RayTaskError(Other): …")
    error = error_of(1, output, 3, None)
    assert type(error) is kind
    assert (error.problems[0].code, error.exit_code) == (code, number)
    assert "step 4" in str(error) or kind is UserError


def test_a_dead_actor_is_told_as_what_it_died_of():
    output = Output()
    output.add("ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task.")
    output.add("torch.OutOfMemoryError: CUDA out of memory.")
    assert error_of(1, output, 0, None).problems[0].code == "VERL-E0501"


def test_an_unknown_failure_shows_the_end_of_the_output():
    output = Output()
    for number in range(100):
        output.add(f"line {number}")
    error = error_of(1, output, 0, None)
    assert "line 98 | line 99" in str(error)
    assert "line 45" in error.__notes__[0]


def test_a_loss_that_is_not_finite_ends_the_training(tmp_path):
    script = (
        "import os, time\n"
        "file = open(os.environ['VERL_FILE_LOGGER_PATH'], 'wb', buffering=0)\n"
        'file.write(b\'{"step":7,"data":{"actor/loss":null}}\\n\')\n'
        "time.sleep(600)\n"
    )
    with pytest.raises(NumericError, match=r"VERL-E0604 step 7: found actor/loss that is NaN or infinite"):
        running(tmp_path, script).run()


def test_gradients_may_be_infinite_in_some_steps_which_verl_leaves_out(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [{"step": step, "data": {"actor/grad_norm": None if step % 5 else 1.0}} for step in range(1, 20)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(MetricsFile(file).new()) == 19
    lines = [{"step": step, "data": {"actor/grad_norm": None}} for step in range(1, 6)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(NumericError, match="in 5 steps in a row"):
        MetricsFile(file).new()


def test_each_start_has_metrics_of_its_own_and_they_are_joined(tmp_path):
    def log(start: int, *steps: int) -> None:
        lines = [{"step": step, "data": {"from": start}} for step in steps]
        file_from(tmp_path, start).write_text("".join(json.dumps(line) + "\n" for line in lines))

    log(0, 1, 2, 3)
    log(2, 3, 4, 5)
    assert [(one.step, one.values["from"]) for one in read_all(tmp_path)] == [(1, 0), (2, 0), (3, 2), (4, 2), (5, 2)]
    log(2, 3)  # once more from the same checkpoint
    assert [one.step for one in read_all(tmp_path)] == [1, 2, 3]
    log(0, 1)
    assert [(one.step, one.values["from"]) for one in read_all(tmp_path)] == [(1, 0)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fail", "code", "number"),
    [("oom:1", "VERL-E0501", 5), ("actor:1", "VERL-E0405", 4), ("nan:1", "VERL-E0604", 6),
     ("infinite:2", "VERL-E0605", 6), ("bug:1", "VERL-E0070", 70)],
)  # fmt: skip
def test_failures_of_the_trainer_leave_no_result(model, tmp_path, fail, code, number):
    with pytest.raises(StepError) as caught:
        train_by_verl(training(tmp_path, model, fail=fail, trainer_save_freq=100))
    assert (caught.value.problems[0].code, caught.value.exit_code) == (code, number)
    assert not (tmp_path / "tuned").exists()
    assert not (tmp_path / "merged").exists()


@pytest.mark.slow
def test_an_error_of_the_users_reward_is_told_with_its_line(model, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def score(data_source, solution_str, ground_truth, extra_info=None):\n    return 1 / 0\n")
    rewards = RewardSettings(reward_funcs=f"{file}:score")
    with pytest.raises(UserError, match=r"VERL-E0203 .*mine\.py:2 in score.*ZeroDivisionError") as caught:
        train_by_verl(training(tmp_path, model, rewards=rewards))
    assert caught.value.exit_code == 2


@pytest.mark.slow
def test_too_few_rows_are_an_error_of_the_data(model, tmp_path):
    write_rows(tmp_path / "data", [row(1)], [row(2)])
    with pytest.raises(UserError, match="VERL-E0206"):
        train_by_verl(training(tmp_path, model))


def test_this_process_keeps_its_handlers(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    running(tmp_path, "print(1)").run()
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_tracker_gets_names_that_mlflow_takes():
    from mlflow.utils.validation import _validate_metric_name

    one = Logged(3, {"val-core/openai/gsm8k/reward/mean@1": 0.5, "val-core/é/acc/best@4/mean": 0.25, "actor/lr": None})
    assert one.tracked == {"val-core/openai/gsm8k/reward/mean_at_1": 0.5, "val-core/_/acc/best_at_4/mean": 0.25}
    for name in one.tracked:
        _validate_metric_name(name)


def test_what_ended_by_itself_does_not_prevent_the_end_of_the_rest(monkeypatch):
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    ended, process = subprocess.Popen(command), subprocess.Popen(command, start_new_session=True)
    found = psutil.Process(ended.pid)
    ended.kill()
    ended.wait()
    monkeypatch.setattr(children, "_descendants", lambda _: [found])
    children.end_group(process, 0.0, "it")
    assert process.returncode == -signal.SIGKILL
