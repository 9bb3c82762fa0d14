"""NEFTune noise, determinism, attention, model configuration: each affects the training, or the plan refuses it."""

import json
import re
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl
from training_inputs import settings_with

from steps.errors import UserError
from steps.finetune.step import finetune
from steps.plan.step import plan


def train(out: Path, inputs: tuple[Path, Path], **training) -> list[float]:
    model, data = inputs
    settings = settings_with({"max_steps": 4, "evaluation_strategy": "no", **training})
    finetune(settings, model, data, out / "tuned", out / "checkpoints", out / "report.html")
    return [point["loss"] for point in json.loads((out / "tuned/history.json").read_text())["points"]]


@pytest.mark.slow
def test_noise_on_the_embeddings_changes_the_losses_and_only_while_training(chat_inputs, tmp_path):
    plain, noisy, again = (
        train(tmp_path / name, chat_inputs, neftune_noise_alpha=alpha)
        for name, alpha in (("a", 0.0), ("b", 5.0), ("c", 5.0))
    )
    assert noisy == again
    assert noisy[0] != plain[0]


@pytest.mark.slow
@pytest.mark.parametrize("level", ["half", "full"])
def test_a_deterministic_training_gives_equal_bytes_and_says_so_to_torch(chat_inputs, tmp_path, level):
    import torch

    try:
        for name in ("a", "b"):
            train(tmp_path / name, chat_inputs, determinism=level)
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled() == (level == "half")
    finally:
        torch.use_deterministic_algorithms(False)
    first, second = ((tmp_path / name / "tuned/model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["causal_lm", "sequence_classification"])
def test_attention_and_configuration_are_those_that_were_asked_for(chat_inputs, kind):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from steps.finetune.heads import load_with_head
    from steps.finetune.loading import load_model

    model, _ = chat_inputs
    settings = settings_with({"attn_implementation": "eager", "model_args": {"attention_dropout": 0.25}})
    if kind == "causal_lm":
        loaded = load_model(model, settings)
    else:
        tokenizer = AutoTokenizer.from_pretrained(model)
        loaded = load_with_head(AutoModelForSequenceClassification, model, settings, tokenizer, num_labels=3)
    assert loaded.config._attn_implementation == "eager"
    assert loaded.config.attention_dropout == 0.25


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attn_implementation": "flash_attention_2"}, "PARAM-E0215 attn_implementation: .*precision=32"),
        (
            {"attn_implementation": "flash_attention_2", "precision": "16"},
            "PLAN-E0316 attn_implementation: .*without a GPU",
        ),
        (
            {"model_args": {"trust_remote_code": True}},
            "PARAM-E0218 model_args.trust_remote_code: .*code from model folders is never run",
        ),
        ({"model_args": {"dtype": "float16"}}, "PARAM-E0218 model_args.dtype: .*set precision"),
        (
            {"model_args": {"atention_dropout": 0.1}},
            "PLAN-E0317 model_args.atention_dropout: .*did you mean attention_dropout",
        ),
        ({"determinism": "some"}, "PARAM-E0102 determinism"),
        ({"neftune_noise_alpha": -1.0}, "PARAM-E0103 neftune_noise_alpha"),
    ],
)
def test_what_cannot_work_is_refused_by_the_plan(tiny_model, tmp_path, monkeypatch, changes, words):
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    file = write_jsonl(tmp_path / "chat.jsonl", chat_rows(60))
    given = {"pytorch_model_path": str(tiny_model), "train_file_path": str(file), "number_of_gpu_to_use_finetuning": 0}
    with pytest.raises(UserError) as caught:
        plan("chat_completion", {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")
    assert re.search(words, str(caught.value))
