"""A sweep on this machine: shared work is done once, the best trial is the one that single runs name."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from command_line import FINETUNE
from conftest import chat_rows, write_jsonl
from grids import long_but
from sweeping import (
    SETTINGS,
    begun,
    finished_in,
    preparations,
    swept,
    table,
    tracked,
    versions,
    weights,
)

from pipelines.sweeping.folder import DESCRIPTION, FACTS, SweepFolder, sweep_folder
from pipelines.sweeping.handle import Sweep, SweepFailed
from pipelines.sweeping.run import drive
from steps.errors import UserError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("warm_module")]

RATES = [1e-3, 3e-3, 1e-2, 3e-2]
EIGHT = {"learning_rate": RATES, "lora_r": [4, 8]}
FOUR = {"learning_rate": RATES[1:3], "lora_r": [4, 8]}
TWO = {"learning_rate": RATES[:2]}
ONE = {"learning_rate": RATES[:1]}


@pytest.fixture
def given(tiny_model, chat_file) -> dict:
    return {**SETTINGS, "pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file)}


@pytest.mark.parametrize("space", long_but([FOUR], [FOUR, EIGHT]), ids=["four", "eight"])
def test_trials_share_one_import_and_one_preparation_and_name_the_best_of_as_many_runs(space, given, runs_root):
    from pipelines.runs import run

    sweep = swept(runs_root, given, space, max_parallel=2)
    count = len(space["learning_rate"]) * len(space["lora_r"])
    assert preparations(sweep.folder) == (1, 1)
    assert finished_in(sweep.folder) == [1] * count
    assert sweep.facts["cost"] == {**sweep.facts["cost"], "trainings": count, "preparations": 1}
    assert versions(runs_root) == [("chat_completion", "1")]
    assert tracked(runs_root) == [("sweep s", "FINISHED"), *((f"trial {one}", "FINISHED") for one in range(count))]
    best = sweep.best
    assert best["score"] == min(trial["score"] for trial in sweep.facts["trials"])
    alone = runs_root.with_name("alone")
    result = run("chat_completion", {**given, **best["parameters"]}, alone, True, True)
    tuned = sweep.folder.path / f"trials/{best['number']:04}/tuned"
    assert weights(tuned) == weights(Path(result["artifacts"]["tuned"])) != {}
    merged = sweep.folder.path / f"best/{best['number']:04}/merged"
    assert weights(merged) == weights(Path(result["artifacts"]["merged"])) != {}
    assert sweep.final["metrics"]["tuned"] == result["metrics"]["tuned"]


def test_the_score_of_every_trial_is_that_of_a_single_measurement(ended_sweep, tmp_path):
    from steps.evaluate.measuring import measure
    from steps.params.settings import TrialSettings

    sweep = Sweep(ended_sweep)
    for trial in sweep.facts["trials"]:
        folder = sweep.folder.path / f"trials/{trial['number']:04}"
        settings = TrialSettings.model_validate_json((folder / "settings.json").read_text())
        base, data = (sweep.folder.shared(kind, 0) for kind in ("models", "data"))
        (scratch := tmp_path / str(trial["number"])).mkdir()
        assert measure(settings.measuring, base, folder / "tuned", data, scratch)["score"] == trial["score"]


def test_only_what_changes_the_data_or_the_model_is_prepared_again(given, tiny_model, runs_root, tmp_path):
    other = shutil.copytree(tiny_model, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    trials = [
        {"learning_rate": 1e-3, "max_seq_length": 64, "pytorch_model_path": str(tiny_model)},
        {"learning_rate": 1e-3, "max_seq_length": 48, "pytorch_model_path": str(tiny_model)},
        {"learning_rate": 1e-3, "max_seq_length": 64, "pytorch_model_path": str(other)},
    ]
    sweep = swept(runs_root, given, trials=trials)
    assert preparations(sweep.folder) == (2, 3)
    assert {trial["state"] for trial in sweep.facts["trials"]} == {"finished"}


def test_a_diverging_rate_is_a_row_with_its_reason_and_a_gate_that_is_not_passed_registers_nothing(given, runs_root):
    sweep = swept(runs_root, {**given, "gate_max_value": 0.001}, {"learning_rate": [1e-3, 1e30]})
    good, bad = sweep.facts["trials"]
    assert (good["state"], bad["state"], bad["error"]["code"]) == ("finished", "failed", 6)
    assert "lower learning_rate" in bad["reason"]
    assert bad["reason"] in repr(sweep)
    assert sweep.final["registered"] is None
    assert "none registered" in repr(sweep)
    assert versions(runs_root) == []


def test_a_sweep_of_which_all_trials_fail_ends_with_their_code_and_reason(given, runs_root):
    folder = begun(runs_root, given, {"learning_rate": [1e29, 1e30]})
    outcome = drive(folder, lambda line: None)
    assert (outcome["state"], outcome["error"]["code"]) == ("failed", 6)
    assert "lower learning_rate" in outcome["error"]["problems"][0]
    with pytest.raises(SweepFailed, match="learning_rate"):
        Sweep(folder).wait(show=False)


def test_another_description_is_refused_and_a_larger_budget_goes_on(given, runs_root):
    first = swept(runs_root, given, {"learning_rate": RATES}, budget=1)
    before = weights(first.folder.path / "best/0000/merged")
    with pytest.raises(UserError, match="SWEEP-E0306"):
        begun(runs_root, {**given, "seed": 7}, {"learning_rate": RATES}, budget=1)
    more = swept(runs_root, given, {"learning_rate": [*RATES]}, budget=3, max_parallel=2)
    assert finished_in(more.folder) == [1, 1, 1]
    best = more.best["number"]
    assert best != 0  # else the test shows nothing
    assert weights(more.folder.path / f"best/{best:04}/merged") != before
    assert weights(more.folder.path / "best/0000/merged") == before  # version 1 needs it
    assert sorted(versions(runs_root)) == [("chat_completion", "1"), ("chat_completion", "2")]


@pytest.fixture(scope="module")
def two_trials(tiny_model, tmp_path_factory, warm_module) -> Path:
    """A root with a finished sweep of two trials."""
    place = tmp_path_factory.mktemp("two")
    rows = write_jsonl(place / "chat.jsonl", chat_rows(60))
    swept(place / "runs", {**SETTINGS, "pytorch_model_path": str(tiny_model), "train_file_path": str(rows)}, TWO)
    return place / "runs"


@pytest.fixture
def ended_sweep(two_trials, runs_root) -> SweepFolder:
    """A copy of it."""
    shutil.copytree(two_trials / "sweeps", runs_root / "sweeps")
    return sweep_folder(runs_root, "s")


DAMAGED = [DESCRIPTION, "shared.json", "trials/0000/asked.json",
           "trials/0000/settings.json", "trials/0000/measured/trial.json"]  # fmt: skip
CONTENT = ["", '{"a": ', "[]", "\x00\x00"]


def error_of(folder: SweepFolder) -> dict:
    """Start a sweep, and return the error with which it ends."""
    try:
        return drive(folder, lambda line: None)["error"]
    except UserError as error:
        return error.as_json("sweep")


CASES = [*((name, CONTENT[1]) for name in DAMAGED), *((DAMAGED[2], content) for content in CONTENT)]


@pytest.mark.parametrize(("name", "content"), CASES)
def test_a_damaged_file_is_told(name, content, ended_sweep):
    (ended_sweep.path / name).write_text(content)
    error = error_of(ended_sweep)
    assert error["problems"][0].startswith("SWEEP-E0307")
    assert (error["where"], error["code"]) == (str(ended_sweep.path / name), 2)
    assert "delete" in error["fix"]


@pytest.mark.long
def test_changed_data_are_refused_by_a_random_search_and_nothing_is_lost(given, runs_root):
    space = {"learning_rate": {"low": 1e-4, "high": 1e-2, "log": True}}
    refuses_changed_data(swept(runs_root, given, space, budget=2, search="random"), Path(given["train_file_path"]))


def test_changed_data_are_refused_and_nothing_is_lost(ended_sweep, two_trials):
    rows = two_trials.parent / "chat.jsonl"
    before = rows.read_bytes()
    try:
        refuses_changed_data(Sweep(ended_sweep), rows)
    finally:
        rows.write_bytes(before)  # other tests read it


def refuses_changed_data(sweep: Sweep, rows: Path) -> None:
    before = table(sweep)
    write_jsonl(rows, chat_rows(61))
    outcome = drive(sweep.folder, lambda line: None)
    assert outcome["error"]["problems"][0].startswith("SWEEP-E0304")
    assert outcome["error"]["code"] == 2
    assert table(sweep) == before


def test_facts_that_are_damaged_are_made_again(ended_sweep):
    (ended_sweep.path / FACTS).write_text("{")
    (ended_sweep.path / "trials/0000/planned.json").write_text("{")
    assert Sweep(ended_sweep).facts["trials"] == []
    assert drive(ended_sweep, lambda line: None)["state"] == "finished"
    assert len(table(Sweep(ended_sweep))) == 2


def test_a_trial_whose_folder_was_deleted_is_trained_again_and_no_other(ended_sweep):
    before = table(Sweep(ended_sweep))
    shutil.rmtree(ended_sweep.path / "trials/0000")
    assert drive(ended_sweep, lambda line: None)["state"] == "finished"
    assert table(Sweep(ended_sweep)) == before
    assert finished_in(ended_sweep) == [1, 1]


def damage(folder: Path, name: str) -> tuple[Path, bytes]:
    """Change one bit in the middle of the first file with this name; return the file and what it was."""
    file = next(iter(sorted(folder.rglob(name))))
    before = file.read_bytes()
    middle = len(before) // 2
    file.write_bytes(before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :])
    return file, before


def test_damage_of_what_the_last_steps_read_is_made_anew(ended_sweep):
    before = table(Sweep(ended_sweep))
    best = f"{Sweep(ended_sweep).best['number']:04}"
    trial = ended_sweep.path / "trials" / best
    files = [damage(ended_sweep.path / name, "*.safetensors") for name in ("models", f"trials/{best}/tuned")]
    files += [damage(ended_sweep.path / name, file) for name, file in (("tokenizers", "tokenizer.json"),
              ("data", "*.parquet"), (f"best/{best}/merged", "*.safetensors"))]  # fmt: skip
    told: list[str] = []
    assert drive(ended_sweep, told.append)["state"] == "finished", told
    assert [file.name for file, content in files if file.read_bytes() != content] == []
    assert table(Sweep(ended_sweep)) == before
    assert any("its model is damaged" in line for line in told)
    assert finished_in(ended_sweep).count(2) == 1
    assert trial.joinpath("log.txt").read_text().count("on the validation rows\n") == 2


def test_a_score_that_was_changed_is_told(ended_sweep):
    file = ended_sweep.path / "trials/0001/measured/trial.json"
    result = json.loads(file.read_text())
    file.write_text(json.dumps({**result, "score": 0.001}))
    assert error_of(ended_sweep)["problems"][0].startswith("SWEEP-E0307")


def test_three_wrong_trials_of_eight_are_told_before_anything_is_written(given, tmp_path):
    file = tmp_path / "sweep.yaml"
    trials = [{"learning_rate": 1e-3 * (1 + one)} for one in range(5)]
    trials += [{"learning_rate": -1.0}, {"lora_r": 0, "learning_rate": 1e-3}, {"learning_rate": "fast"}]
    trials = [{"lora_r": 4, **trial} for trial in trials]
    file.write_text(json.dumps({"pipeline": "chat_completion", "parameters": given, "trials": trials}))
    command = [*FINETUNE, "sweep", "-f", str(file), "--root", str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    told = done.stderr.split("\n{")[0]
    assert all(word in told for word in ("-1.0", "lora_r", "fast")), told
    assert not (tmp_path / "runs/sweeps").exists()


def test_a_root_with_spaces_and_quotes_and_odd_and_long_texts(given, tmp_path):
    root = tmp_path / 'it\'s a "root" {{$.x}} python3'
    rows = write_jsonl(tmp_path / "it's {{$.x}} python3.jsonl", chat_rows(60))
    sweep = swept(root, {**given, "train_file_path": str(rows), "experiment_name": "it's {{$.x}} python3"}, ONE)
    assert versions(root) == [("chat_completion", "1")]
    assert sweep.final["gate"]["passed"]


@pytest.mark.long
def test_settings_that_are_too_long_for_an_argument_are_passed_as_a_file(given, runs_root):
    roles = {f"a role with the number {number}": "user" for number in range(5_000)}
    sweep = swept(runs_root, {**given, "role_map": roles}, ONE)
    assert sweep.state == "finished"
    assert (sweep.folder.path / "data/0.settings").stat().st_size > 131_072
