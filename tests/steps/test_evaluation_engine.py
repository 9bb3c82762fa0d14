"""Answers of an evaluation by vLLM, with a stand-in that generates as transformers does; tests/serving has the real."""

import json
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import build_model, chat_rows, write_jsonl
from transformers import AutoModelForCausalLM, AutoTokenizer

from steps.errors import UserError
from steps.evaluate import answers_by_vllm, generated
from steps.evaluate.held_out import HeldOut
from steps.evaluate.transformers_engine import measure
from steps.generation import vllm_engine
from steps.params.settings import EvaluationSettings

TEXTS = ["Count to ten: 1 2 3", "The quick brown fox", "the " * 300, "Paris"]


def held_out(**more) -> HeldOut:
    ids, prompts = np.array([1, 5, 6]), [*TEXTS, None]
    return HeldOut([ids] * 5, [ids] * 5, prompts, [None] * 5, rendered=False, **more)


def asked(engine: str, **more) -> EvaluationSettings:
    given = {"evaluation_max_new_tokens": 12, "evaluation_engine": engine}
    return EvaluationSettings(task="chat_completion", evaluation=given, **more)


@pytest.fixture
def folder(tmp_path) -> Path:
    build_model(tmp_path / "model", initializer_range=0.2, tie_word_embeddings=False)
    return tmp_path / "model"


@pytest.fixture
def stand_in(monkeypatch) -> list:
    """Put an engine in vLLM's place that asks `generate` for each prompt; returns the settings that it was given."""
    given = []

    class Engine:
        def __init__(self, settings, folder):
            self.model = AutoModelForCausalLM.from_pretrained(folder)
            self.ends = [int(one) for one in settings.decoding.eos_tokens.split(",")]

        @torch.inference_mode()
        def answer(self, prompts):
            for number, prompt in reversed(list(enumerate(prompts))):
                ids = torch.tensor([prompt.ids])
                written = self.model.generate(
                    ids, max_new_tokens=prompt.most, eos_token_id=self.ends, do_sample=False, pad_token_id=0
                )
                yield number, tuple(written[0, len(prompt.ids) :].tolist())

    @contextmanager
    def opened(settings, folder):
        given.append(settings)
        yield Engine(settings, folder)

    monkeypatch.setattr(vllm_engine, "open_engine", opened)
    return given


def test_answers_of_vllm_are_asked_for_as_those_of_transformers(folder, stand_in):
    ours, theirs = (measure(folder, held_out(), asked(name)) for name in ("accelerate", "vllm"))
    assert theirs.answers == ours.answers
    assert len(set(ours.answers)) == 5
    assert theirs.row_losses == ours.row_losses
    assert (ours.engine, theirs.engine) == ("", "vllm")
    (given,) = stand_in
    assert (given.engine.inference_precision, given.engine.tensor_parallel_size) == ("full", 1)
    assert (given.decoding.max_new_tokens, given.decoding.max_length) == (12, 256)  # the model's positions


def test_metrics_tell_who_wrote_the_answers(folder, stand_in, monkeypatch):
    rows = held_out()
    rows = HeldOut(rows.input_ids, rows.labels, rows.prompts, [*TEXTS, None], rendered=False)
    monkeypatch.setattr(generated, "read_held_out", lambda *_: rows)
    told = [generated.compare(asked(name), folder, folder, folder).more for name in ("accelerate", "vllm")]
    assert [one.get("answers_by") for one in told] == [None, "vllm"]


def test_the_end_of_a_turn_ends_an_answer(folder, stand_in):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(TEXTS[:1], return_tensors="pt")["input_ids"]
    number = int(AutoModelForCausalLM.from_pretrained(folder).generate(ids, max_new_tokens=1, do_sample=False)[0, -1])
    token = tokenizer.convert_ids_to_tokens(number)
    ours, theirs = (measure(folder, held_out(end_of_turn=token), asked(name)) for name in ("accelerate", "vllm"))
    assert theirs.answers == ours.answers
    assert ours.answers[0] == ""
    assert str(number) in stand_in[-1].decoding.eos_tokens.split(",")


def test_auto_needs_a_gpu(folder, stand_in, monkeypatch):
    monkeypatch.setattr(answers_by_vllm, "find_spec", lambda name: object())
    assert not answers_by_vllm.is_chosen(asked("auto"), folder)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert answers_by_vllm.is_chosen(asked("auto"), folder)
    monkeypatch.setattr(answers_by_vllm, "find_spec", lambda name: None)
    assert not answers_by_vllm.is_chosen(asked("auto"), folder)


def test_a_learned_prompt_is_left_to_transformers(folder, monkeypatch):
    monkeypatch.setattr(answers_by_vllm, "kept_adapter_of", lambda model: model)
    assert not answers_by_vllm.is_chosen(asked("auto"), folder)
    with pytest.raises(UserError, match=r"EVAL-E0209 evaluation_engine.*Fix: set evaluation_engine=accelerate"):
        answers_by_vllm.is_chosen(asked("vllm"), folder)


def test_a_machine_without_vllm_says_so(folder):
    with pytest.raises(UserError, match="GEN-E0245"):
        measure(folder, held_out(), asked("vllm"))


def test_the_plan_looks_for_vllm(folder, tmp_path, monkeypatch):
    from steps.running import run_here

    rows = write_jsonl(tmp_path / "train.jsonl", chat_rows(60))
    given = {"pytorch_model_path": str(folder), "train_file_path": str(rows), "register_tuned_model": False,
             "number_of_gpu_to_use_finetuning": 0, "evaluation_engine": "vllm"}  # fmt: skip
    places = {"plan": tmp_path / "plan", "report": tmp_path / "report.html"}
    with pytest.raises(UserError, match="PLAN-E0311 evaluation_engine: found vllm, but the package vllm is missing"):
        run_here("plan", pipeline="chat_completion", arguments=given, **places)
    monkeypatch.setattr("steps.plan.packages._is_installed", lambda package: True)
    run_here("plan", pipeline="chat_completion", arguments=given, **places)
    told = json.loads((tmp_path / "plan/plan.json").read_text())
    assert any(one.startswith("evaluation_engine=vllm: the image of evaluate") for one in told["warnings"])
    with pytest.raises(UserError, match=r"evaluation_engine.*nothing is generated"):
        run_here("plan", pipeline="text_classification", arguments=given, **places)
