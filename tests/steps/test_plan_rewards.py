"""The plan checks rewards without running the user's code: names, options, columns, packages, files and models."""

import json

import pytest
from conftest import build_tokenizer, write_jsonl

from steps import wire
from steps.errors import Outage, SecurityRefusal, StepError, UserError
from steps.params.settings import EvaluationSettings, FinetuneSettings
from steps.plan.deciding import decide
from steps.plan.rewards import THINK
from steps.plan.step import plan
from steps.rewards.asked import load_asked
from steps.rewards.loading import load_rewards

PIPELINE = "grpo_chat_completion"
OWN = "def judge(completions, {columns}, **more):\n    return [0.0] * len(completions)\n"


@pytest.fixture
def rows(tmp_path):
    made = [{"problem": f"{n} + 1?", "solution": str(n + 1), "level": n % 3} for n in range(60)]
    return write_jsonl(tmp_path / "rows.jsonl", made)


@pytest.fixture
def given(tiny_model, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    return {"pytorch_model_path": str(tiny_model), "train_file_path": str(rows), "max_prompt_length": 128,
            "max_completion_length": 64, "number_of_gpu_to_use_finetuning": 0}  # fmt: skip


def refused(given, **changes) -> list[tuple[str, str]]:
    with pytest.raises(UserError) as caught:
        decide(PIPELINE, {**given, **changes})
    return [(problem.code, problem.fix) for problem in caught.value.problems]


def settings(given, folder, **changes):
    made = plan(PIPELINE, {**given, **changes}, folder / "plan", folder / "plan.html")
    return FinetuneSettings.model_validate(wire.load(made.training)), made


@pytest.fixture
def own(tmp_path):
    def write(columns: str = "level") -> str:
        (tmp_path / "own.py").write_text(f"raise SystemExit('was run')\n{OWN.format(columns=columns)}")
        return f"{tmp_path}/own.py:judge"

    return write


def test_every_problem_is_told_at_once(given):
    told = refused(given, reward_funcs="acuracy,format", reward_weights="1", reward_options={"format": {"tag": 1}},
                   per_device_train_batch_size=6)  # fmt: skip
    assert [code for code, _ in told] == ["REWARD-E0201", "REWARD-E0202", "REWARD-E0204", "PLAN-E0501"]
    assert told[0][1] == "did you mean accuracy?"


def test_a_function_is_checked_but_not_run_and_its_text_changes_what_depends_on_it(given, own, tmp_path):
    asked = {"reward_funcs": f"{own()},format", "reward_weights": "2,1"}
    before, first = settings(given, tmp_path, **asked)
    assert list(before.rewards.digests) == [own()]
    (tmp_path / "own.py").write_text(OWN.format(columns="level") + "\n# another text\n")
    after, second = settings(given, tmp_path, **asked)
    assert before.rewards.digests != after.rewards.digests
    assert (first.training != second.training, first.evaluation != second.evaluation) == (True, True)
    assert first.data == second.data
    load_asked(after.rewards)  # the digest is the one that finetune compares
    with pytest.raises(UserError, match="REWARD-E0230"):
        load_asked(before.rewards)


def test_a_function_that_is_missing_or_takes_no_completions_is_refused(given, tmp_path):
    (tmp_path / "own.py").write_text("def judge(prompts):\n    return []\n")
    assert refused(given, reward_funcs=f"{tmp_path}/own.py:judge")[0][0] == "REWARD-E0206"
    assert refused(given, reward_funcs=f"{tmp_path}/own.py:juge") == [("DATA-E2202", "did you mean judge?")]
    assert refused(given, reward_funcs=f"{tmp_path}/none.py:judge")[0][0] == "URI-E0201"


# Columns.


def test_a_missing_column_is_told_with_the_nearest(given, own):
    assert refused(given, reward_funcs=own("levl")) == [("PLAN-E0513", "did you mean level?")]
    assert refused(given, reward_funcs="code")[0][0] == "PLAN-E0513"  # no column tests
    decide(PIPELINE, {**given, "reward_funcs": own("level, ground_truth")})
    decide(PIPELINE, {**given, "reward_funcs": own("other=None")})  # optional


def test_a_missing_right_answer_is_told(given, rows, tmp_path):
    fix = "set dataset_ground_truth_column to the column with it"
    assert refused(given, dataset_ground_truth_column="truth") == [("PLAN-E0513", fix)]
    assert refused(given, dataset_ground_truth_column="solutions") == [("PLAN-E0513", "did you mean solution?")]
    decide(PIPELINE, {**given, "dataset_ground_truth_column": "truth", "reward_funcs": "format"})
    other = write_jsonl(tmp_path / "other.jsonl", [{"prompt": f"{n}?", "ground_truth": str(n)} for n in range(60)])
    decide(PIPELINE, {**given, "train_file_path": str(other)})


def test_columns_of_parquet_and_json_files_are_known_and_those_of_large_ones_are_left_to_prepare_data(given, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    made = [{"problem": f"{n}?"} for n in range(60)]
    pq.write_table(pa.Table.from_pylist(made), tmp_path / "rows.parquet")
    (tmp_path / "rows.json").write_text(json.dumps(made))
    for name in ("rows.parquet", "rows.json"):
        assert refused(given, train_file_path=str(tmp_path / name))[0][0] == "PLAN-E0513"
    large = write_jsonl(tmp_path / "large.jsonl", [{"problem": f"{n}? " + "x" * 30000} for n in range(60)])
    decide(PIPELINE, {**given, "train_file_path": str(large)})


def test_a_processing_function_may_make_the_columns(given, tmp_path):
    (tmp_path / "rows.py").write_text("def more(row):\n    return {**row, 'truth': row['solution']}\n")
    decide(PIPELINE, {**given, "dataset_ground_truth_column": "truth",
                      "processing_function": f"{tmp_path}/rows.py:more"})  # fmt: skip


def test_columns_that_the_rewards_need_reach_prepare_data(given, own, tmp_path):
    from steps.params.settings import DataSettings

    _, made = settings(given, tmp_path, reward_funcs=f"accuracy,{own()}")
    data = DataSettings.model_validate(wire.load(made.data))
    assert (data.reward_columns, data.max_completion_length) == (("ground_truth", "level"), 64)


# Packages and sandbox.


@pytest.mark.parametrize(("reward", "package"), [("math", "math-verify"), ("json_schema", "jsonschema")])
def test_a_package_that_is_missing_here_is_told(given, monkeypatch, reward, package):
    monkeypatch.setattr("steps.plan.packages._is_installed", lambda name: name != package)
    options = {"json_schema": {"json_schema": '{"type": "object"}'}} if reward == "json_schema" else ""
    fix = f"install it (pip install {package}), or leave {reward} out"
    assert refused(given, reward_funcs=reward, reward_options=options) == [("PLAN-E0311", fix)]


def test_code_is_refused_here_without_a_sandbox_and_a_note_for_pods(given, rows, tmp_path, monkeypatch):
    made = [{"problem": f"{n}?", "tests": [f"assert f() == {n}"]} for n in range(60)]
    asked = {**given, "reward_funcs": "code", "train_file_path": str(write_jsonl(tmp_path / "code.jsonl", made))}
    error = SecurityRefusal([])
    monkeypatch.setattr("steps.plan.rewards.check_sandbox", lambda: (_ for _ in ()).throw(error))
    with pytest.raises(SecurityRefusal):
        decide(PIPELINE, asked)
    monkeypatch.delenv("FINETUNE_ROOT")
    told = decide(PIPELINE, {**asked, "mlflow_server_uri": "http://m"}).warnings
    assert any("code runs programs in a sandbox" in text for text in told)


# Reward models.


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    from transformers import LlamaConfig, LlamaForSequenceClassification

    folder = tmp_path_factory.mktemp("judge")
    build_tokenizer(folder)
    config = LlamaConfig(vocab_size=384, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_labels=2,
                         num_attention_heads=2, id2label={0: "bad", 1: "good"},
                         label2id={"bad": 0, "good": 1})  # fmt: skip
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


def with_model(model, **options) -> dict:
    return {"reward_funcs": "reward_model", "reward_options": {"reward_model": {"model": str(model), **options}}}


def test_a_reward_model_is_resolved_and_its_class_checked(given, judge, tmp_path):
    made, _ = settings(given, tmp_path, **with_model(judge, label="good"))
    assert list(made.rewards.digests) == ["reward_model"]
    load_asked(made.rewards)
    assert refused(given, **with_model(judge, label="goood")) == [("PLAN-E0512", "did you mean good?")]
    assert refused(given, **with_model(judge))[0][0] == "PLAN-E0512"
    told = json.loads((tmp_path / "plan/plan.json").read_text())["sources"]
    assert [source["uri"] for source in told if source["what"] == "reward"] == [str(judge)]


def test_other_models_and_places_are_refused(given, tiny_model, tmp_path):
    assert refused(given, **with_model(tiny_model))[0][0] == "PLAN-E0511"  # a model that writes
    assert refused(given, **with_model("s3://models/judge"))[0][0] == "PLAN-E0514"
    assert refused(given, **with_model(tmp_path / "nothing"))[0][0] == "PLAN-E0514"
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/config.json").write_text("{}")
    assert refused(given, **with_model(tmp_path / "empty"))[0][0] == "PLAN-E0511"
    (tmp_path / "empty/model.safetensors").write_text("x")
    (tmp_path / "empty/config.json").write_text("[")
    assert refused(given, **with_model(tmp_path / "empty"))[0][0] == "PLAN-E0511"


def test_a_folder_on_a_volume_of_the_pods_is_left_to_them(given, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT")
    decide(PIPELINE, {**given, **with_model("/volume/judge"), "mlflow_server_uri": "http://m"})


def test_a_model_of_the_hub_is_pinned_to_its_commit(given, judge, tmp_path, monkeypatch):
    """In the Hub's cache, as it is on a machine that is offline."""
    import shutil

    commit = "a" * 40
    cache = tmp_path / "hub/models--owner--judge"
    shutil.copytree(judge, cache / "snapshots" / commit)
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    made, planned = settings(given, tmp_path, **with_model("owner/judge", label="good"))
    assert made.rewards.options_by_reward["reward_model"]["revision"] == commit
    assert made.rewards.digests == {}
    evaluation = EvaluationSettings.model_validate(wire.load(planned.evaluation))
    assert evaluation.rewards == made.rewards
    rewards = load_rewards(["reward_model"], options=made.rewards.options_by_reward)  # the options are its own
    assert rewards.columns == ()
    with pytest.raises(StepError) as caught:
        decide(PIPELINE, {**given, **with_model("owner/nothing", label="good")})
    assert isinstance(caught.value, UserError | Outage)


# The instruction.


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, THINK),
        ({"reward_funcs": "think_format"}, THINK),
        ({"reward_funcs": "accuracy"}, ""),
        ({"system_prompt": ""}, ""),
        ({"system_prompt": "Answer in one word."}, "Answer in one word."),
        (
            {"reward_options": {"format": {"tags": ["plan", "result"]}}},
            "Build your reply of these blocks, in this order and with nothing else: <plan>…</plan> <result>…</result>",
        ),
    ],
)
def test_the_instruction_follows_from_the_rewards(given, changes, expected, tmp_path):
    _, made = settings(given, tmp_path, **changes)
    assert wire.load(made.data)["columns"]["system_prompt"] == expected
    assert wire.load(made.evaluation)["columns"]["system_prompt"] == expected


def test_a_reply_as_the_instruction_asks_earns_the_rewards_of_form():
    reply = "<think>\nTwo and two.\n</think>\n<answer>\n4\n</answer>"
    scores = load_rewards(["format", "think_format", "exact_answer"]).score(
        ["2 + 2?"], [reply], {"ground_truth": ["4"]}
    )
    assert scores.totals == [3.0]
    assert all(tag in THINK for tag in ("<think>", "</think>", "<answer>", "</answer>"))
