"""A training with rewards whose completions vLLM writes: with the weights of the moment, each completion by its seed.

Runs in a separate environment (`make test-vllm`), on the CPU. vLLM's kernels for CPUs repack the weights when they are
loaded, and can then not be given others; here they multiply with the weights as they are.
"""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update({"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"})

import pyarrow.parquet as pq
import pytest
import torch
from conftest import build_model
from rewarded_rows import letters, prompt_rows, settings_with, write_prompts
from training_inputs import as_imported, train

from steps.finetune.rewarded.vllm_writing import SeededVllm
from steps.params.lora import LoraParams

pytestmark = pytest.mark.vllm

ADAPTER = LoraParams(apply_lora=True, lora_r=4, lora_target_modules="q_proj,v_proj,down_proj")


class Call(NamedTuple):
    """What vLLM was asked and answered, and the log-probabilities of the model that was trained at that moment."""

    training: bool
    seeds: list[int]
    prompts: list[list[int]]
    tokens: list[list[int]]
    logprobs: list[list[float]]
    now: list[list[float]]
    before_training: list[list[float]]


@pytest.fixture(autouse=True)
def plain_products(monkeypatch):
    from vllm.model_executor.layers import utils

    def dispatch(layer, remove_weight):
        layer.cpu_linear = torch.nn.functional.linear

    monkeypatch.setattr(utils, "dispatch_cpu_unquantized_gemm", dispatch)


@pytest.fixture
def base(tmp_path) -> Path:
    """With more tokens than the tokenizer has, as many models have them."""
    folder = tmp_path / "built"
    build_model(folder, initializer_range=0.1, tie_word_embeddings=False, vocab_size=512)
    return as_imported(folder, tmp_path / "model")


@pytest.fixture
def prompts(base, tmp_path, local_root) -> Path:
    from transformers import AutoTokenizer

    rows = prompt_rows(16)
    tokenizer = AutoTokenizer.from_pretrained(base)
    return write_prompts(tmp_path / "data", tokenizer, train=rows[:12], validation=rows[12:])


@pytest.fixture
def calls(base, monkeypatch) -> list[Call]:
    """Everything that vLLM writes."""
    from transformers import AutoModelForCausalLM

    before, made = AutoModelForCausalLM.from_pretrained(base), []
    generate = SeededVllm.generate

    def recorded(self: Any, prompts: Any, **named: Any) -> Any:
        self.logprobs = 0  # RLOO needs none
        seeds, told = list(self.seeds), generate(self, prompts=prompts, **named)
        model, temperature = self.trainer.model, self.temperature
        training = model.training
        made.append(Call(training, seeds, prompts, told[1], [[one[0] for one in row] for row in told[2]],
                         expected(model, prompts, told[1], temperature),
                         expected(before, prompts, told[1], temperature)))  # fmt: skip
        model.train(training)
        return told

    monkeypatch.setattr(SeededVllm, "generate", recorded)
    return made


def expected(model: Any, prompts: list[list[int]], tokens: list[list[int]], temperature: float) -> list[list[float]]:
    """Log-probabilities of completions by transformers, in the distribution that is drawn from."""
    told = []
    with torch.no_grad():
        for prompt, row in zip(prompts, tokens, strict=True):
            logits = model.eval()(input_ids=torch.tensor([[*prompt, *row]])).logits[0, len(prompt) - 1 : -1]
            all_of = (logits.float() / temperature).log_softmax(-1)
            told.append(all_of.gather(1, torch.tensor(row)[:, None])[:, 0].tolist())
    return told


def distance(one: list[list[float]], other: list[list[float]]) -> float:
    return max(abs(a - b) for left, right in zip(one, other, strict=True) for a, b in zip(left, right, strict=True))


def settings(reward: str, lora: LoraParams | None = None, method: str = "grpo", **training: Any):
    more = {"lora": lora} if lora else {}
    return settings_with(reward, {"learning_rate": 0.01, "lr_scheduler_type": "constant", "max_steps": 4, **training},
                         {"use_vllm": "true", "max_prompt_length": 64, "temperature": 0.9, "method": method},
                         **more)  # fmt: skip


@pytest.mark.parametrize(("method", "lora"), [("grpo", None), ("grpo", ADAPTER), ("rloo", ADAPTER)],
                         ids=["grpo", "grpo-lora", "rloo-lora"])  # fmt: skip
def test_vllm_writes_with_the_weights_of_the_moment(method, lora, base, prompts, calls, tmp_path):
    """Its log-probabilities are the trained model's at every generation, and soon not those before training."""
    chosen = settings(letters(tmp_path), lora, method, evaluation_strategy="steps", eval_steps=2)
    environment = dict(os.environ)
    history = train(chosen, base, prompts, tmp_path / "out")
    assert history["steps"] == 4
    if method == "grpo":
        assert all(point["sampling/sampling_logp_difference/mean"] < 5e-3 for point in history["points"])
    assert [one.training for one in calls] == [True, True, False, False, True, True, False, False]
    for number, one in enumerate(calls):
        assert distance(one.logprobs, one.now) < 5e-3, number
    assert distance(calls[0].now, calls[0].before_training) < 1e-4
    assert distance(calls[1].logprobs, calls[1].before_training) > 0.05
    assert distance(calls[-1].logprobs, calls[-1].before_training) > 0.2
    assert not torch.distributed.is_initialized()
    assert {name: os.environ.get(name) for name in environment if name in ("RANK", "WORLD_SIZE", "MASTER_PORT")} == {
        name: value for name, value in environment.items() if name in ("RANK", "WORLD_SIZE", "MASTER_PORT")
    }
    assert "WORLD_SIZE" not in os.environ
    table = pq.read_table(tmp_path / "out/tuned/completions.parquet").to_pylist()
    assert len(table) == sum(len(one.tokens) for one in calls)
    assert any(row["finished"] for row in table) or all(row["tokens"] == 8 for row in table)
    if lora:
        assert json.loads((tmp_path / "out/tuned/adapter_config.json").read_text())["r"] == 4


def test_the_same_seed_writes_the_same_in_another_training(base, prompts, calls, tmp_path):
    chosen = settings(letters(tmp_path), max_steps=2)
    train(chosen, base, prompts, tmp_path / "one")
    train(chosen, base, prompts, tmp_path / "two")
    assert len(calls) == 4
    assert calls[:2] == calls[2:]
    assert len({tuple(row) for row in calls[0].tokens}) > 4
    other = settings(letters(tmp_path), max_steps=1, seed=5)
    train(other, base, prompts, tmp_path / "three")
    assert set(calls[4].seeds).isdisjoint(calls[0].seeds)
    assert calls[4].tokens != calls[0].tokens
