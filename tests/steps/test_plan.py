"""The plan refuses everything that is known to fail, and describes the run correctly."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace

import pytest
from command_line import with_our_code
from conftest import chat_rows, write_jsonl
from forking import ForkingPython
from input_adapters import make_adapter
from preferences import pair_rows
from reward_prompts import prompt_rows

from steps import wire
from steps.errors import SecurityRefusal, StepError, UserError
from steps.params.planned import Plan
from steps.params.settings import (
    DataSettings,
    EvaluationSettings,
    FinetuneSettings,
    ImportSettings,
    RegistrationSettings,
)
from steps.plan.deciding import decide
from steps.plan.step import plan
from steps.plan.summary import as_text


@pytest.fixture
def given(tiny_model, chat_file):
    return {"pytorch_model_path": str(tiny_model), "train_file_path": str(chat_file), "mlflow_server_uri": "http://m"}


def planned(given, tmp_path, **changes) -> tuple[Plan, dict]:
    made = plan("chat_completion", {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")
    return made, json.loads((tmp_path / "plan/plan.json").read_text())


def refused(given, tmp_path, **changes) -> StepError:
    with pytest.raises(StepError) as caught:
        planned(given, tmp_path, **changes)
    assert not (tmp_path / "plan").exists()
    return caught.value


def test_each_step_receives_settings_of_its_own_type(given, tmp_path):
    made, _ = planned(given, tmp_path)
    types = {
        "model": ImportSettings, "data": DataSettings, "training": FinetuneSettings,
        "evaluation": EvaluationSettings, "registration": RegistrationSettings,
    }  # fmt: skip
    for name, kind in types.items():
        value = wire.load(getattr(made, name))
        assert kind.model_validate(value).short() == value, name


def test_a_parameter_changes_only_the_settings_of_the_steps_that_need_it(given, tmp_path):
    before, _ = planned(given, tmp_path)
    after, _ = planned(given, tmp_path, learning_rate=1e-4)
    changed = [name for name in Plan._fields if getattr(before, name) != getattr(after, name)]
    # The model card tells every parameter, so registration, which is never reused, sees it too.
    assert changed == ["training", "registration"]


def test_other_bytes_behind_the_same_path_change_the_settings(given, tmp_path, chat_file):
    before, _ = planned(given, tmp_path)
    write_jsonl(chat_file, chat_rows(61))
    after, _ = planned(given, tmp_path)
    assert before.data != after.data
    assert before.model == after.model


def test_the_arithmetic_is_right(given, tmp_path):
    _, told = planned(given, tmp_path, per_device_train_batch_size=4, gradient_accumulation_steps=3, num_train_epochs=2)
    numbers = {line["name"]: line["value"] for line in told["arithmetic"]}
    # 60 rows, 48 of them for training; 4 x 3 in a step makes 4 steps an epoch.
    assert numbers == {
        "longest sequence": 256, "sequences per optimizer step": 12, "training rows": 48, "optimizer steps": 8,
        "training time": "unknown", "checkpoint": "1.2 MiB", "checkpoints by time": "none",  # no place outlives the pod
    }  # fmt: skip
    _, told = planned(given, tmp_path, per_device_train_batch_size=20, num_train_epochs=2)
    steps = {line["name"]: line["value"] for line in told["arithmetic"]}["optimizer steps"]
    assert steps == 6  # two full ones and a third with 8 rows, twice


@pytest.mark.parametrize("ending", ["", "\n"])
def test_a_row_counts_whether_or_not_its_line_ends(given, tmp_path, chat_file, ending):
    chat_file.write_text(chat_file.read_text().rstrip("\n") + ending)
    _, told = planned(given, tmp_path)
    rows = next(line for line in told["arithmetic"] if line["name"] == "training rows")
    assert rows["how"].startswith("60 given")


def test_weights_are_counted_by_their_type_under_its_old_name_too(given, tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "m")
    config = json.loads((tmp_path / "m/config.json").read_text())
    needed, unread = [], []
    for name, dtype in (("dtype", "float32"), ("dtype", "bfloat16"), ("torch_dtype", "bfloat16")):
        others = {key: value for key, value in config.items() if key not in ("dtype", "torch_dtype")}
        (tmp_path / "m/config.json").write_text(json.dumps({**others, name: dtype}))
        _, told = planned(given, tmp_path, pytorch_model_path=str(tmp_path / "m"))
        needed.append(told["memory"]["parts"]["gradients and optimizer"])
        found = decide("chat_completion", {**given, "pytorch_model_path": str(tmp_path / "m")}).model
        unread.append(replace(found, shapes={}).parameters)
    assert needed[0] == needed[1] == needed[2]  # by the headers
    assert unread[1] == unread[2] == 2 * unread[0]


def test_a_learned_prompt_takes_positions_of_the_model(given, tmp_path):
    prompt = {"apply_lora": True, "peft_type": "prompt_tuning", "num_virtual_tokens": 6}
    made, told = planned(given, tmp_path, **prompt)
    assert told["arithmetic"][0]["value"] == 250
    assert DataSettings.model_validate(wire.load(made.data)).max_length == 250


def test_the_environment_may_name_the_server_that_gets_the_version(given, tmp_path, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://m")
    planned(given, tmp_path, mlflow_server_uri="")


def test_a_local_run_goes_on_from_checkpoints_of_its_own(given, tmp_path, monkeypatch):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    made, _ = planned(given, tmp_path, resume_from_checkpoint="true")
    checkpoints = FinetuneSettings.model_validate(wire.load(made.training)).checkpoints
    assert (checkpoints.resume_from_checkpoint, checkpoints.checkpoint_dir) == ("true", "")


def test_problems_of_every_kind_come_together(given, tmp_path):
    error = refused(
        given,
        tmp_path,
        pytorch_model_path=str(tmp_path / "no-model"),
        train_file_path=str(tmp_path / "no-rows.jsonl"),
        num_nodes_finetune=2,
        instance_type_finetune="Standard_nc24rs_v33",
    )
    assert isinstance(error, UserError)
    assert {problem.where for problem in error.problems} == {
        "pytorch_model_path", "train_file_path", "checkpoint_dir", "instance_type_finetune",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"num_nodes_finetune": 2},
            "checkpoint_dir: found nothing, with num_nodes_finetune=2; expected a folder on a volume",
        ),
        ({"train_mltable_path": "t"}, "nothing at 't'"),
        ({"max_seq_length": 9999}, "set max_seq_length=256"),
        ({"compute_finetune": "pool'"}, "no backslash, quote"),
        ({"train_file_path": "a\\b.jsonl"}, "no backslash or control"),
        ({"train_file_path": "https://host/a.jsonl"}, "the scheme https"),
        ({"resume_from_checkpoint": "true"}, "set checkpoint_dir"),
        (
            {"checkpoint_dir": "hf://owner/x"},
            "PLAN-E0301 .*a folder, or a URI with one of abfs, .*s3. Fix: name a folder",
        ),
        ({"mlflow_server_uri": ""}, "register_tuned_model=false"),
        ({"registered_model_name": "a/b"}, "REGISTER-E0202 registered_model_name"),
        ({"registered_model_alias": "v3"}, "REGISTER-E0203 registered_model_alias"),
        ({"registered_model_alias": "Latest"}, "REGISTER-E0203 registered_model_alias"),
        ({"instance_type_finetune": "Standard_d12_v2"}, "0 GPUs; expected at least 1"),
        ({"chat_template": "chatml"}, "or a file ending in .jinja. Fix: did you mean chat-ml"),
        ({"pytorch_model_path": "tests/conftest.py"}, "name the folder"),
    ],
)
def test_what_cannot_work_is_refused_on_a_cpu(given, tmp_path, monkeypatch, changes, words):
    import re

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    error = refused(given, tmp_path, **changes)
    assert error.exit_code == 2
    assert re.search(words, str(error))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [("empty.jsonl", b"", "an empty file"), ("rows.xlsx", b"x", "rows.xlsx"), ("folder", None, "correct the path")],
)
def test_files_that_cannot_be_rows_are_refused(given, tmp_path, name, content, words):
    (tmp_path / name).mkdir() if content is None else (tmp_path / name).write_bytes(content)
    assert words in str(refused(given, tmp_path, train_file_path=str(tmp_path / name)))


def test_every_kind_of_source_is_resolved_to_a_digest(given, tmp_path, chat_file):
    import gzip

    del given["train_file_path"]
    folder = tmp_path / "rows"
    folder.mkdir()
    for number in range(3):
        write_jsonl(folder / f"{number}.jsonl", chat_rows(20 + number))
    (folder / "MLTable").write_text("paths: [{pattern: '*.jsonl'}]")
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(chat_file.read_bytes()))
    mixture = [{"path": str(packed), "sampling_weight": 2.0}, {"path": f"{folder}/*.jsonl"}]
    digests, rows = set(), []
    for number, source in enumerate((
        {"train_mltable_path": str(folder)}, {"train_file_path": f"{folder}/*.jsonl"},
        {"train_file_path": str(packed)}, {"training_data": json.dumps(mixture)},
        {"train_file_path": f"{folder}/0.jsonl,{chat_file}"}, {"dataset_name": str(folder)},
    )):  # fmt: skip
        made, told = planned({**given, **source}, tmp_path / str(number))
        settings = DataSettings.model_validate(wire.load(made.data))
        digests.add(settings.train.digest)
        rows += [line["value"] for line in told["arithmetic"] if line["name"] == "training rows"]
        for name, value in source.items():
            assert value in (getattr(settings.source, name), settings.train.uri) or name == "training_data"
    assert len(digests) == 5  # the pattern names the same files as the table
    # of 63, 63 and 80 rows where they can be counted without unpacking
    assert rows == [50, 50, 64]


def test_what_the_sources_make_worth_knowing_is_told(given, tmp_path, chat_file):
    (tmp_path / "table").mkdir()
    write_jsonl(tmp_path / "table/a.jsonl", chat_rows(30))
    (tmp_path / "table/MLTable").write_text("paths: [{file: a.jsonl}]")
    _, told = planned(given, tmp_path, train_mltable_path=str(tmp_path / "table"))
    assert told["warnings"] == ["train_mltable_path takes precedence over train_file_path, which is not read"]


def test_the_plan_says_how_the_rows_will_be_read(given, tmp_path, chat_file):
    _, summary = planned(given, tmp_path)
    assert summary["reading"] == {}
    mixture = [{"path": str(chat_file), "sampling_weight": 0.4, "name": "a"}]
    changes = {"train_file_path": "", "training_data": mixture, "delimiter": "tab", "dedup": True}
    _, summary = planned(given, tmp_path, **changes)
    told = {"training_data": "a × 0.4", "delimiter": r"'\t'", "dedup": "true"}
    assert told.items() <= summary["reading"].items()
    assert "  read with   training_data=a × 0.4\n" in as_text(summary)


def test_the_processing_function_is_checked_and_its_text_changes_the_settings_of_the_data(given, tmp_path):
    file = tmp_path / "clean.py"
    made = []
    for text in ("return row", "return None"):
        file.write_text(f"def clean(row):\n    {text}\n")
        made.append(planned(given, tmp_path, processing_function=f"{file}:clean")[0])
    assert made[0].data != made[1].data
    assert made[0].training == made[1].training
    shutil.rmtree(tmp_path / "plan")
    error = refused(given, tmp_path, processing_function=f"{file}:clear", train_file_path="absent.jsonl")
    assert {problem.where for problem in error.problems} == {"processing_function", "train_file_path"}


def test_pickled_weights_are_refused_for_security(given, tmp_path, tiny_model):
    shutil.copytree(tiny_model, tmp_path / "m")
    (tmp_path / "m/model.safetensors").rename(tmp_path / "m/pytorch_model.bin")
    error = refused(given, tmp_path, pytorch_model_path=str(tmp_path / "m"))
    assert isinstance(error, SecurityRefusal)
    assert error.exit_code == 3


def test_a_folder_for_metrics_gets_a_database_and_that_is_told(given, tmp_path):
    _, told = planned(given, tmp_path, mlflow_server_uri=f"file://{tmp_path}/mlruns")
    assert told["tracking"] == f"sqlite:///{tmp_path}/mlruns/mlflow.db, experiment default"
    assert any(f"sqlite:///{tmp_path}/mlruns/mlflow.db is used" in warning for warning in told["warnings"])


def test_what_was_translated_is_kept_with_what_was_asked(given, tmp_path):
    _, told = planned(given, tmp_path, eval_strategy="steps")
    assert told["effective"]["optim"] == "adamw_torch"
    assert told["requested"]["optim"] == "adamw_hf"
    assert told["warnings"] == ["eval_strategy: 'eval_strategy' is read as 'evaluation_strategy'"]


def test_another_text_in_the_template_file_changes_the_settings_of_the_data(given, tmp_path):
    template = tmp_path / "chat.jinja"
    made = []
    for text in ("{{ messages }}", "{{ messages }}!"):
        template.write_text(text)
        made.append(planned(given, tmp_path, chat_template=str(template))[0])
    assert made[0].data != made[1].data
    assert made[0].training == made[1].training


# Features that stand in other rooms and are asked by the plan: adapters, DeepSpeed, new tokens, preferences.
FEATURES = {
    "plain": ("chat_completion", {}),
    "a new adapter": ("chat_completion", {"apply_lora": True, "lora_target_modules": "q_proj"}),
    "an adapter that comes with the model": ("chat_completion", {"adapter_path": "adapter", "adapter_use": "continue"}),
    "DeepSpeed": ("chat_completion", {"apply_deepspeed": True, "deepspeed_stage": "3"}),
    "new tokens": ("chat_completion", {"additional_special_tokens": "<|think|>", "apply_lora": True}),
    "rewards": (
        "grpo_chat_completion",
        {
            "train_file_path": "prompts.jsonl",
            "max_prompt_length": 128,
            "max_completion_length": 64,
            "reward_funcs": "math,code,json_schema,regex",
            "reward_options": {
                "json_schema": {"column": "level"},
                "regex": {"pattern": "x"},
                "code": {"column": "level"},
            },
        },
    ),
    "preferences": ("preference", {"reference_model_path": "reference", "train_file_path": "pairs.jsonl"}),
}


@pytest.fixture(scope="module")
def python() -> Iterator[ForkingPython]:
    """A Python that has loaded what every plan needs."""
    made = ForkingPython(["steps.running", "steps.plan.step"], with_our_code())
    yield made
    made.close()


@pytest.mark.parametrize("feature", FEATURES)
def test_the_plan_loads_neither_torch_nor_transformers(python, feature, given, tiny_model, tmp_path):
    pipeline, changes = FEATURES[feature]
    made = {"adapter": lambda: make_adapter(tiny_model, tmp_path / "adapter"), "reference": lambda: tiny_model,
            "prompts.jsonl": lambda: write_jsonl(tmp_path / "prompts.jsonl", prompt_rows(40)),
            "pairs.jsonl": lambda: write_jsonl(tmp_path / "pairs.jsonl", pair_rows(40))}  # fmt: skip
    changes = {name: str(made[value]()) if str(value) in made else value for name, value in changes.items()}
    script = (
        "import json, sys\nfrom steps.running import run_step\n"
        "given = dict(pipeline=sys.argv[1], arguments=json.loads(sys.argv[2]))\n"
        "run_step('plan', **given, plan=sys.argv[3], report=sys.argv[4])\n"
        "print([name for name in ('torch', 'transformers', 'kfp', 'mlflow') if name in sys.modules])"
    )
    words = [pipeline, json.dumps({**given, **changes}), str(tmp_path / "plan"), str(tmp_path / "plan.html")]
    assert python.run(script, *words, cwd=tmp_path).splitlines()[-1] == "[]"


@pytest.fixture
def pairs(tmp_path):
    return write_jsonl(tmp_path / "pairs.jsonl", [{"en": f"cat {n}", "qaa": f"miu {n}"} for n in range(40)])


def test_a_translations_prompt_reaches_data_evaluation_and_the_registered_model_alike(given, pairs, tmp_path):
    asked = {**given, "train_file_path": str(pairs), "target_lang": "qaa", "text_separator": " = "}
    made = plan("translation", asked, tmp_path / "plan", tmp_path / "plan.html")
    data, evaluation, registration = (
        kind.model_validate(wire.load(value))
        for kind, value in ((DataSettings, made.data), (EvaluationSettings, made.evaluation),
                            (RegistrationSettings, made.registration))
    )  # fmt: skip
    assert data.columns == evaluation.columns
    assert data.preprocessing.train_on_completions_only is True
    assert registration.prompt_form == ("translate English to qaa: ", " = ")


def test_pretraining_refuses_what_needs_answers(given, tmp_path):
    rows = write_jsonl(tmp_path / "texts.jsonl", [{"text": f"once {n}"} for n in range(40)])
    asked = {**given, "train_file_path": str(rows), "response_template": "A:", "evaluation_max_new_tokens": 3}
    with pytest.raises(UserError) as caught:
        plan("pretraining", asked, tmp_path / "plan", tmp_path / "plan.html")
    assert [(p.code, p.where) for p in caught.value.problems] == [
        ("PLAN-E0102", "response_template"), ("PLAN-E0102", "evaluation_max_new_tokens"),
    ]  # fmt: skip
