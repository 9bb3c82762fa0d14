"""Continued training of an adapter equals a plain trainer's, and is compared with the imported model."""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import build_model, chat_rows
from input_adapters import import_settings, make_adapter
from preferences import pair_rows, prepared, rated_rows
from training_inputs import TRAINING, train, write_tokens

from steps.artifacts import read_manifest
from steps.evaluate.step import evaluate
from steps.import_model.step import import_model
from steps.merge_adapter.step import merge_adapter
from steps.params.evaluation import EvaluationParams
from steps.params.settings import EvaluationSettings, FinetuneSettings
from steps.params.training import CheckpointParams, TrainingParams

pytestmark = pytest.mark.slow

STEPS = 8
ARGUMENTS = {
    "max_steps": STEPS, "learning_rate": 1e-3, "per_device_train_batch_size": 4, "lr_scheduler_type": "cosine",
    "warmup_steps": 2, "weight_decay": 0.01, "optim": "adamw_torch", "logging_steps": 1,
    "gradient_checkpointing": False, "bf16": False, "save_strategy": "no", "use_cpu": True, "report_to": "none",
    "disable_tqdm": True,
}  # fmt: skip
LORA = {"apply_lora": True, "lora_r": 4, "lora_alpha": 8, "lora_target_modules": "q_proj,v_proj"}
METHODS = {
    "dpo": ("DPO", "trl", {}),
    "kto": ("KTO", "trl", {}),
    "orpo": ("ORPO", "trl.experimental.orpo", {}),
}


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "root"


@pytest.fixture(scope="module")
def adapter(tiny_model, tmp_path_factory) -> Path:
    return make_adapter(tiny_model, tmp_path_factory.mktemp("adapters") / "tuned")


def imported(out: Path, *given, **more) -> Path:
    import_model(import_settings(*given, **more), out / "model", out / "tokenizer")
    return out / "model"


@pytest.fixture
def model(tiny_model, adapter, tmp_path) -> Path:
    return imported(tmp_path, tiny_model, adapter, "continue")


def settings_with(
    method: str, training: dict | None = None, lora: dict = LORA, preference: dict | None = None, **changes
) -> FinetuneSettings:
    """Settings of a training; the method sft learns from right answers."""
    made = {**TRAINING, "max_steps": STEPS, "evaluation_strategy": "no", **(training or {})}
    return FinetuneSettings(
        pipeline="any",
        training=TrainingParams(**made),
        lora=lora,
        max_length=64,
        preference=None if method == "sft" else {"method": method, **(preference or {})},
        **changes,
    )


def continuing(base: Path, adapter: Path):
    """Put the adapter on its base with PEFT alone."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter, is_trainable=True)


def bare(trainer: str, where: str, model, base: Path, rows: list[dict], out: Path, more=None, **loss) -> list[dict]:
    """Train with TRL alone, its own preparation included; give what it logs."""
    import importlib

    from datasets import Dataset
    from transformers import AutoTokenizer

    trl = importlib.import_module(where)
    arguments = getattr(trl, f"{trainer}Config")(output_dir=str(out), max_length=64, **ARGUMENTS, **loss)
    made = getattr(trl, f"{trainer}Trainer")(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), **(more or {}),
        processing_class=AutoTokenizer.from_pretrained(base),
    )  # fmt: skip
    made.train()
    told = ("loss", "rewards/margins")
    return [{name: entry.get(name) for name in told} for entry in made.state.log_history if "loss" in entry]


def assert_equal_traces(ours: dict, theirs: list[dict], name: str = "loss") -> None:
    assert len(theirs) == STEPS
    assert [point.get(name) for point in ours["points"]] == pytest.approx([one.get(name) for one in theirs], abs=1e-5)


def tensors(folder: Path, name: str) -> dict:
    from safetensors.torch import load_file

    return load_file(folder / name)


def test_supervised_training_goes_on_as_trl_alone(tiny_model, adapter, model, tmp_path, peer):
    from transformers import AutoTokenizer

    rows = chat_rows(60)
    data = write_tokens(tmp_path / "data", AutoTokenizer.from_pretrained(tiny_model), rows)
    ours = train(settings_with("sft"), model, data, tmp_path / "ours")
    tokens = pq.read_table(data / "tokens/train.parquet").to_pylist()
    more = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    theirs = peer(bare, "SFT", "trl", continuing(tiny_model, adapter), tiny_model, tokens, tmp_path / "bare", **more)
    assert_equal_traces(ours, theirs)
    before, after = (tensors(folder, "adapter_model.safetensors") for folder in (adapter, tmp_path / "ours/tuned"))
    assert before.keys() == after.keys()
    assert not any(before[name].equal(after[name]) for name in before)


@pytest.mark.parametrize("name", METHODS)
def test_preferences_are_learned_on_as_trl_alone(tiny_model, adapter, model, tmp_path, name, peer):
    from steps.tasks import kto

    theirs, where, loss = METHODS[name]
    chat = name != "orpo"  # of conversations TRL's ORPO makes other tokens than its DPO
    rows = (rated_rows if name == "kto" else pair_rows)(84, chat)
    data = prepared(tiny_model, tmp_path / "a", rows)
    ours = train(settings_with(name), model, data, tmp_path / "ours")
    given = rows[:60]
    if name == "kto":
        given = [kto.training_row(row, kto.Columns()) for row in pq.read_table(data / "rows/train.parquet").to_pylist()]
    told = peer(bare, theirs, where, continuing(tiny_model, adapter), tiny_model, given, tmp_path / "bare", **loss)
    assert_equal_traces(ours, told)
    assert_equal_traces(ours, told, "rewards/margins")
    assert ours["parameters"]["total"] == sum(one.numel() for one in continuing(tiny_model, adapter).parameters())
    # One adapter is the result, not a second one that was the reference.
    assert sorted(path.name for path in (tmp_path / "ours/tuned").glob("**/adapter_model.safetensors")) == [
        "adapter_model.safetensors"
    ]


def logps(model, rows: list[dict], name: str) -> list[float]:
    """Sum the log-probabilities of the answers, one after the other."""
    import torch

    told = []
    for row in rows:
        prompt, answer = row["prompt_ids"], row[f"{name}_ids"]
        with torch.no_grad():
            chances = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        told.append(sum(chances[len(prompt) + place - 1, token].item() for place, token in enumerate(answer)))
    return told


@pytest.mark.parametrize("use", ["merge", "continue"])
def test_the_reference_is_the_model_as_it_came(tiny_model, adapter, tmp_path, root, use):
    model = imported(tmp_path, tiny_model, adapter, use)
    data = prepared(tiny_model, tmp_path / "a", pair_rows(84))
    lora = LORA if use == "continue" else {"apply_lora": True}
    settings = settings_with("dpo", lora=lora, preference={"precompute_ref_log_probs": True})
    train(settings, model, data, tmp_path / "ours")
    [kept] = (root / "checkpoints/shared/references").glob("*-train")
    said = pq.read_table(kept / "answers.parquet")
    rows = pq.read_table(data / "tokens/train.parquet").to_pylist()
    before = continuing(tiny_model, adapter).eval()
    for name in ("chosen", "rejected"):
        assert said[f"ref_{name}_logps"].to_pylist() == pytest.approx(logps(before, rows, name), abs=1e-3)


@pytest.mark.parametrize("precompute", [False, True], ids=["asked", "precomputed"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_an_own_reference_is_the_one_that_trl_is_given(tiny_model, tmp_path, method, lora, precompute, peer):
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    from steps.tasks import kto

    build_model(tmp_path / "other", num_hidden_layers=1)
    model = imported(tmp_path, tiny_model, reference=tmp_path / "other")
    rows = (rated_rows if method == "kto" else pair_rows)(84)
    data = prepared(tiny_model, tmp_path / "a", rows)
    wanted = {"method": method, "precompute_ref_log_probs": precompute}
    settings = settings_with(method, lora={"apply_lora": lora}, preference=wanted)
    ours = train(settings, model, data, tmp_path / "ours")
    given = rows[:60]
    if method == "kto":
        given = [kto.training_row(row, kto.Columns()) for row in pq.read_table(data / "rows/train.parquet").to_pylist()]
    adapter = LoraConfig(r=8, lora_alpha=128, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None
    more = {"ref_model": AutoModelForCausalLM.from_pretrained(tmp_path / "other"), "peft_config": adapter}
    tuned = AutoModelForCausalLM.from_pretrained(tiny_model)
    theirs = peer(bare, method.upper(), "trl", tuned, tiny_model, given, tmp_path / "bare", more)
    assert_equal_traces(ours, theirs)
    assert_equal_traces(ours, theirs, "rewards/margins")


def test_log_probabilities_of_a_reference_are_shared_by_trials_and_not_by_other_models(
    tiny_model, tmp_path, root, monkeypatch
):
    from trl import DPOTrainer

    build_model(tmp_path / "other", num_hidden_layers=1)
    plain = imported(tmp_path / "plain", tiny_model)
    own = imported(tmp_path / "own", tiny_model, reference=tmp_path / "other")
    data = prepared(tiny_model, tmp_path / "a", pair_rows(84))
    asked = []
    ask = DPOTrainer.compute_ref_log_probs
    monkeypatch.setattr(DPOTrainer, "compute_ref_log_probs", lambda *given: asked.append(1) or ask(*given))

    def count(model, name, **training):
        asked.clear()
        lora = training.pop("lora", {})
        settings = settings_with("dpo", training, lora, preference={"precompute_ref_log_probs": True})
        history = train(settings, model, data, tmp_path / name)
        return len(asked), [point["loss"] for point in history["points"]]

    first, losses = count(plain, "first")
    assert first == 15
    again, others = count(plain, "second", learning_rate=3e-3)
    assert again == 0
    assert others[0] == losses[0]
    assert others != losses
    assert count(own, "third")[0] == 15
    assert count(plain, "fourth", lora={"apply_lora": True})[0] == 15
    assert count(plain, "fifth", lora={"apply_lora": True, "lora_r": 2})[0] == 0
    assert count(plain, "sixth", per_device_train_batch_size=6)[0] == 10
    for file in (root / "checkpoints/shared/references").glob("*-train/answers.parquet"):
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    whole, repeated = count(plain, "seventh")
    assert (whole, repeated) == (15, losses)


def test_a_separate_reference_with_stored_log_probabilities_is_not_loaded_again(tiny_model, tmp_path, monkeypatch):
    from steps.finetune.trainers import prepared_answers

    build_model(tmp_path / "other", num_hidden_layers=1)
    model = imported(tmp_path, tiny_model, reference=tmp_path / "other")
    data = prepared(tiny_model, tmp_path / "a", pair_rows(84))
    loaded = []
    load = prepared_answers.own_reference
    monkeypatch.setattr(prepared_answers, "own_reference", lambda *given: loaded.append(1) or load(*given))
    training = {"evaluation_strategy": "epoch"}
    wanted = {"precompute_ref_log_probs": True}
    first, second = (
        train(
            settings_with("dpo", training | {"learning_rate": rate}, {}, preference=wanted), model, data, tmp_path / n
        )
        for rate, n in ((1e-3, "first"), (2e-3, "second"))
    )
    assert loaded == [1]
    assert first["points"][0]["loss"] == second["points"][0]["loss"] != math.log(2)
    assert len(second["evaluations"]) == 1


def test_an_adapter_that_learned_nothing_leaves_the_base_as_it_is(tiny_model, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from steps.evaluate.before import model_before

    plain = AutoModelForCausalLM.from_pretrained(tiny_model)
    get_peft_model(plain, LoraConfig(task_type="CAUSAL_LM")).save_pretrained(tmp_path / "new")
    model = imported(tmp_path, tiny_model, tmp_path / "new", "continue")
    with model_before(model, tmp_path / "near") as before:
        assert before == model


def test_a_resumed_training_ends_like_an_unbroken_one(tiny_model, model, tmp_path, root):
    data = prepared(tiny_model, tmp_path / "a", pair_rows(84))
    train(
        settings_with("dpo", checkpoints=CheckpointParams(save_steps=4, keep_checkpoints="true")),
        model,
        data,
        tmp_path / "whole",
    )
    [half] = (root / "checkpoints").glob("*/*/checkpoint-4")
    moved = half.rename(tmp_path / "checkpoint-4")
    resumed = settings_with("dpo", checkpoints=CheckpointParams(resume_from_checkpoint=str(moved)))
    history = train(resumed, model, data, tmp_path / "resumed")
    assert history["resumed_from"] == 4
    ours, theirs = (tensors(tmp_path / name / "tuned", "adapter_model.safetensors") for name in ("resumed", "whole"))
    assert all(ours[name].equal(theirs[name]) for name in theirs)


def measured(model: Path, data: Path, out: Path, task: str = "preference", **settings) -> dict:
    merge_adapter(model, out / "tuned", out / "merged")
    evaluate(
        EvaluationSettings(task=task, batch_size=4, **settings), model, out / "tuned", out / "merged", data,
        out / "evaluation", out / "evaluation.html",
    )  # fmt: skip
    return json.loads((out / "evaluation/metrics.json").read_text())


def test_the_base_is_the_model_with_the_adapter_as_it_came(tiny_model, adapter, model, tmp_path):
    data = prepared(tiny_model, tmp_path / "a", pair_rows(84))
    ours = tmp_path / "ours"
    train(settings_with("dpo"), model, data, ours)
    gate = EvaluationParams(gate_metric="reward_accuracy", evaluation_max_new_tokens=4)
    told = measured(model, data, ours, method="dpo", evaluation=gate)
    rows = pq.read_table(data / "tokens/test.parquet").to_pylist()
    before = logps(continuing(tiny_model, adapter).eval(), rows, "chosen")
    assert told["base"]["loss"] == pytest.approx(math.log(2))
    table = pq.read_table(ours / "evaluation/predictions.parquet")
    assert table["base_chosen_logp"].to_pylist() == pytest.approx(before, abs=1e-3)
    assert "with the adapter" in told["base_is"]
    assert told["base_is"].split(",")[0] in (ours / "evaluation.html").read_text()
    assert not list(ours.glob(".before-*"))
    after = logps(continuing(tiny_model, ours / "tuned").eval(), rows, "chosen")
    assert table["tuned_chosen_logp"].to_pylist() == pytest.approx(after, abs=1e-3)


def test_rewards_are_measured_against_the_reference_of_the_training(tiny_model, tmp_path):
    from transformers import AutoModelForCausalLM

    build_model(tmp_path / "other", num_hidden_layers=1)
    model = imported(tmp_path, tiny_model, reference=tmp_path / "other")
    data = prepared(tiny_model, tmp_path / "a", pair_rows(84))
    ours = tmp_path / "ours"
    train(settings_with("dpo", lora={}), model, data, ours)
    gate = EvaluationParams(gate_metric="reward_accuracy", evaluation_max_new_tokens=4)
    told = measured(model, data, ours, method="dpo", evaluation=gate, beta=0.3)
    rows = pq.read_table(data / "tokens/test.parquet").to_pylist()
    folders = {"tuned": ours / "tuned", "base": tiny_model, "reference": tmp_path / "other"}
    models = {name: AutoModelForCausalLM.from_pretrained(folder).eval() for name, folder in folders.items()}
    ahead = {
        name: [one - two for one, two in zip(logps(one, rows, "chosen"), logps(one, rows, "rejected"), strict=True)]
        for name, one in models.items()
    }
    for name in ("base", "tuned"):
        margins = [0.3 * (now - then) for now, then in zip(ahead[name], ahead["reference"], strict=True)]
        assert told[name]["reward_margin"] == pytest.approx(sum(margins) / len(margins), abs=1e-4)
        assert told[name]["reward_accuracy"] == sum(margin > 0 for margin in margins) / len(margins)
    assert "reference model of the training" in (ours / "evaluation.html").read_text()


def test_an_adapter_on_a_merged_model_does_not_claim_the_base_of_the_first(tiny_model, adapter, tmp_path):
    from transformers import AutoTokenizer

    model = imported(tmp_path, tiny_model, adapter, "merge")
    data = write_tokens(tmp_path / "data", AutoTokenizer.from_pretrained(tiny_model), chat_rows(60))
    train(settings_with("sft", {"max_steps": 2}, {"apply_lora": True}), model, data, tmp_path / "ours")
    assert not json.loads((tmp_path / "ours/tuned/adapter_config.json").read_text())["base_model_name_or_path"]
    assert read_manifest(tmp_path / "ours/tuned").lineage["inputs"]["model"] == read_manifest(model).digest


def test_an_imported_adapter_is_never_ignored(tiny_model, model, tmp_path):
    from transformers import AutoTokenizer

    from steps.errors import UserError

    data = write_tokens(tmp_path / "data", AutoTokenizer.from_pretrained(tiny_model), chat_rows(60))
    with pytest.raises(UserError, match="TRAIN-E0215"):
        train(settings_with("sft", lora={}), model, data, tmp_path / "ours")
