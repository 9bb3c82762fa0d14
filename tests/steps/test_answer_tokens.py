"""Of a generated answer only end and padding tokens are left out, wherever it is generated."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import build_tokenizer
from encoder_decoders import build_bart, build_m2m100, build_mbart, build_t5
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from steps.finetune.trainers.seq2seq import measure_answers
from steps.generation import encoder_decoders, generating
from steps.generation.decoding import answer_tokens
from steps.register_model.pyfunc_model import CausalModel
from steps.register_model.served_texts import Model


@pytest.mark.parametrize(
    ("row", "opening", "kept"),
    [
        ([7, 2, 0, 0], (), [7]),
        ([7, 8, 9], (), [7, 8, 9]),
        ([2, 7], (), []),
        ([7, 0, 8, 3, 9], (), [7, 8]),
        ([2, 5, 7, 5, 2, 0], (2, 5), [7, 5]),
        ([0, 7, 2], (0,), [7]),
        ([], (2,), []),
    ],
)
def test_an_answer_ends_before_its_first_end_token_and_has_no_padding(row, opening, kept):
    assert answer_tokens(row, {2, 3}, 0, opening) == kept


class Parrot:
    """A causal model that answers every prompt with the same tokens."""

    def __init__(self, said: list[int], ends: list[int]):
        self.said, self.device = said, "cpu"
        config = SimpleNamespace(max_position_embeddings=None)
        self.config = SimpleNamespace(get_text_config=lambda: config)
        self.generation_config = GenerationConfig(eos_token_id=ends)

    def generate(self, input_ids, **_):
        return torch.cat([input_ids, torch.tensor([self.said] * len(input_ids))], dim=1)


@pytest.mark.parametrize("answer", ["<yes>", "<yes><no>", "a <yes> b", "<|endoftext|>", ""])
def test_causal_models_say_added_tokens_in_evaluation_and_served(tmp_path, answer):
    build_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, padding_side="left")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<yes>", "<no>"]})
    expected = answer.replace("<|endoftext|>", "")  # the padding token
    ids = tokenizer(answer)["input_ids"]
    model = Parrot([*ids, tokenizer.eos_token_id, *ids, tokenizer.pad_token_id], [tokenizer.eos_token_id])
    how = {"rendered": True, "max_new_tokens": 8, "batch_size": 2}
    assert generating.answers(model, tokenizer, ["Is it?", "And now?"], **how) == [expected, expected]
    served = CausalModel()
    served.model, served.tokenizer = model, tokenizer
    served.reference = {"task": "text_generation", "prompt_form": ["", ""], "max_new_tokens": 8}
    assert served.predict(None, ["Is it?", "And now?"]) == [expected, expected]


@pytest.mark.parametrize("build", [build_t5, build_bart, build_mbart, build_m2m100])
def test_encoder_decoders_say_added_tokens_in_training_evaluation_and_served(tmp_path, build):
    folder = tmp_path / "model"
    build(folder)
    model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<yes>", "<no>"]}, replace_extra_special_tokens=False)
    labels = tokenizer(text_target="<yes><no>")["input_ids"]
    first = model.generation_config.decoder_start_token_id
    first = labels[-1] if first is None else first  # mBART begins with the language, which its labels end with
    model.generation_config.decoder_start_token_id = first
    said = [first, *labels, tokenizer.pad_token_id]
    model.generate = lambda *_, **inputs: torch.tensor([said] * len(inputs["input_ids"]))
    how = encoder_decoders.answering(model, tokenizer, 12, 1, {})
    if build is build_m2m100:  # it begins with the language behind the first token
        model.generation_config.forced_bos_token_id = labels[0]
    rows = [np.array([5, 6, 2]), np.array([5, 2])]
    [one, other] = encoder_decoders.answers(model, tokenizer, rows, how=how, batch_size=2)
    assert one.replace(" ", "") == other.replace(" ", "") == "<yes><no>"
    served = Model.__new__(Model)
    served.model, served.tokenizer = model, tokenizer
    served.reference = {"prompt_form": ("", ""), "max_length": 32, "max_new_tokens": 12, "num_beams": 1}
    assert served.predict(["red fox"]) == [one]
    padded = [*labels, *[-100] * 2]
    predicted = SimpleNamespace(predictions=np.array([said]), label_ids=np.array([padded[: len(said)]]))
    measured = measure_answers(predicted, tokenizer, model, how)
    assert measured["exact_match"] == 1
    assert measured["gen_len"] == 2
