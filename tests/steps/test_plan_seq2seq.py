"""The model's configuration determines whether it is an encoder-decoder, and which parameters are allowed."""

import json
from pathlib import Path

import pytest
from conftest import write_jsonl

from steps import wire
from steps.errors import UserError
from steps.params.settings import DataSettings, EvaluationSettings, FinetuneSettings, RegistrationSettings
from steps.plan.activations import encoder_and_decoder
from steps.plan.step import plan

BART = {"model_type": "bart", "is_encoder_decoder": True, "d_model": 1024, "encoder_layers": 12, "decoder_layers": 6,
        "encoder_ffn_dim": 4096, "vocab_size": 50265, "max_position_embeddings": 1024}  # fmt: skip
T5 = {"model_type": "t5", "is_encoder_decoder": True, "d_model": 512, "num_layers": 6, "d_ff": 2048,
      "vocab_size": 32128, "n_positions": 512}  # fmt: skip
MBART = {**BART, "model_type": "mbart"}


@pytest.fixture
def given(tiny_model, tmp_path, monkeypatch) -> dict:
    import shutil

    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    folder = Path(shutil.copytree(tiny_model, tmp_path / "model"))
    rows = [{"en": f"cat {n}", "de": f"Katze {n}", "document": f"{n} cats", "summary": "cats"} for n in range(60)]
    file = write_jsonl(tmp_path / "train.jsonl", rows)
    return {"pytorch_model_path": str(folder), "train_file_path": str(file), "number_of_gpu_to_use_finetuning": 0}


def planned(given: dict, tmp_path: Path, config: dict | None, task: str = "translation", **changes):
    if config:
        (Path(given["pytorch_model_path"]) / "config.json").write_text(json.dumps(config))
    return plan(task, {**given, **changes}, tmp_path / "plan", tmp_path / "plan.html")


def test_every_later_step_is_told(given, tmp_path):
    made = planned(given, tmp_path, T5, metric_for_best_model="bleu", num_beams=2, max_target_length=40,
                   evaluation_max_new_tokens=30)  # fmt: skip
    data, training, evaluation, registration = (
        kind.model_validate(wire.load(value))
        for kind, value in ((DataSettings, made.data), (FinetuneSettings, made.training),
                            (EvaluationSettings, made.evaluation), (RegistrationSettings, made.registration))
    )  # fmt: skip
    assert {data.kind, training.kind, evaluation.kind, registration.kind} == {"seq2seq_lm"}
    assert (data.max_length, data.max_target_length) == (256, 40)  # the tokenizer's limit; T5 itself has none
    assert (training.max_new_tokens, training.num_beams) == (30, 2)
    assert (evaluation.num_beams, registration.num_beams, registration.max_length) == (2, 2, 256)
    assert registration.prompt_form == ("translate English to German: ", "")
    assert data.columns == evaluation.columns
    told = json.loads((tmp_path / "plan/plan.json").read_text())
    assert all(told["memory"]["parts"].values())


def test_answers_are_written_while_training_only_when_they_choose_the_checkpoint(given, tmp_path):
    training = FinetuneSettings.model_validate(wire.load(planned(given, tmp_path, T5, num_beams=2).training))
    assert (training.max_new_tokens, training.num_beams) == (0, 1)


@pytest.mark.parametrize(
    ("config", "changes", "form"),
    [
        (T5, {}, ("translate English to German: ", "")),
        (T5, {"prompt_prefix": "put into German: "}, ("put into German: ", "")),
        (BART, {}, ("", "")),
        (MBART, {"prompt_prefix": "please: "}, ("please: ", "")),
        (None, {}, ("translate English to German: ", "\n")),
    ],
)
def test_only_a_model_of_several_tasks_gets_the_tasks_words(given, tmp_path, config, changes, form):
    made = planned(given, tmp_path, config, **changes)
    assert RegistrationSettings.model_validate(wire.load(made.registration)).prompt_form == form


@pytest.mark.parametrize(
    ("config", "task", "changes", "words"),
    [
        (T5, "translation", {"target_lang": "qaa"}, "PLAN-E0313 target_lang: found qaa with a T5"),
        (T5, "text_generation", {"text_key": "en"}, "PLAN-E0307 pytorch_model_path: .*summarization and translation"),
        ({**T5, "model_type": "whisper"}, "translation", {}, "PLAN-E0307 pytorch_model_path: .*one of the types bart"),
        (
            BART,
            "translation",
            {"max_target_length": 2000},
            "PLAN-E0305 max_target_length: found 2000",
        ),
        (BART, "translation", {"packing": True}, "PLAN-E0102 packing"),
        (BART, "translation", {"text_separator": " = "}, "PLAN-E0102 text_separator"),
        (BART, "translation", {"train_on_completions_only": False}, "PLAN-E0102 train_on_completions_only"),
        (BART, "summarization", {"summarization_lang": "de"}, "PLAN-E0102 summarization_lang: .*m2m_100 and mbart"),
        (None, "summarization", {"metric_for_best_model": "rougeL"}, "PLAN-E0312 metric_for_best_model"),
        (None, "translation", {"metric_for_best_model": "bleu"}, "PLAN-E0312 metric_for_best_model"),
        (None, "translation", {"max_target_length": 9}, "PLAN-E0102 max_target_length"),
        (None, "translation", {"num_beams": 2}, "PLAN-E0102 num_beams"),
        (None, "summarization", {"metric_for_best_model": "bleu"}, "PARAM-E0102 metric_for_best_model"),
    ],
)
def test_what_a_model_cannot_have_is_refused(given, tmp_path, config, task, changes, words):
    with pytest.raises(UserError, match=words) as caught:
        planned(given, tmp_path, config, task, **changes)
    assert len(caught.value.problems) == 1


def test_a_model_of_many_languages_is_told_the_language_of_the_summaries(given, tmp_path):
    made = planned(given, tmp_path, MBART, "summarization", summarization_lang="de")
    assert DataSettings.model_validate(wire.load(made.data)).columns["summarization_lang"] == "de"


@pytest.mark.parametrize(
    ("config", "layers"), [(BART, (12, 6)), (T5, (6, 6)), ({"num_layers": 2, "num_decoder_layers": 3}, (2, 3))]
)
def test_the_layers_of_both_halves_are_counted(config, layers):
    assert encoder_and_decoder(config) == layers
