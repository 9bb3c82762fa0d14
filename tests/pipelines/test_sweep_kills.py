"""A sweep on this machine that is killed or stopped at any moment goes on, and ends as an undisturbed one."""

import os
import random
import signal
import subprocess
import time

import pytest
from grids import long_but
from sweeping import (
    SETTINGS,
    begun,
    belonging,
    driver,
    events,
    facts_of,
    finished_in,
    left,
    swept,
    table,
    tracked,
    trainer_of,
    versions,
    weights,
    when,
)  # fmt: skip

from pipelines.sweeping.folder import SweepFolder
from pipelines.sweeping.handle import Sweep
from pipelines.sweeping.run import drive
from steps.errors import UserError

pytestmark = pytest.mark.slow

RATES = [1e-3, 3e-3, 1e-2, 3e-2]
TWO = {"learning_rate": RATES[:2]}
SEED = 16
# Name → kills, trials at the same time, space, options of the sweep.
CASES = {
    "grid": (4, 2, {"learning_rate": RATES, "lora_r": [4, 8]}, {}),
    "tpe": (3, 1, {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "lora_r": [4, 8]},
            {"search": "tpe", "budget": 6}),
    "grid, many times": (20, 2, {"learning_rate": RATES, "lora_r": [4, 8]}, {}),
}  # fmt: skip
# Also with a sampler a sweep goes on from its folder alone; test_sweep_search.py has that it then chooses the same.


@pytest.fixture
def given(tiny_model, chat_file) -> dict:
    return {**SETTINGS, "pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file)}


@pytest.mark.long
@pytest.mark.parametrize("case", CASES)
def test_a_sweep_that_is_killed_at_random_moments_ends_as_an_undisturbed_one(case, given, runs_root):
    kills, parallel, space, more = CASES[case]
    reference = swept(runs_root.with_name("reference"), given, space, max_parallel=parallel, **more)
    folder = begun(runs_root, {**given, "save_steps": 3}, space, max_parallel=parallel, **more)
    chance = random.Random(SEED)
    for _ in range(kills):
        process = driver(folder)
        moment, pause = events(folder) + chance.randrange(40), chance.uniform(0, 1)
        if when(folder, process, lambda: events(folder) >= moment):  # noqa: B023
            time.sleep(pause)
        process.kill()
        process.wait()
    assert driver(folder).wait(timeout=500) == 0
    assert table(Sweep(folder)) == table(reference)
    assert Sweep(folder).final["metrics"] == reference.final["metrics"]
    count = len(table(reference))
    assert finished_in(folder) == [1] * count
    assert versions(runs_root) == [("chat_completion", "1")]
    assert tracked(runs_root) == sorted([("sweep s", "FINISHED"), *((f"trial {n}", "FINISHED") for n in range(count))])
    best = f"best/{reference.best['number']:04}/merged"
    assert weights(folder.path / best) == weights(reference.folder.path / best) != {}
    assert left(folder) == []


def test_a_stopped_sweep_goes_on_in_another_process(given, runs_root, warm_folder):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FINETUNE_WARM", str(warm_folder))
        reference = swept(runs_root.with_name("reference"), given, TWO)
    sweep = Sweep(begun(runs_root, {**given, "save_steps": 3}, TWO))
    sweep.resume()
    while not (sweep.folder.path / "trials/0000/curve.jsonl").exists():
        time.sleep(0.02)
    assert sweep.state == "running"
    with pytest.raises(UserError, match="SWEEP-E0302"):
        drive(sweep.folder, lambda line: None)
    assert sweep.stop().state == "stopped"
    assert Sweep.open("s", runs_root).resume().wait(show=False).state == "finished"
    assert [row[2:4] for row in table(sweep)] == [row[2:4] for row in table(reference)]
    assert finished_in(sweep.folder) == [1, 1]
    assert versions(runs_root) == [("chat_completion", "1")]


@pytest.mark.parametrize("how", long_but(["group SIGKILL"], ["SIGTERM", "SIGINT", "group SIGKILL"]))
def test_a_driver_that_is_ended_leaves_no_process_and_loses_no_finished_step(how, given, runs_root):
    given = {**given, "num_train_epochs": 40}
    folder = begun(runs_root, given, TWO, max_parallel=2)
    process = driver(folder)
    assert when(folder, process, lambda: len(list(folder.path.glob("trials/*/curve.jsonl"))) == 2)
    if how == "SIGTERM":
        process.terminate()
    else:
        os.killpg(process.pid, signal.SIGINT if how == "SIGINT" else signal.SIGKILL)
    code = process.wait(timeout=300)
    assert code == (-signal.SIGKILL if "KILL" in how else 143)
    assert left(folder) == []
    assert Sweep(folder).state == "stopped"
    if "KILL" not in how:
        assert {trial["state"] for trial in facts_of(folder)["trials"]} <= {"waiting", "running"}
        saved = list(runs_root.glob("checkpoints/chat_completion/*/checkpoint-*/manifest.json"))
        assert len({file.parents[1] for file in saved}) == 2


def begun_again(folder: SweepFolder, process, count: int) -> bool:
    """Wait until the first trial has begun its training `count` times."""
    log = folder.path / "trials/0000/log.txt"
    return when(folder, process, lambda: log.exists() and log.read_text().count("training from step") >= count)


@pytest.mark.long
def test_the_end_of_a_trials_process_or_of_the_warm_one_is_no_loss(given, runs_root):
    folder = begun(runs_root, {**given, "num_train_epochs": 10}, {"learning_rate": RATES[:3]})
    process = driver(folder)
    for count in (1, 2):
        assert begun_again(folder, process, count)
        trainer_of(folder, 0).kill()
    assert when(folder, process, lambda: (folder.path / "trials/0000/measured").exists())
    servers = [one for one in belonging(folder) if "pipelines.warm" in one.cmdline()]
    min(servers, key=lambda one: one.create_time()).kill()
    assert process.wait(timeout=300) == 0
    assert {trial["state"] for trial in facts_of(folder)["trials"]} == {"finished"}
    assert (folder.path / "log.txt").read_text().count("SIGKILL; it is tried again") == 2
    assert left(folder) == []


@pytest.mark.long
def test_a_trial_whose_process_is_killed_each_time_is_a_failed_row(given, runs_root):
    folder = begun(runs_root, {**given, "num_train_epochs": 40}, {"learning_rate": RATES[:1], "lora_r": [4]})
    process = driver(folder)
    for count in (1, 2, 3):
        assert begun_again(folder, process, count)
        trainer_of(folder, 0).kill()
    assert process.wait(timeout=300) == 5
    assert "SIGKILL" in facts_of(folder)["trials"][0]["reason"]


@pytest.mark.long
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a small disk")
def test_a_full_disk_ends_the_sweep_which_goes_on_with_space(given, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2500k", "tmpfs", str(small)], capture_output=True)
    if mount.returncode:
        pytest.skip("no mounts here")
    try:
        folder = begun(small / "runs", given, TWO)
        outcome = drive(folder, lambda line: None)
        assert (outcome["state"], outcome["error"]["code"]) == ("failed", 5)
        subprocess.run(["mount", "-o", "remount,size=200m", str(small)], check=True)
        assert drive(folder, lambda line: None)["state"] == "finished"
        assert {trial["state"] for trial in facts_of(folder)["trials"]} == {"finished"}
    finally:
        subprocess.run(["umount", "-l", str(small)], check=True)
