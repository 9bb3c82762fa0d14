"""What a user is told of a sweep before anything runs: all wrong values together, plans, and misused options."""

from __future__ import annotations

import json
import sys

import pytest

from pipelines import cli
from pipelines.interface.sweeps import sweep
from pipelines.sweeping import Sweep
from steps.errors import UserError

ROWS = [{"messages": [{"role": "user", "content": f"a{n}"}, {"role": "assistant", "content": "b"}]} for n in range(30)]


@pytest.fixture
def given_all(tiny_model, tmp_path, monkeypatch):
    """Parameters of a run that could start, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    files = {f"{split}_file_path": str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")}
    return {"pytorch_model_path": str(tiny_model), "apply_lora": True, **files}


def told(shared, space=None, **given):
    with pytest.raises(UserError) as refused:
        sweep("chat_completion", {**shared, **given.pop("parameters", {})}, space, **given)
    return [str(one) for one in refused.value.problems]


@pytest.mark.parametrize(
    ("given", "starts"),
    [
        ({"trials": [{"lora_r": 4}, {"learning_rate": -1}, {"lora_target_modules": ["qproj"]}, {"train_file_path": "n"},
                     {"train_file_path": "n", "seed": 3}]},
         ["PARAM-E0103 trials[1].learning_rate", "PLAN-E0386 trial 2: lora_target_modules",
          "URI-E0201 trials 3 and 4: train_file_path"]),
        ({"trials": [{"lora_r": 0}, {"lora_r": 4}], "parameters": {"test_file_path": "n"}},
         ["PARAM-E0103 trials[0].lora_r", "URI-E0201 trial 1: test_file_path"]),
        ({"trials": [{"lora_r": 4}, {"lora_r": 4}, {"train_file_path": "n"}]},
         ["SWEEP-E0131 trials[1]", "URI-E0201 trial 2: train_file_path"]),
        ({"trials": [5, {"lora_target_modules": ["qproj"]}]},
         ["SWEEP-E0129 trials[0]", "PLAN-E0386 trial 1: lora_target_modules"]),
        ({"space": {"lora_r": [0, 4], "lora_target_modules": [["qproj"], ["q_proj"]]}},
         ["PARAM-E0103 space.lora_r[0]", "PLAN-E0386 lora_target_modules"]),
        ({"space": {"lora_target_modules": [["qproj"], ["q_proj"]]}, "metric": "lss"},
         ["SWEEP-E0151 metric", "PLAN-E0386 lora_target_modules"]),
        ({"space": {"lora_target_modules": [["qproj"], ["q_proj"]]}, "search": "tpe", "budget": 2},
         ["PLAN-E0386 lora_target_modules"]),
        ({"space": {"lora_r": [4, 4], "seed": [1, 2]}}, ["SWEEP-E0114 space.lora_r[1]"]),
        ({"space": {"lora_r": [4, 8]}, "parameters": {"apply_lora": False}}, ["SWEEP-E0209 lora_r"]),
        ({"space": {"num_train_epochs": [1, 2]}, "parameters": {"max_steps": 3}}, ["SWEEP-E0209 num_train_epochs"]),
        ({"space": {"lora_r": (n for n in (0, 4))}}, ["PARAM-E0103 space.lora_r[0]"]),
        ({"space": {"lora_r": range(2)}}, ["PARAM-E0103 space.lora_r[0]"]),
        ({"space": ({"lora_r": n} for n in (0, 4))}, ["SWEEP-E0106 space"]),
        ({"space": {"lora_r": [4]}, "runner": 5}, ["SWEEP-E0166 runner"]),
        ({"space": {"lora_r": [4]}, "runner": ["runs"]}, ["SWEEP-E0166 runner"]),
        ({"space": {"lora_r": [4]}, "runner": "s3://a/b"}, ["SWEEP-E0166 runner"]),
        ({"space": {"lora_r": [4]}, "max_paralel": 2}, ["SWEEP-E0167 max_paralel"]),
        ({"space": {"lora_r": [4]}, "root": "x"}, ["SWEEP-E0167 root"]),
    ],
)  # fmt: skip
def test_all_that_is_wrong_is_told_before_anything_starts(given_all, tmp_path, given, starts):
    problems = told(given_all, given.pop("space", None), **given)
    assert [one.split(": found")[0] for one in problems] == starts
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("given", "fix"),
    [
        ({"space": {"lora_r": "4, 8"}}, "write [4, 8], or"),
        ({"space": {"apply_lora": True}}, "write [true, …], or"),
        ({"trials": '[{"lora_r": 4}]'}, "without quotes"),
        ({"space": {"seed": [1]}, "lora_r": [4, 8]}, "move lora_r to the space"),
        ({"space": {"seed": [1]}, "max_paralel": 2}, "did you mean max_parallel?"),
        ({"space": {"seed": [1]}, "root": "x"}, "did you mean runner?"),
    ],
)
def test_the_fix_says_what_to_write(given_all, given, fix):
    assert any(fix in one for one in told(given_all, given.pop("space", None), **given))


@pytest.mark.parametrize("name", [5, None, "", "../known", "sweeps/known", "knwon"])
def test_a_sweep_that_is_not_there_is_told_by_its_name(tmp_path, name):
    (tmp_path / "sweeps" / "known").mkdir(parents=True)
    (tmp_path / "sweeps" / "known" / "description.json").write_text("{}")
    with pytest.raises(UserError, match=r"SWEEP-E0303 name: .*known"):
        Sweep.open(name, root=tmp_path)


@pytest.fixture
def file(given_all, tmp_path):
    """A sweep file for a sampler, beside its configuration."""
    (tmp_path / "run.yaml").write_text(json.dumps(given_all))
    path = tmp_path / "sweep.yaml"
    path.write_text("pipeline: chat_completion\nconfig: run.yaml\nsearch: tpe\nbudget: 10\n"
                    "space: {lora_r: [4, 8]}\nparameters: {max_steps: 5}\n")  # fmt: skip
    return path


def screen(capsys, monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["finetune", "sweep", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code, capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("-f", "missing.yaml"), "CONFIG-E0101"),
        (("--open", "missing"), "SWEEP-E0303"),
        (("--open", "missing", "--status"), "SWEEP-E0303"),
        (("-f", "sweep.yaml", "--status"), "CLI-E0105"),
        (("--open", "missing", "--budget", "3"), "CLI-E0105"),
        (("--open", "missing", "--max-parallel", "3", "--name", "x"), "CLI-E0105"),
        (("-f", "sweep.yaml", "--budget", "x"), "CLI-E0101"),
        ((), "CLI-E0103"),
    ],
)
def test_an_error_is_one_json_object_on_stdout(file, capsys, monkeypatch, words, code):
    status, output = screen(capsys, monkeypatch, *words, "--json")
    assert status == 2
    assert json.loads(output.out)["error"]["problems"][0].startswith(code)


def test_the_plan_of_a_sampler_tells_its_cost_and_warnings_also_as_json(file, capsys, monkeypatch):
    _, output = screen(capsys, monkeypatch, "-f", file, "--plan")
    assert "by tpe: 2 trials, chosen one by one\n2 trials with the ends of every range checked\n" in output.out
    assert "fewer than the budget of 10" in output.out
    assert "2 trainings, at most about 10 optimizer steps" in output.out
    _, output = screen(capsys, monkeypatch, "-f", file, "--plan", "--json")
    assert json.loads(output.out)["sweep"]["varied"] == ["lora_r"]


@pytest.mark.parametrize(
    ("config", "fix"), [("missing.yml", "did you mean"), ("nowhere/x.yaml", "correct config"), (".", "correct config")]
)
def test_a_wrong_config_is_said_to_be_that_of_the_sweep_file(file, capsys, monkeypatch, config, fix):
    (file.parent / "missing.yaml").touch()
    file.write_text(file.read_text().replace("run.yaml", config))
    status, output = screen(capsys, monkeypatch, "-f", file)
    assert status == 2
    assert "config in " in output.err
    assert fix in output.err
    assert "-f" not in output.err


def test_the_best_trial_stands_first_among_equal_ones():
    from pipelines.sweeping.table import as_text

    trials = [{"number": n, "parameters": {"ok": n > 0}, "state": "finished", "score": 0.0, "best": n == 2}
              for n in range(3)]  # fmt: skip
    lines = as_text({"trials": trials, "varied": ["ok"], "metric": "loss", "final": None}).splitlines()
    assert lines[1].startswith("*  2      true")
    assert lines[2].startswith("   0      false")
