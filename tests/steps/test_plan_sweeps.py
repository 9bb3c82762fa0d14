"""The plan of a sweep: what it refuses, and its page."""

import json
import re
from pathlib import Path

import pytest

from steps.errors import UserError
from steps.plan.step import plan
from steps.plan.sweeps import decide_sweep
from steps.reports import write_plan_report

TRIALS = [{"learning_rate": 1e-3}, {"learning_rate": 1e-4}]
PRUNED = {"pruner": "median", "evaluation_strategy": "steps", "eval_steps": 2}


@pytest.fixture
def given(tiny_model, chat_file, monkeypatch) -> dict:
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    return {"pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file), "trials": TRIALS,
            "mlflow_server_uri": "http://mlflow:5000"}  # fmt: skip


def codes(given: dict) -> list[str]:
    try:
        decide_sweep("chat_completion_sweep", given)
    except UserError as error:
        return [problem.code for problem in error.problems]
    return []


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"overrides": "x"}, "PARAM-E0106"),
        ({"learning_rate": "much"}, "PARAM-E0103"),  # although each trial has its own
        ({"huggingface_revision": "\ud800"}, "PARAM-E0121"),
    ],
)
def test_what_all_trials_are_given_is_refused_by_itself(given, changes, code):
    assert codes({**given, **changes}) == [code]


@pytest.mark.parametrize("pruner", ["median", "successive_halving"])
@pytest.mark.parametrize(
    ("changes", "local", "expected"),
    [
        ({}, False, ["SWEEP-E0207"]),
        ({"checkpoint_dir": "/shared/checkpoints"}, False, []),
        ({}, True, []),  # the trials of this machine share a folder
        ({"overrides": {"checkpoint_dir": "/shared/checkpoints"}}, False, []),
        ({"evaluation_strategy": "no"}, False, ["SWEEP-E0206", "SWEEP-E0207"]),
        ({"evaluation_strategy": "no"}, True, ["SWEEP-E0206"]),
        ({"parallelism": 1}, False, ["SWEEP-E0207"]),  # one after another, but each in a pod of its own
    ],
)
def test_pruning_needs_a_folder_that_all_pods_share(given, tmp_path, monkeypatch, pruner, changes, local, expected):
    if local:
        monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    assert codes({**given, **PRUNED, "pruner": pruner, **changes}) == expected


@pytest.mark.parametrize("name", ["rates", "my sweep", "../other", "größe", "a" * 101])
def test_any_name_of_a_sweep_has_a_folder_for_its_curves(given, name):
    asked = {**given, **PRUNED, "checkpoint_dir": "/shared/checkpoints"}
    decided = [decide_sweep("chat_completion_sweep", {**asked, "sweep_name": one}) for one in (name, name, "another")]
    folders = [{trial.settings.training.pruning.sweep for trial in one.trials} for one in decided]
    assert folders[0] == folders[1] != folders[2]
    assert len(folders[0]) == 1
    assert folders[0] == {name} or name != "rates"
    assert decided[0].name == name


def test_curves_cannot_be_shared_in_an_object_store(given, memory):
    with pytest.raises(
        UserError, match=r"SWEEP-E0207 pruner: found median with checkpoint_dir=memory://b/x; .*to such a"
    ):
        decide_sweep("chat_completion_sweep", {**given, **PRUNED, "pruner": "median", "checkpoint_dir": "memory://b/x"})
    assert codes({**given, "pruner": "none", "checkpoint_dir": "memory://b/x"}) == []


def test_without_pruner_no_folder_is_needed(given):
    assert codes({**given, "pruner": "none"}) == []


def test_the_refusal_of_pruning_says_what_to_do(given):
    with pytest.raises(UserError, match=r"set checkpoint_dir, or pruner=none") as told:
        decide_sweep("chat_completion_sweep", {**given, **PRUNED})
    assert "because each trial compares itself with the curves of the others there" in str(told.value)


# --- the page ---


def page(given: dict, folder: Path) -> tuple[str, dict]:
    plan("chat_completion_sweep", given, folder / "plan", folder / "plan.html")
    return (folder / "plan.html").read_text(), json.loads((folder / "plan" / "plan.json").read_text())


def table(page: str) -> list[list[str]]:
    """Return the cells of the tables of trials."""
    rows = [row for found in re.findall(r'<table class="trials">(.*?)</table>', page, re.S)
            for row in re.findall(r"<tr>(.*?)</tr>", found, re.S)]  # fmt: skip
    return [[re.sub(r"<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.S)] for row in rows]


def test_the_page_of_a_plan_has_every_trial_with_what_it_costs_and_adds(given, tmp_path):
    trials = [{"learning_rate": 1e-3, "num_train_epochs": 1.0}, {"learning_rate": 1e-4, "num_train_epochs": 2.0},
              {"learning_rate": 1e-4, "num_train_epochs": 1.0, "max_seq_length": 64.0}]  # fmt: skip
    priced = {"tokens_per_second": 10.0, "price_per_hour": 3.0}
    html, facts = page({**given, "trials": trials, "parallelism": 2, "overrides": priced}, tmp_path)
    head, *rows = table(html)
    assert head == [
        "Trial", "learning_rate", "num_train_epochs", "max_seq_length", "Steps", "Tokens", "Time", "Cost", "Memory",
        "Adds",
    ]  # fmt: skip
    sweep = facts["sweep"]
    assert [row[0] for row in rows] == ["0", "1", "2"]
    assert [row[1] for row in rows] == ["0.001", "0.0001", "0.0001"]
    assert [row[4] for row in rows] == [f"{trial['steps']:,}" for trial in sweep["trials"]]
    assert [row[5] for row in rows] == [f"{trial['tokens']:,}" for trial in sweep["trials"]]
    assert [row[-1] for row in rows] == ["a model and prepared data", "–", "prepared data"]
    assert f"<dd>{sweep['total']['steps']:,}" in html
    assert "2 at the same time" in html
    assert "1 model imported, 2 preparations of the data" in html
    assert 'lowest <span class="code">loss</span>' in html
    shared = html.split("Parameters that all trials share")[1]
    for name in sweep["varied"]:
        assert f">{name}<" not in shared
    assert ">tokens_per_second<" in shared


def test_columns_without_a_value_are_left_out_and_many_trials_are_folded(given, tmp_path):
    trials = [{"seed": number} for number in range(20)]
    html, facts = page({**given, "trials": trials}, tmp_path)
    head, *rows = table(html)
    assert "Cost" not in head
    assert len(rows) == 21  # and a second head
    assert "8 more trials" in html
    assert "Time is unknown" in html
    assert len(facts["sweep"]["trials"]) == 20


def test_values_of_users_are_escaped_and_long_ones_can_be_unfolded(given, tmp_path):
    evil = "<script>alert(1)</script> " + "long " * 60
    _, facts = page(given, tmp_path)
    facts["sweep"]["varied"].append("words")
    for trial, value in zip(facts["sweep"]["trials"], (evil, ["<i>"]), strict=True):
        trial["parameters"]["words"] = value
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "plan.json").write_text(json.dumps(facts))
    write_plan_report(tmp_path / "odd", tmp_path / "odd.html")
    html = (tmp_path / "odd.html").read_text()
    assert "<script" not in html
    assert "<i>" not in html
    assert "&lt;script&gt;" in html
    assert f"{'long ' * 59}long" in html


def test_the_page_of_a_single_run_has_no_trials(given, tmp_path):
    single = {name: value for name, value in given.items() if name != "trials"}
    plan("chat_completion", single, tmp_path / "plan", tmp_path / "plan.html")
    html = (tmp_path / "plan.html").read_text()
    assert "The run can start." in html
    assert "trial" not in re.sub(r"<style.*?</style>", "", html, flags=re.S)
