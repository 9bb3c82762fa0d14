"""The engine accelerate: every parameter of decoding changes what is asked of it, or is refused by name."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import build_model
from encoder_decoders import build_bart, build_mbart, build_t5
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

from steps.errors import UserError
from steps.generation.decoding_rules import REFUSED, decoding_problems, fields_of_transformers
from steps.generation.engines import module_of, open_engine
from steps.generation.requests import Request
from steps.params.generation import DecodingParams
from steps.params.settings import GenerateSettings

TEXTS = ["What is", "Count to ten", "The quick brown", "user", "The fox is lazy. " * 8]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A Llama whose answers differ from prompt to prompt."""
    folder = tmp_path_factory.mktemp("engine") / "model"
    folder.mkdir()
    build_model(folder, initializer_range=0.3, max_position_embeddings=512)
    return folder


def settings(engine=None, quantisation=None, kind="causal_lm", **decoding):
    return GenerateSettings(
        kind=kind,
        decoding={"max_new_tokens": 12, **decoding},
        engine={"test_batch_size": 3, **(engine or {})},
        quantisation=quantisation or {},
    )


def asked(texts, rendered=False):
    return [Request(number, text, rendered, seed=100 + number) for number, text in enumerate(texts)]


def run(folder, texts=TEXTS, adapter=None, rendered=False, **given):
    with open_engine(settings(**given), folder, adapter) as engine:
        told = dict(engine.complete(asked(texts, rendered)))
    return [told[number] for number in range(len(texts))]


def texts_of(answers):
    return [answer.text for answer in answers]


def by_generate(folder, text, **how):
    """Tokens of transformers' own `generate`."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer(text, return_tensors="pt")["input_ids"]
    config = GenerationConfig(**{"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": 2, **how})
    output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    return tuple(output[0, ids.shape[1] :].tolist())


def test_greedy_answers_are_those_of_generate(model):
    answers = run(model)
    assert [answer.token_ids for answer in answers] == [by_generate(model, text) for text in TEXTS]
    tokenizer = AutoTokenizer.from_pretrained(model)
    for text, answer in zip(TEXTS, answers, strict=True):
        assert answer.prompt_tokens == len(tokenizer(text)["input_ids"])
        assert answer.completion_tokens == len(answer.token_ids) == 12
        assert (answer.finish_reason, answer.truncated, answer.logprobs) == ("length", False, None)
        assert answer.text == tokenizer.decode(answer.token_ids)


GREEDY = {
    "repetition_penalty": 1.6, "no_repeat_ngram_size": 1, "min_length": 40, "min_new_tokens": 12,
}  # fmt: skip


@pytest.mark.parametrize("name", GREEDY)
def test_penalties_and_least_lengths_are_those_of_generate(model, name):
    changes = {name: GREEDY[name]}
    ends = run(model)[0].token_ids[2:4]  # tokens that would end the answer soon
    more = {"eos_token_id": [2, *ends]}
    right = [by_generate(model, text, **changes, **more) for text in TEXTS]
    assert right != [by_generate(model, text, **more) for text in TEXTS]
    told = run(model, **changes, eos_tokens=",".join(map(str, ends)))
    assert [answer.token_ids for answer in told] == right


@pytest.mark.parametrize(
    "changes",
    [
        {"num_beams": 3},
        {"num_beams": 3, "length_penalty": 5.0},
        {"num_beams": 3, "early_stopping": "true"},
        {"num_beams": 3, "early_stopping": "never", "length_penalty": -3.0},
    ],
)
def test_beam_search_is_that_of_generate(model, changes):
    named = {"true": True, "never": "never"}
    more = {**changes, "early_stopping": named.get(changes.get("early_stopping"), False)}
    ends = list(range(100, 140))
    right = [by_generate(model, text, eos_token_id=[2, *ends], **more) for text in TEXTS]
    cut = [next((row[: place + 1] for place, t in enumerate(row) if t in (2, *ends)), row) for row in right]
    told = run(model, eos_tokens=",".join(map(str, ends)), **changes)
    assert [answer.token_ids for answer in told] == cut


def test_parameters_of_beams_change_answers(model):
    ends = {"eos_tokens": ",".join(map(str, range(60, 200))), "num_beams": 4}
    plain = texts_of(run(model, **ends))
    assert texts_of(run(model, **ends, length_penalty=8.0)) != plain
    assert texts_of(run(model, **ends, early_stopping="true", length_penalty=8.0)) != texts_of(
        run(model, **ends, length_penalty=8.0)
    )


def test_a_beam_search_gives_its_best_beams_as_several_answers(model):
    with open_engine(settings(num_beams=4, num_return_sequences=2), model) as engine:
        requests = [Request(0, TEXTS[0], sample=0), Request(0, TEXTS[0], sample=1), Request(1, TEXTS[1], sample=0)]
        told = dict(engine.complete(requests))
    best = AutoModelForCausalLM.from_pretrained(model).generate(
        **AutoTokenizer.from_pretrained(model)(TEXTS[0], return_tensors="pt", return_token_type_ids=False),
        generation_config=GenerationConfig(max_new_tokens=12, num_beams=4, num_return_sequences=2, eos_token_id=2,
                                           pad_token_id=0),
    )  # fmt: skip
    assert [told[0].token_ids, told[1].token_ids] == [tuple(row[-12:]) for row in best.tolist()]
    assert told[0].text != told[1].text


SAMPLING = {
    "temperature": 3.0, "top_k": 2, "top_p": 0.2, "min_p": 0.5,
    "hf_gen_params": {"typical_p": 0.2},
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLING)
def test_every_parameter_of_drawing_changes_draws_and_not_their_seeds(model, name):
    told = texts_of(run(model, do_sample=True, **{name: SAMPLING[name]}))
    assert told != texts_of(run(model, do_sample=True))
    assert told == texts_of(run(model, do_sample=True, engine={"test_batch_size": 1}, **{name: SAMPLING[name]}))


def test_one_token_of_the_highest_probability_is_left_by_narrow_samplers(model):
    greedy = texts_of(run(model))
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"temperature": 1e-4}):
        assert texts_of(run(model, do_sample=True, **narrow)) == greedy
    assert texts_of(run(model, do_sample=True, top_k=0)) != greedy


def test_several_beams_can_be_drawn_with_the_rows_seed(model):
    given = {"do_sample": True, "num_beams": 2, "temperature": 2.0}
    told = texts_of(run(model, **given))
    assert told == texts_of(run(model, engine={"test_batch_size": 1}, **given)) != texts_of(run(model, num_beams=2))


def test_end_tokens_are_named_by_id_or_text(model):
    plain = run(model)[1]
    third = plain.token_ids[3]
    text = AutoTokenizer.from_pretrained(model).convert_ids_to_tokens(third)
    for name in (str(third), text):
        told = run(model, eos_tokens=f"{name}, <|im_start|>")[1]
        assert told.finish_reason == "stop"
        assert told.token_ids == plain.token_ids[:4]
        assert told.text == AutoTokenizer.from_pretrained(model).decode(plain.token_ids[:3])
    with pytest.raises(UserError, match="GEN-E0202") as error:
        run(model, eos_tokens="4000, <|im_strat|>")
    assert len(error.value.problems) == 2
    assert "did you mean <|im_start|>?" in str(error.value)


@pytest.mark.parametrize("cached", [True, False])
def test_an_answer_ends_before_a_stop_string(model, cached):
    plain = run(model)[2]
    stop = "oolh"
    told = run(model, stop_strings=[stop, "not there"], use_cache=cached)[2]
    assert told.text == plain.text[: plain.text.index(stop)]
    assert told.finish_reason == "stop"
    assert told.token_ids == plain.token_ids[: len(told.token_ids)]
    assert stop in AutoTokenizer.from_pretrained(model).decode(told.token_ids)
    assert stop not in AutoTokenizer.from_pretrained(model).decode(told.token_ids[:-1])


def test_stop_strings_are_looked_for_in_answers_only(model):
    assert texts_of(run(model, ["What is"], stop_strings=["is", "What"])) == texts_of(run(model, ["What is"]))


def test_stop_strings_that_the_tokens_cannot_spell_are_refused(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    build_model(tmp_path)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "a": 1, "b": 2}, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="b").save_pretrained(tmp_path)
    with pytest.raises(UserError, match="GEN-E0203"):
        run(tmp_path, ["a"], stop_strings=["###"])
    always = {"hf_gen_params": {"sequence_bias": [[[1], 100.0]]}}  # the answer is "a a a …"
    for cached in (True, False):
        told = run(tmp_path, ["b"], stop_strings=["###", "a a"], use_cache=cached, **always)[0]
        assert (told.text, told.finish_reason, told.token_ids) == ("", "stop", (1, 1))


def test_special_tokens_are_left_out_of_texts_when_asked_for(model):
    forced = {"hf_gen_params": {"sequence_bias": [[[1], 1000.0]]}}
    assert set(texts_of(run(model, **forced))) == {"<|im_start|>" * 12}
    assert set(texts_of(run(model, skip_special_tokens=True, **forced))) == {""}


def test_without_cache_nothing_is_kept_and_answers_are_the_same(model, monkeypatch):
    from transformers import LlamaForCausalLM

    kept, forward = [], LlamaForCausalLM.forward

    def watched(self, *given, **named):
        kept.append(named.get("past_key_values") is not None)
        return forward(self, *given, **named)

    monkeypatch.setattr(LlamaForCausalLM, "forward", watched)
    cached = texts_of(run(model))
    assert all(kept)
    kept.clear()
    assert texts_of(run(model, use_cache=False)) == cached
    assert kept
    assert not any(kept)


@pytest.mark.parametrize("more", [{}, {"use_cache": False}, {"num_beams": 2}, {"do_sample": True, "temperature": 3.0}])
def test_log_probabilities_are_those_of_the_model_itself(model, more):
    own, tokenizer = AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    for text, told in zip(TEXTS, run(model, logprobs=True, repetition_penalty=1.3, **more), strict=True):
        ids = tokenizer(text)["input_ids"]
        with torch.inference_mode():
            logits = own(torch.tensor([[*ids, *told.token_ids]])).logits[0, len(ids) - 1 : -1]
        right = logits.double().log_softmax(-1)[range(len(told.token_ids)), list(told.token_ids)]
        assert told.logprobs == pytest.approx(right.tolist(), abs=2e-3)


def test_a_prompt_that_is_too_long_loses_its_start(model):
    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer(TEXTS[4])["input_ids"]
    short, long = run(model, [TEXTS[0], TEXTS[4]], max_length=20)
    assert (short.truncated, long.truncated, long.prompt_tokens) == (False, True, 8)
    assert long.token_ids == by_generate(model, tokenizer.decode(ids[-8:]))


def test_the_models_positions_bound_prompt_and_answer(tmp_path):
    build_model(tmp_path, max_position_embeddings=32, initializer_range=0.3)
    short, long = run(tmp_path, [TEXTS[0], TEXTS[4] * 2], max_new_tokens=100)
    assert (short.truncated, short.prompt_tokens + short.completion_tokens) == (False, 32)
    assert (long.truncated, long.prompt_tokens, long.completion_tokens) == (True, 16, 16)


def test_without_a_number_of_new_tokens_the_whole_length_counts(model):
    short, long = run(model, [TEXTS[0], TEXTS[4]], max_new_tokens=0, max_inference_length=10)
    assert short.prompt_tokens + short.completion_tokens == 10
    assert (short.truncated, long.truncated) == (False, True)
    assert (long.prompt_tokens, long.completion_tokens) == (9, 1)


def test_an_empty_prompt_and_no_prompt(model):
    assert len(run(model, [""])[0].token_ids) == 12
    assert run(model, []) == []


def test_rendered_prompts_get_no_special_tokens(tmp_path, model):
    from shutil import copytree

    from tokenizers import processors

    folder = copytree(model, tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", 1)]
    )
    tokenizer.save_pretrained(folder)
    plain, rendered = run(folder, [TEXTS[0]])[0], run(folder, [TEXTS[0]], rendered=True)[0]
    assert plain.prompt_tokens == rendered.prompt_tokens + 1


@pytest.mark.parametrize("build", [build_t5, build_bart, build_mbart])
@pytest.mark.parametrize("changes", [{}, {"num_beams": 2}, {"hf_gen_params": {"encoder_no_repeat_ngram_size": 1}}])
def test_encoder_decoders_answer_as_generate_does(tmp_path, build, changes):
    build(tmp_path)
    own, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval(), AutoTokenizer.from_pretrained(tmp_path)
    if own.generation_config.decoder_start_token_id is None:
        own.generation_config.decoder_start_token_id = 3
        own.save_pretrained(tmp_path)
    texts = ["red fox", "a lazy dog and a fox", "red"]
    told = run(tmp_path, texts, kind="seq2seq_lm", logprobs=True, **changes)
    for text, answer in zip(texts, told, strict=True):
        ids = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
        how = GenerationConfig(max_new_tokens=12, **{**changes, **changes.get("hf_gen_params", {})})
        how.hf_gen_params = None
        right = own.generate(**ids, generation_config=how)[0]
        end = next((place for place, token in enumerate(right[1:].tolist(), 2) if token == own.config.eos_token_id), 13)
        assert answer.token_ids == tuple(right[1:end].tolist())
        with torch.inference_mode():
            logits = own(**ids, decoder_input_ids=right[None, : end - 1]).logits[0].log_softmax(-1)
        likely = logits[range(end - 1), list(answer.token_ids)]
        assert answer.logprobs == pytest.approx(likely.tolist(), abs=1e-3)


@pytest.mark.parametrize("longest", [2, 3])
def test_a_prompt_of_an_encoder_decoder_may_be_cut_to_a_token(tmp_path, longest):
    build_bart(tmp_path)
    told = run(tmp_path, ["red fox " * 2000, "red"], kind="seq2seq_lm", max_new_tokens=1, max_length=longest)
    assert [(one.truncated, one.prompt_tokens) for one in told] == [(True, longest - 1)] * 2


def test_an_adapter_answers_beside_its_base_as_in_peft(model, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model

    torch.manual_seed(3)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=4, task_type="CAUSAL_LM"))
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    tuned.save_pretrained(tmp_path / "adapter")
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), tmp_path / "adapter").eval()
    tokenizer = AutoTokenizer.from_pretrained(model)
    told = run(model, adapter=tmp_path / "adapter", engine={"adapter_separate": True})
    assert texts_of(told) != texts_of(run(model))
    for text, answer in zip(TEXTS, told, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        right = peft.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)
        assert answer.token_ids == tuple(right[0, ids.shape[1] :].tolist())


def test_an_adapter_of_another_model_is_refused(model, tmp_path):
    from peft import LoraConfig, get_peft_model

    build_model(tmp_path / "other", hidden_size=32)
    other = AutoModelForCausalLM.from_pretrained(tmp_path / "other")
    get_peft_model(other, LoraConfig(r=4, task_type="CAUSAL_LM")).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match="GEN-E0207"):
        run(model, adapter=tmp_path / "adapter")


def test_a_learned_prompt_stays_before_the_text(model, tmp_path):
    from peft import PromptTuningConfig, get_peft_model

    torch.manual_seed(5)
    shape = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    tuned = get_peft_model(AutoModelForCausalLM.from_pretrained(model), shape)
    torch.nn.init.normal_(tuned.prompt_encoder["default"].embedding.weight)
    tuned.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(model)
    told = run(model, adapter=tmp_path, logprobs=True)
    for text, answer in zip(TEXTS, told, strict=True):
        ids = list(tokenizer(text)["input_ids"])
        with torch.inference_mode():
            for token, logprob in zip(answer.token_ids, answer.logprobs, strict=True):
                said = tuned(input_ids=torch.tensor([ids])).logits[0, -1].log_softmax(-1)
                assert (int(said.argmax()), float(said.max())) == (token, pytest.approx(logprob, abs=1e-3))
                ids.append(token)
    with pytest.raises(UserError, match="GEN-E0208"):
        run(model, adapter=tmp_path, use_cache=False)


def test_weights_are_quantised_and_numbers_rounded_when_asked_for(model):
    with open_engine(settings(quantisation={"load_in_4bit": True}), model) as engine:
        kinds = {type(module).__name__ for module in engine._model.modules()}
        assert "Linear4bit" in kinds
        assert len(list(engine.complete(asked(TEXTS)))) == len(TEXTS)
        assert "bitsandbytes" in engine.versions
    for bits, number_type in (("half", torch.bfloat16), ("full", torch.float32), ("auto", torch.float32)):
        with open_engine(settings(engine={"inference_precision": bits}), model) as engine:
            assert engine._model.dtype == number_type
            assert set(engine.versions) == {"torch", "transformers"}


def test_what_the_engine_cannot_do_is_refused(model, monkeypatch):
    with pytest.raises(UserError, match="GEN-E0205"):
        run(model, response_format={"choices": ["yes", "no"]})
    with pytest.raises(UserError, match="GEN-E0206"):
        run(model, kind="masked_lm")
    with pytest.raises(UserError, match="GEN-E0206"):
        open_engine(settings(), None)
    with pytest.raises(UserError, match="GEN-E0204"):
        run(model, hf_gen_params={"suppress_tokens": "many"})
    for wrong in ({"bad_words_ids": [[]]}, {"bad_words_ids": [[10**9]]}, {"guidance_scale": "x"},
                  {"exponential_decay_length_penalty": [1]}):  # fmt: skip
        with pytest.raises(UserError, match="GEN-E0204"):
            run(model, hf_gen_params=wrong)
    for name in ("pad_token_id", "eos_token_id", "forced_bos_token_id", "forced_eos_token_id"):
        for number in (10**9, -1):
            with pytest.raises(UserError, match=f"GEN-E0210 hf_gen_params.{name}"):
                run(model, hf_gen_params={name: number})
    engine = module_of("accelerate")
    assert engine.missing(settings()) == ""
    monkeypatch.setattr(engine, "find_spec", lambda name: None if name == "bitsandbytes" else object())
    assert engine.missing(settings(quantisation={"load_in_8bit": True})) == "the package bitsandbytes"
    with pytest.raises(UserError, match="GEN-E0201"):
        run(model, quantisation={"load_in_8bit": True})


def test_a_model_that_does_not_fit_its_files_is_refused(model, tmp_path):
    from safetensors.torch import load_file, save_file

    def changed(name, file, change):
        folder = Path(shutil.copytree(model, tmp_path / name))
        (folder / file).write_text(json.dumps({**json.loads((folder / file).read_text()), **change}))
        return folder

    with pytest.raises(UserError, match=r"MODEL-E0231 .*`nope`, which transformers does not know"):
        run(changed("a", "config.json", {"model_type": "nope"}))
    with pytest.raises(UserError, match=r"MODEL-E0231 .*other shapes"):
        run(changed("b", "config.json", {"intermediate_size": 24}))
    for wrong in ("a", ["2"], {}, 1.5):
        with pytest.raises(UserError, match=r"MODEL-E0232 .*eos_token_id"):
            run(changed(f"c{wrong}", "generation_config.json", {"eos_token_id": wrong}))
    few = changed("d", "config.json", {"vocab_size": 20})
    weights = load_file(few / "model.safetensors")
    names = [name for name in weights if "embed_tokens" in name or "lm_head" in name]
    save_file({**weights, **{name: weights[name][:20].clone() for name in names}}, few / "model.safetensors",
              {"format": "pt"})  # fmt: skip
    with pytest.raises(UserError, match="GEN-E0209 row 0: found the token"):
        run(few)


HF = {
    "repetition_penalty": 1.6, "suppress_tokens": list(range(100, 300)), "bad_words_ids": [[230], [190]],
    "eos_token_id": [92],
    "sequence_bias": [[[70], 9.0]], "forced_eos_token_id": 2, "guidance_scale": 3.0, "min_new_tokens": 12,
    "exponential_decay_length_penalty": [2, 2.5], "begin_suppress_tokens": list(range(200)), "max_new_tokens": 3,
    "encoder_repetition_penalty": 3.0, "watermarking_config": {"bias": 9.0}, "stop_strings": "e", "num_beams": 2,
}  # fmt: skip


@pytest.mark.parametrize("name", HF)
def test_further_settings_of_transformers_take_effect(model, name):
    ends = {"eos_tokens": str(run(model)[0].token_ids[3])}
    assert texts_of(run(model, hf_gen_params={name: HF[name]}, **ends)) != texts_of(run(model, **ends))


def codes(**decoding):
    return [(problem.code, problem.where) for problem in decoding_problems(DecodingParams(**decoding))]


def test_wrong_decoding_is_found_before_a_model_is_loaded():
    assert codes() == codes(do_sample=True, temperature=0.7, top_p=0.9) == codes(num_beams=2, length_penalty=2.0) == []
    (unknown,) = decoding_problems(DecodingParams(hf_gen_params={"repetition_penaltie": 1.1}))
    assert (unknown.code, unknown.fix) == ("PLAN-E0463", "did you mean repetition_penalty?")
    assert codes(hf_gen_params={"temperature": -1}) == [("PLAN-E0461", "hf_gen_params.temperature")]
    assert codes(hf_gen_params={"watermarking_config": {"bias": 1, "no": 2}}) == [("PLAN-E0467", "hf_gen_params")]
    assert codes(stop_strings="###") == codes(stop_strings='{"a": 1}') == [("PLAN-E0466", "stop_strings")]
    assert codes(max_new_tokens=64, max_length=64) == [("PLAN-E0464", "max_new_tokens")]
    assert codes(max_new_tokens=5, min_new_tokens=6) == [("PLAN-E0464", "min_new_tokens")]
    assert codes(max_length=600, min_length=601) == [("PLAN-E0464", "min_length")]
    assert codes(max_new_tokens=0, max_inference_length=1) == [("PLAN-E0464", "max_inference_length")]
    assert codes(hf_gen_params={"max_new_tokens": 3000}) == [("PLAN-E0464", "max_new_tokens")]


@pytest.mark.parametrize("name", REFUSED)
def test_settings_of_transformers_without_a_meaning_here_are_refused(name):
    (problem,) = [one for one in decoding_problems(DecodingParams(hf_gen_params={name: 1})) if one.code == "PLAN-E0462"]
    assert problem.where == f"hf_gen_params.{name}"
    assert problem.why
    assert problem.fix
    assert name in fields_of_transformers()


@pytest.mark.parametrize("name", ["temperature", "top_k", "top_p", "min_p", "length_penalty", "early_stopping"])
def test_parameters_without_effect_are_refused(name):
    value = {"top_k": 3, "early_stopping": "true"}.get(name, 0.5)
    assert codes(**{name: value}) == codes(hf_gen_params={name: value}) == [("PLAN-E0465", name)]
    assert codes(**{name: value}, do_sample=True, num_beams=2) == []


def test_samplers_of_transformers_need_drawing():
    for name in ("typical_p", "epsilon_cutoff", "eta_cutoff", "top_h"):
        assert codes(hf_gen_params={name: 0.5}) == [("PLAN-E0465", f"hf_gen_params.{name}")]


def test_the_rules_of_decoding_need_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from steps.generation.decoding_rules import decoding_problems\n"
        "from steps.generation.transformers_engine import missing\n"
        "from steps.params.generation import DecodingParams\n"
        "print([p.code for p in decoding_problems(DecodingParams(hf_gen_params={'nonsens': 1, 'top_k': 4}))])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.strip().replace("'", '"')) == ["PLAN-E0463", "PLAN-E0465"]


def test_weights_that_do_not_fit_end_with_the_error(model, monkeypatch):
    from steps.errors import OutOfResources

    def full(*_given, **_named):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("steps.generation.loading.load_reduced", full)
    with pytest.raises(OutOfResources, match="GEN-E0502"):
        run(model)
