"""Preference training: every method trains exactly as TRL's trainer does, and can be resumed."""

import json
import math
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from preferences import pair_rows, prepared, rated_rows
from training_inputs import TRAINING, as_imported, train

from steps.evaluate.step import evaluate
from steps.merge_adapter.step import merge_adapter
from steps.params.evaluation import EvaluationParams
from steps.params.settings import EvaluationSettings, FinetuneSettings
from steps.params.training import CheckpointParams, TrainingParams

pytestmark = pytest.mark.slow

METHODS = ("dpo", "ipo", "kto", "orpo", "cpo", "simpo")
# One of each trainer of TRL, and of each form of evaluation; the others are tested with the long tests.
OF_EACH_TRAINER = ("dpo", "kto", "orpo", "simpo")


def in_full_and_lora(cases: dict[str, tuple], with_lora: tuple[str, ...]) -> list:
    """Every case trains all weights; those that are not `with_lora` train an adapter in the long tests only."""
    return [
        pytest.param(
            *case, lora, id=f"{name}-{'lora' if lora else 'full'}",
            marks=pytest.mark.long if lora and name not in with_lora else (),
        )
        for name, case in cases.items() for lora in (False, True)
    ]  # fmt: skip


@pytest.fixture
def base(tiny_model, tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return as_imported(tiny_model, tmp_path / "model")


def settings_with(preference: dict, training: dict | None = None, **changes) -> FinetuneSettings:
    made = TrainingParams(**{**TRAINING, "max_steps": 12, **(training or {})})
    return FinetuneSettings(pipeline="preference", training=made, max_length=64, preference=preference, **changes)


def bare(trainer: str, where: str, base: Path, rows: list[dict], out: Path, lora: bool, **loss) -> list[dict]:
    """Train with TRL alone, its own preparation included; give what it logs."""
    import importlib

    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trl = importlib.import_module(where)
    arguments = getattr(trl, f"{trainer}Config")(
        output_dir=str(out), max_steps=12, learning_rate=1e-3, per_device_train_batch_size=4, max_length=64,
        lr_scheduler_type="cosine", warmup_steps=2, weight_decay=0.01, optim="adamw_torch", logging_steps=1,
        gradient_checkpointing=False, bf16=False, save_strategy="no", use_cpu=True, report_to="none",
        disable_tqdm=True, **loss,
    )  # fmt: skip
    adapter = LoraConfig(r=8, lora_alpha=128, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base)
    made = getattr(trl, f"{trainer}Trainer")(
        model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer,
        peft_config=adapter,
    )  # fmt: skip
    made.train()
    told = ("loss", "rewards/margins")
    return [{name: entry.get(name) for name in told} for entry in made.state.log_history if "loss" in entry]


def assert_equal_traces(ours: dict, theirs: list[dict]) -> None:
    assert len(theirs) == 12
    assert [point["loss"] for point in ours["points"]] == pytest.approx([one["loss"] for one in theirs], abs=1e-6)
    name = "rewards/margins"
    margins = [one.get(name) for one in theirs]
    assert [point.get(name) for point in ours["points"]] == pytest.approx(margins, abs=1e-5)


OF_DPO = {
    "dpo": ({}, {"loss_type": "sigmoid"}),
    "ipo": ({"method": "ipo", "beta": 0.3}, {"loss_type": "ipo", "beta": 0.3}),
    "mpo": (
        {"loss_type": "sigmoid, sft", "loss_weights": "0.8,0.2"},
        {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.8, 0.2]},
    ),
    "robust": ({"loss_type": "robust", "label_smoothing": 0.1}, {"loss_type": "robust", "label_smoothing": 0.1}),
    "precomputed": ({"precompute_ref_log_probs": True}, {}),
}


@pytest.mark.parametrize(("preference", "loss", "lora"), in_full_and_lora(OF_DPO, ("dpo", "precomputed")))
def test_dpo_trains_as_trl_alone(base, tmp_path, preference, loss, lora, peer):
    rows = pair_rows(84)
    settings = settings_with(preference, {"evaluation_strategy": "no"}, lora={"apply_lora": lora})
    ours = train(settings, base, prepared(base, tmp_path / "a", rows), tmp_path / "ours")
    assert_equal_traces(ours, peer(bare, "DPO", "trl", base, rows[:60], tmp_path / "bare", lora, **loss))


OF_KTO = {
    "kto": ({},),
    "apo": ({"loss_type": "apo_zero_unpaired"},),
    "weighted": ({"desirable_weight": 0.5},),
    "precomputed": ({"precompute_ref_log_probs": True},),
}


@pytest.mark.parametrize(("loss", "lora"), in_full_and_lora(OF_KTO, ("kto", "precomputed")))
def test_kto_trains_as_trl_alone_on_rows_in_the_same_order(base, tmp_path, loss, lora, peer):
    from steps.tasks import kto

    data = prepared(base, tmp_path / "a", rated_rows(84))
    settings = settings_with({"method": "kto", **loss}, {"evaluation_strategy": "no"}, lora={"apply_lora": lora})
    ours = train(settings, base, data, tmp_path / "ours")
    rows = pq.read_table(data / "rows/train.parquet").to_pylist()
    given = [kto.training_row(row, kto.Columns()) for row in rows]
    assert_equal_traces(ours, peer(bare, "KTO", "trl", base, given, tmp_path / "bare", lora, **loss))


WITHOUT_REFERENCE = {
    "orpo": ({"method": "orpo"}, "ORPO", {}),
    "cpo": ({"method": "cpo", "cpo_alpha": 0.5}, "CPO", {"cpo_alpha": 0.5}),
    "simpo": (
        {"method": "simpo", "beta": 2.0, "simpo_gamma": 1.0},
        "CPO",
        {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0},
    ),
}


@pytest.mark.parametrize(
    ("preference", "trainer", "loss", "lora"), in_full_and_lora(WITHOUT_REFERENCE, ("orpo", "simpo"))
)
def test_methods_without_reference_train_as_trl_alone(base, tmp_path, preference, trainer, loss, lora, peer):
    rows = pair_rows(84, chat=False)  # of conversations these trainers make other tokens than DPO's
    settings = settings_with(preference, {"evaluation_strategy": "no"}, lora={"apply_lora": lora})
    ours = train(settings, base, prepared(base, tmp_path / "a", rows), tmp_path / "ours")
    where = f"trl.experimental.{trainer.lower()}"
    assert_equal_traces(ours, peer(bare, trainer, where, base, rows[:60], tmp_path / "bare", lora, **loss))
    assert ours["tokens_per_second"] > 0


@pytest.mark.parametrize(
    "method", [pytest.param(one, marks=() if one in OF_EACH_TRAINER else pytest.mark.long) for one in METHODS]
)
def test_every_method_moves_the_answers_apart_and_keeps_the_best_step(base, tmp_path, method):
    rated = method == "kto"
    data = prepared(base, tmp_path / "a", (rated_rows if rated else pair_rows)(84))
    metric = "loss" if rated else "rewards/margins"
    training = {"num_train_epochs": 2, "max_steps": -1, "metric_for_best_model": metric, "learning_rate": 2e-3}
    history = train(settings_with({"method": method}, training), base, data, tmp_path / "ours")
    assert history["best"]["metric"] == f"validation {metric}"
    assert len(history["evaluations"]) == 2
    settings = EvaluationSettings(
        task="kto" if rated else "preference", method="dpo", batch_size=4,
        evaluation=EvaluationParams(gate_metric="reward_accuracy"),
    )  # fmt: skip
    merge_adapter(base, tmp_path / "ours/tuned", tmp_path / "merged")
    passed = evaluate(
        settings, base, tmp_path / "ours/tuned", tmp_path / "merged", data, tmp_path / "e", tmp_path / "r.html"
    )  # fmt: skip
    scores = json.loads((tmp_path / "e/metrics.json").read_text())
    assert passed
    assert scores["base"]["loss"] == pytest.approx(math.log(2))
    assert scores["tuned"]["reward_margin"] > 0 == scores["base"]["reward_margin"]
    assert ("reward_auc" in scores["tuned"]) is rated
    page = (tmp_path / "r.html").read_text()
    assert "its loss is ln 2" in page
    assert "Sample rows" in page


def test_log_probabilities_of_the_reference_are_computed_once(base, tmp_path, monkeypatch):
    from trl import DPOTrainer

    data = prepared(base, tmp_path / "a", pair_rows(84))
    asked = []
    ask = DPOTrainer.compute_ref_log_probs
    monkeypatch.setattr(
        DPOTrainer, "compute_ref_log_probs", lambda *given: asked.append(1) or ask(*given)
    )  # fmt: skip
    given = {"method": "dpo", "precompute_ref_log_probs": True}
    training = {"evaluation_strategy": "no"}
    whole = train(settings_with(given, training), base, data, tmp_path / "first")
    assert len(asked) == 15
    again = settings_with(given, training, checkpoints=CheckpointParams(resume_from_checkpoint="false"))
    assert train(again, base, data, tmp_path / "second")["points"] == whole["points"]
    assert len(asked) == 15


def test_the_numbers_are_those_of_plain_transformers(base, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    data = prepared(base, tmp_path / "a", pair_rows(84))
    train(settings_with({}), base, data, tmp_path / "ours")
    settings = EvaluationSettings(task="preference", method="dpo", batch_size=4, beta=0.3,
                                  evaluation=EvaluationParams(evaluation_max_new_tokens=20))  # fmt: skip
    merge_adapter(base, tmp_path / "ours/tuned", tmp_path / "merged")
    evaluate(settings, base, tmp_path / "ours/tuned", tmp_path / "merged", data, tmp_path / "e", tmp_path / "r.html")
    rows = pq.read_table(data / "tokens/test.parquet").to_pylist()

    def logp(model, prompt: list[int], answer: list[int]) -> float:
        with torch.no_grad():
            chances = model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        return sum(chances[len(prompt) + place - 1, token].item() for place, token in enumerate(answer))

    margins = []
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (tmp_path / "ours/tuned", base)]
    for row in rows:
        now, before = (
            logp(model, row["prompt_ids"], row["chosen_ids"]) - logp(model, row["prompt_ids"], row["rejected_ids"])
            for model in models
        )
        margins.append(0.3 * (now - before))
    told = pq.read_table(tmp_path / "e/predictions.parquet")["margin"].to_pylist()
    assert told == pytest.approx(margins, abs=1e-4)
    scores = json.loads((tmp_path / "e/metrics.json").read_text())["tuned"]
    assert scores["reward_margin"] == pytest.approx(sum(margins) / 12, abs=1e-4)
    assert scores["reward_accuracy"] == sum(margin > 0 for margin in margins) / 12
    tokenizer = AutoTokenizer.from_pretrained(base)
    said = pq.read_table(tmp_path / "e/predictions.parquet")["tuned_answer"].to_pylist()
    for row, text in zip(rows[:5], said, strict=False):
        prompt = torch.tensor([row["prompt_ids"]])
        output = models[0].generate(prompt, do_sample=False, max_new_tokens=20, attention_mask=torch.ones_like(prompt))
        assert text == tokenizer.decode(output[0, prompt.shape[1] :], skip_special_tokens=True)
    assert said[5:] == [None] * 7
    assert "Generated answers" in (tmp_path / "r.html").read_text()


def test_a_model_tuned_on_conversations_is_served_as_a_chat():
    from types import SimpleNamespace

    from steps.register_model.packaging import is_chat

    for chat in (True, False):
        metrics = {"preferences": {"chat": chat}}
        assert is_chat(SimpleNamespace(settings=SimpleNamespace(task="preference"), metrics=metrics)) is chat


@pytest.mark.parametrize(
    "preference", [{}, {"precompute_ref_log_probs": True}, {"method": "kto"}, {"method": "orpo"}], ids=str
)
def test_a_resumed_training_ends_like_an_unbroken_one(base, tmp_path, preference):
    from safetensors.torch import load_file

    rated = preference.get("method") == "kto"
    data = prepared(base, tmp_path / "a", (rated_rows if rated else pair_rows)(84))
    given = {"evaluation_strategy": "no"}
    whole = settings_with(preference, given, checkpoints=CheckpointParams(save_steps=6, keep_checkpoints="true"))
    train(whole, base, data, tmp_path / "whole")
    [half] = (tmp_path / "root/checkpoints").glob("*/*/checkpoint-6")
    moved = half.rename(tmp_path / "checkpoint-6")  # the reference's numbers stay, as they would
    resumed = settings_with(preference, given, checkpoints=CheckpointParams(resume_from_checkpoint=str(moved)))
    history = train(resumed, base, data, tmp_path / "resumed")
    assert history["resumed_from"] == 6
    ours, theirs = (load_file(tmp_path / name / "tuned/model.safetensors") for name in ("resumed", "whole"))
    assert all(bool((ours[name] == theirs[name]).all()) for name in theirs)
