"""Training with rewards: it trains as TRL alone does on the same completions, learns, and keeps what it wrote."""

import json
import logging
import math
import re

import pyarrow.parquet as pq
import pytest
from rewarded_rows import LETTERS, letters, prompt_rows, settings_with, write_prompts
from training_inputs import as_imported, train

from steps.params.lora import LoraParams
from steps.params.settings import RewardSettings
from steps.params.training import CheckpointParams

pytestmark = pytest.mark.slow


@pytest.fixture
def prompts(tmp_path, tokenizer, local_root):
    rows = prompt_rows(16)
    return write_prompts(tmp_path / "data", tokenizer, train=rows[:12], validation=rows[12:])


@pytest.fixture
def written(monkeypatch) -> list[list[list[int]]]:
    """Give the completions of each generation as tokens, as they are written; every third one ends early."""
    from steps.finetune.rewarded import rewarding

    told, write = [], rewarding.write_completions

    def noted(model, tokenizer, *given):
        end = tokenizer.eos_token_id
        made = [([*tokens[: 2 + number % 5], end], True) if number % 3 == 0 else (list(tokens), finished)
                for number, (tokens, finished) in enumerate(write(model, tokenizer, *given))]  # fmt: skip
        told.append([tokens for tokens, _ in made])
        return made

    monkeypatch.setattr(rewarding, "write_completions", noted)
    return told


def table(out) -> list[dict]:
    return pq.read_table(out / "tuned/completions.parquet").to_pylist()


def weights(out) -> dict:
    from safetensors.torch import load_file

    return load_file(next((out / "tuned").glob("*.safetensors")))


def same_weights(one, other) -> bool:
    ours, theirs = weights(one), weights(other)
    return ours.keys() == theirs.keys() and all(bool((ours[name] == theirs[name]).all()) for name in theirs)


def bare(method: str, model, tokenizer, written, out, training: dict, lora: bool, **asked) -> list[dict]:
    """Train with TRL alone on completions that are given; return what it logs.

    TRL reads the prompts itself and calls the reward itself. Only the order within a generation is given as well.
    """
    import torch
    import trl
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM

    from steps.finetune.rewarded.seeds import seed_of

    generations = iter(written)
    number = 0

    def ordered(rows: dict) -> dict:
        nonlocal number
        number += 1
        draws = torch.Generator().manual_seed(seed_of(42, number, "order"))
        order = torch.randperm(len(rows["prompt_ids"]), generator=draws)
        return {name: value[order] if value.ndim else value for name, value in rows.items()}

    def rewards(completions, level, **_):
        texts = [completion[-1]["content"] for completion in completions]
        return [sum(one.isalpha() for one in text) / max(1, len(text)) for text in texts]

    Trainer = getattr(trl, f"{method.upper()}Trainer")

    class Given(Trainer):
        def _generate_single_turn(self, *_):
            ids = next(generations)
            return (ids, None) if method == "grpo" else ids

    arguments = getattr(trl, f"{method.upper()}Config")(
        output_dir=str(out), lr_scheduler_type="cosine", weight_decay=0.01, optim="adamw_torch",
        logging_steps=1, gradient_checkpointing=False, bf16=False, save_strategy="no", use_cpu=True, report_to="none",
        disable_tqdm=True, num_generations=4, max_completion_length=8,
        **{"learning_rate": 1e-3, "per_device_train_batch_size": 8, "max_steps": 3, "beta": 0.04, "epsilon": 0.5,
           **training, **asked},
    )  # fmt: skip
    adapter = LoraConfig(r=8, lora_alpha=128, target_modules="all-linear", task_type="CAUSAL_LM") if lora else None
    rows = [{"prompt": [{"role": "user", "content": row["problem"]}], "level": row["level"]}
            for row in prompt_rows(16)[:12]]  # fmt: skip
    made = Given(
        AutoModelForCausalLM.from_pretrained(model), rewards, arguments, Dataset.from_list(rows),
        processing_class=tokenizer, peft_config=adapter,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(f"trl.trainer.{method}_trainer.shuffle_sequence_dict", ordered)
        made.train()
    return [entry for entry in made.state.log_history if "loss" in entry]


BARE = {
    "dapo": ({}, {}, {}),
    "two-passes": ({"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}, {}, {}),
    "iterations": ({"max_steps": 4, "learning_rate": 0.02}, {"num_iterations": 2}, {"num_iterations": 2}),
    "passes": ({"max_steps": 4}, {"steps_per_generation": 2}, {"steps_per_generation": 2}),
    "grpo": ({}, {"loss_type": "grpo", "num_iterations": 2}, {"loss_type": "grpo", "num_iterations": 2}),
    "bnpo": ({"gradient_accumulation_steps": 2}, {"loss_type": "bnpo"}, {"loss_type": "bnpo"}),
    "dr_grpo": ({}, {"loss_type": "dr_grpo", "scale_rewards": "none"},
                {"loss_type": "dr_grpo", "scale_rewards": "none"}),
    "cispo": ({"learning_rate": 0.05}, {"loss_type": "cispo", "num_iterations": 3, "epsilon_high": 0.2},
              {"loss_type": "cispo", "num_iterations": 3, "epsilon_high": 1.2}),
    "sapo": ({}, {"loss_type": "sapo", "num_iterations": 2}, {"loss_type": "sapo", "num_iterations": 2}),
    "vespo": ({}, {"loss_type": "vespo", "num_iterations": 2}, {"loss_type": "vespo", "num_iterations": 2}),
    "luspo": ({}, {"loss_type": "luspo", "importance_sampling_level": "sequence", "num_iterations": 2},
              {"loss_type": "luspo", "importance_sampling_level": "sequence", "num_iterations": 2}),
    "clipped": ({"learning_rate": 0.05}, {"epsilon": 0.01, "epsilon_high": 0.02, "num_iterations": 3},
                {"epsilon": 0.01, "epsilon_high": 0.02, "num_iterations": 3}),
    "batch": ({}, {"scale_rewards": "batch", "beta": 0.0}, {"scale_rewards": "batch", "beta": 0.0}),
    "whole": ({}, {"mask_truncated_completions": True}, {"mask_truncated_completions": True}),
    "in-order": ({}, {"shuffle_dataset": False}, {"shuffle_dataset": False}),
    "rloo": ({"learning_rate": 0.02}, {"method": "rloo", "num_iterations": 2, "epsilon": 0.1},
             {"num_iterations": 2, "epsilon": 0.1, "epsilon_high": 0.1}),
    "rloo-normal": ({"gradient_accumulation_steps": 2}, {"method": "rloo", "normalize_advantages": True},
                    {"normalize_advantages": True}),
}  # fmt: skip
FIGURES = ("loss", "grad_norm", "kl", "reward", "reward_std", "frac_reward_zero_std", "entropy", "learning_rate",
           "completions/mean_length", "completions/clipped_ratio", "clip_ratio/region_mean", "clip_ratio/low_mean",
           "clip_ratio/high_mean", "cispo_clip_ratio")  # fmt: skip


@pytest.mark.parametrize(
    ("training", "rewarded", "theirs", "lora"),
    [*((*BARE[name], False) for name in BARE), *((*BARE[name], True) for name in ("dapo", "iterations", "rloo"))],
    ids=[*BARE, "dapo-lora", "iterations-lora", "rloo-lora"],
)
def test_it_trains_as_trl_alone_on_the_same_completions(
    model, tokenizer, prompts, tmp_path, written, training, rewarded, theirs, lora
):
    settings = settings_with(letters(tmp_path), training, rewarded, lora=LoraParams(apply_lora=lora))
    ours = train(settings, model, prompts, tmp_path / "ours")["points"]
    told = bare(rewarded.get("method", "grpo"), model, tokenizer, written, tmp_path / "bare", training, lora, **theirs)
    assert len(ours) == len(told) == training.get("max_steps", 3)
    for name in FIGURES:
        here, there = ([-1 if point.get(name) is None else point[name] for point in points] for points in (ours, told))
        assert here == pytest.approx(there, abs=1e-6, rel=1e-5), name
    assert any(point.get("loss") for point in told)


def test_a_reward_rises_in_a_few_steps(model, prompts, tmp_path):
    settings = settings_with(
        letters(tmp_path), {"max_steps": 14, "learning_rate": 2e-2, "per_device_train_batch_size": 32,
                            "lr_scheduler_type": "constant"},
        {"num_generations": 8, "beta": 0.0},
    )  # fmt: skip
    points = train(settings, model, prompts, tmp_path / "ours")["points"]
    assert points[0]["reward"] < 0.6
    assert points[-1]["reward"] > 0.9


def test_the_table_has_every_completion_with_its_rewards(model, tokenizer, prompts, tmp_path, written):
    file = letters(tmp_path)
    rewards = RewardSettings(reward_funcs=f"{file},{file.replace(':letters', ':level')}", reward_weights="0.5,2")
    training = {"evaluation_strategy": "steps", "eval_steps": 2, "max_steps": 2}
    history = train(settings_with("", training, {}, rewards=rewards), model, prompts, tmp_path / "ours")
    rows = table(tmp_path / "ours")
    assert [(row["step"], row["split"]) for row in rows] == (
        [(1, "train")] * 8 + [(2, "train")] * 8 + [(2, "validation")] * 16
    )
    assert [row["place"] for row in rows] == [*range(8), *range(8), *range(16)]
    known = {f"Count to {' and '.join([str(n)] * (1 + n % 3))}": n for n in range(16)}
    tokens = [ids for generation in written for ids in generation]
    for row, ids in zip(rows, tokens, strict=True):
        number = known[row["prompt"]]
        assert (number < 12) == (row["split"] == "train")
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert row["completion"] == text
        assert row["tokens"] == len(ids) <= 8
        assert row["finished"] == (ids[-1] == tokenizer.eos_token_id)
        share = sum(one.isalpha() for one in text) / max(1, len(text))
        assert row["rewards/letters"] == pytest.approx(share)
        assert row["rewards/level"] == number % 5 / 10
        assert row["reward"] == pytest.approx(0.5 * share + 2 * (number % 5 / 10))
        assert row["letters/first"] == text[:1]
    for start in range(0, 32, 4):  # of a group all have the same prompt, and advantages with a mean of 0
        group = rows[start : start + 4]
        assert len({row["prompt"] for row in group}) == 1
        assert sum(row["advantage"] for row in group) == pytest.approx(0, abs=1e-5)
    assert [name for name in rows[0] if name not in ("step", "split", "place", "prompt")] == [
        "completion", "tokens", "finished", "reward", "rewards/letters", "rewards/level", "letters/first", "advantage",
    ]  # fmt: skip
    [evaluation] = history["evaluations"]
    mean = sum(row["reward"] for row in rows[16:]) / 16
    assert evaluation["reward"] == pytest.approx(mean, abs=1e-9)
    assert evaluation["rewards/level/mean"] == pytest.approx(sum(row["rewards/level"] for row in rows[16:]) / 16)
    assert history["points"][0]["letters/characters"] == pytest.approx(
        sum(len(row["completion"]) for row in rows[:8]) / 8
    )
    assert history["best"] == {"step": 2, "metric": "validation reward", "value": pytest.approx(mean)}


def test_rewards_that_do_not_apply_are_left_out(model, tokenizer, local_root, tmp_path):
    rows = [{**row, "solution": None} if row["level"] == 2 else row for row in prompt_rows(16)]
    for row in rows:
        row["solution"] = None if row["level"] > 1 else row["solution"]
    data = write_prompts(tmp_path / "data", tokenizer, train=rows)
    reward = letters(tmp_path).replace(":letters", ":level")
    history = train(settings_with(reward, {"max_steps": 6}), model, data, tmp_path / "ours")
    told = table(tmp_path / "ours")
    without = [row for row in told if row["rewards/level"] is None]
    assert without
    assert all(row["reward"] is None and row["advantage"] == 0 for row in without)
    assert all(row["reward"] == row["rewards/level"] for row in told if row not in without)
    for point in history["points"]:
        applies = [row["reward"] for row in told if row["step"] == point["step"] and row["reward"] is not None]
        assert point["reward"] == pytest.approx(sum(applies) / len(applies)) if applies else "reward" not in point


EFFECTS = {
    "num_generations": ({"num_generations": 8},
                        lambda rows: len({row["prompt"] for row in rows if row["step"] == 1}) == 1),
    "max_completion_length": ({"max_completion_length": 3}, lambda rows: max(row["tokens"] for row in rows) == 3),
    "temperature": ({"temperature": 1e-4}, lambda rows: alike(rows)),
    "top_p": ({"top_p": 1e-6}, lambda rows: alike(rows)),
    "top_k": ({"top_k": 1}, lambda rows: alike(rows)),
    "num_iterations": ({"num_iterations": 3}, lambda rows: {row["step"] for row in rows} == {1}),
    "steps_per_generation": ({"steps_per_generation": 3},
                             lambda rows: [row["step"] for row in rows] == [1] * 24),
    "shuffle_dataset": ({"shuffle_dataset": False}, lambda rows: [re.findall(r"\d+", row["prompt"])[0] for row in rows]
                        == [str(number) for number in range(6) for _ in range(4)]),
}  # fmt: skip


def alike(rows) -> bool:
    """Whether all completions to a prompt of a step are the same."""
    groups = {(row["step"], row["prompt"]) for row in rows}
    return len({(row["step"], row["prompt"], row["completion"]) for row in rows}) == len(groups)


@pytest.mark.parametrize("name", EFFECTS)
def test_parameters_of_completions_have_their_effect(model, prompts, tmp_path, name):
    rewarded, as_asked = EFFECTS[name]
    train(settings_with(letters(tmp_path), {}, rewarded), model, prompts, tmp_path / "ours")
    assert as_asked(table(tmp_path / "ours"))
    train(settings_with(letters(tmp_path)), model, prompts, tmp_path / "usual")
    assert not as_asked(table(tmp_path / "usual"))


def test_a_repetition_penalty_has_its_effect(model, prompts, tmp_path, written):
    for penalty, some in ((1e6, False), (1.0, True)):
        written.clear()
        settings = settings_with(letters(tmp_path), {}, {"top_k": 1, "repetition_penalty": penalty})
        train(settings, model, prompts, tmp_path / str(penalty))
        assert any(len(set(ids)) < len(ids) for made in written for ids in made) is some


def test_beta_of_0_asks_no_reference(model, prompts, tmp_path, monkeypatch):
    from steps.finetune.trainers import grpo

    loaded, load = [], grpo.load_model
    monkeypatch.setattr(grpo, "load_model", lambda *given: loaded.append(given) or load(*given))
    points = train(settings_with(letters(tmp_path), {}, {"beta": 0.0}), model, prompts, tmp_path / "none")["points"]
    assert len(loaded) == 1
    assert all("kl" not in point for point in points)
    points = train(settings_with(letters(tmp_path)), model, prompts, tmp_path / "with")["points"]
    assert len(loaded) == 3
    assert points[0]["kl"] == pytest.approx(0, abs=1e-9)
    assert points[-1]["kl"] > 0


@pytest.mark.parametrize("count", [0, 3])
def test_completions_are_printed(model, prompts, tmp_path, caplog, count):
    caplog.set_level(logging.INFO, "finetune")
    training = {"max_steps": 2, "evaluation_strategy": "steps", "eval_steps": 2}
    train(settings_with(letters(tmp_path), training, {"num_completions_to_print": count}), model, prompts,
          tmp_path / "ours")  # fmt: skip
    printed = [record.message for record in caplog.records if "completion of step" in record.message]
    assert len(printed) == 3 * count  # two log lines and an evaluation
    rows = table(tmp_path / "ours")
    first = [rows[place] for place in (0, 4, 1, 8, 12, 9, 16, 20, 24)]  # of each group, before the second ones
    for text, row in zip(printed, first, strict=False):
        assert text.splitlines()[0].startswith(f"{row['split']} completion of step {row['step']}  reward ")
        assert row["prompt"] in text
    assert len([one for one in caplog.messages if re.match(r"step \d/2  loss .*  reward 0\.\d+  lr", one)]) == 2
    assert any(re.match(r"step 2/2  validation loss \S+  reward 0\.\d+", one) for one in caplog.messages)


def test_tokens_are_counted_each_time_they_are_learned_from(model, tokenizer, prompts, tmp_path):
    history = train(settings_with(letters(tmp_path), {"max_steps": 6}, {"num_iterations": 3}), model, prompts,
                    tmp_path / "ours")  # fmt: skip
    count = 0
    for row in table(tmp_path / "ours"):
        message = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=True)["input_ids"]
        count += 3 * (len(prompt) + row["tokens"])
    assert history["tokens"] == history["points"][-1]["num_tokens"] == count
    assert history["tokens_per_second"] == pytest.approx(count / history["seconds"], rel=0.01)


def test_evaluations_are_comparable_and_the_best_step_is_kept(model, prompts, tmp_path, written):
    text = LETTERS.replace(
        "    return [sum(letter",
        """    step = kwargs["trainer_state"].global_step
    if step % 2 == 0 and len(texts) == 16:
        return [(step == 2) + step / 100 for _ in texts]
    return [sum(letter""",
        1,
    )
    file = letters(tmp_path, text)
    training = {"evaluation_strategy": "steps", "eval_steps": 2, "max_steps": 6, "per_device_eval_batch_size": 16,
                "learning_rate": 1e-7}  # fmt: skip
    settings = settings_with(file, training, checkpoints=CheckpointParams(keep_checkpoints="true"))
    history = train(settings, model, prompts, tmp_path / "ours")
    assert [round(one["reward"], 2) for one in history["evaluations"]] == [1.02, 0.04, 0.06]
    assert history["best"]["step"] == 2
    first, second, third = [generation for generation in written if len(generation) == 16]
    assert first == second == third  # the model did not change, and the draws are the same
    [kept] = (tmp_path / "root/checkpoints").glob("*/*/checkpoint-2")
    from safetensors.torch import load_file

    best = load_file(kept / "model.safetensors")
    assert all(bool((best[name] == value).all()) for name, value in weights(tmp_path / "ours").items())


def test_early_stopping_watches_the_reward(model, prompts, tmp_path):
    file = letters(tmp_path, LETTERS.replace("return [sum(letter", "return [0.5 for _ in texts] or [sum(letter", 1))
    training = {"evaluation_strategy": "steps", "eval_steps": 1, "max_steps": 8, "apply_early_stopping": True,
                "early_stopping_patience": 2}  # fmt: skip
    history = train(settings_with(file, training), model, prompts, tmp_path / "ours")
    assert history["stopped_early"]
    assert history["steps"] == 3


def test_batches_without_a_signal_are_told(model, prompts, tmp_path, caplog):
    caplog.set_level(logging.WARNING, "finetune")
    file = letters(tmp_path, LETTERS.replace("return [sum(letter", "return [0.5 for _ in texts] or [sum(letter", 1))
    train(settings_with(file, {"max_steps": 4}), model, prompts, tmp_path / "ours")
    [first, last] = [message for message in caplog.messages if message.startswith("WARNING")]
    assert "step 1: no group of completions has different rewards (all are 0.5)" in first
    assert "so far in 1 of 1" in first
    assert last.startswith("WARNING 4 of 4 batches of completions had no group with different rewards")
    caplog.clear()
    train(settings_with(letters(tmp_path)), model, prompts, tmp_path / "usual")
    assert not [message for message in caplog.messages if "WARNING" in message]


def test_the_reference_is_the_base_as_it_was_loaded(model, prompts, tmp_path):
    """Without a name to load it by, and with the user's changes of its configuration."""
    config = json.loads((model / "config.json").read_text())
    assert "_name_or_path" not in config
    training = {"model_args": {"rms_norm_eps": 0.5}, "max_steps": 1}
    [point] = train(settings_with(letters(tmp_path), training), model, prompts, tmp_path / "ours")["points"]
    assert point["kl"] == pytest.approx(0, abs=1e-9)


def test_dropout_is_off(model, tokenizer, prompts, tmp_path):
    lora = LoraParams(apply_lora=True, lora_dropout=0.5)
    with_dropout = settings_with(letters(tmp_path), {}, {"num_iterations": 3}, lora=lora)
    without = settings_with(letters(tmp_path), {}, {"num_iterations": 3}, lora=LoraParams(apply_lora=True))
    one = train(with_dropout, model, prompts, tmp_path / "one")["points"]
    other = train(without, model, prompts, tmp_path / "other")["points"]
    assert [point["loss"] for point in one] == [point["loss"] for point in other]


def test_a_quantised_base_learns(model, prompts, tmp_path):
    from steps.params.quantisation import QuantisationParams

    settings = settings_with(letters(tmp_path), lora=LoraParams(apply_lora=True),
                             quantisation=QuantisationParams(load_in_4bit=True))  # fmt: skip
    points = train(settings, model, prompts, tmp_path / "ours")["points"]
    assert points[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert points[-1]["kl"] > 0
    assert all(math.isfinite(point["loss"]) for point in points)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_absolute_positions_do_not_depend_on_the_padding(tokenizer, prompts, tmp_path, monkeypatch, lora):
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

    from steps.finetune.rewarded.generation_batch import GenerationBatch

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=256, n_embd=64, n_layer=2, n_head=2, pad_token_id=0,
                        bos_token_id=0, eos_token_id=tokenizer.eos_token_id)  # fmt: skip
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    model = as_imported(tmp_path / "plain", tmp_path / "gpt2")
    made, of = [], GenerationBatch.of
    monkeypatch.setattr(GenerationBatch, "of", lambda *given: made.append(of(*given)) or made[-1])
    train(settings_with(letters(tmp_path), {"max_steps": 2}, {"num_iterations": 2}, lora=LoraParams(apply_lora=lora)),
          model, prompts, tmp_path / "ours")  # fmt: skip
    [batch] = made
    read = AutoModelForCausalLM.from_pretrained(model).eval()
    assert len(set(batch.rows["prompt_mask"].sum(1).tolist())) > 1
    for row in range(8):
        one = {name: value[row] for name, value in batch.rows.items() if value.ndim}
        prompt = one["prompt_ids"][one["prompt_mask"] == 1]
        completion = one["completion_ids"][one["completion_mask"] == 1]
        with torch.no_grad():
            chances = read(torch.cat([prompt, completion])[None]).logits[0].log_softmax(-1)
        expected = chances[len(prompt) - 1 : -1].gather(1, completion[:, None])[:, 0]
        for name in ("old_per_token_logps", "ref_per_token_logps"):
            assert one[name][: len(completion)].allclose(expected, atol=1e-5), name


def test_a_prompt_order_is_that_of_trl_in_every_epoch():
    from trl.trainer.utils import RepeatSampler

    from steps.finetune.rewarded.prompts import PromptOrder

    for count, copies, size, times, shuffle in ((7, 2, 3, 4, True), (8, 3, 4, 1, True), (5, 2, 2, 2, False)):
        theirs = RepeatSampler(range(count), copies, size, times, shuffle, seed=7)
        ours = PromptOrder(count, copies, size, times, shuffle, seed=7)
        assert len(ours) == len(theirs)
        for epoch in range(3):
            ours.set_epoch(epoch)
            assert list(ours) == list(theirs)


def test_do_eval_evaluates_once_at_the_end_although_no_strategy_does(model, prompts, tmp_path):
    reward = letters(tmp_path)
    settings = settings_with(reward, rewarded={"do_eval": True})
    history = train(settings, model, prompts, tmp_path / "out")
    assert [point["step"] for point in history["evaluations"]] == [3]
    assert history["evaluations"][0]["reward"] is not None
    splits = {row["split"] for row in table(tmp_path / "out")}
    assert splits == {"train", "validation"}
