"""What the plan expects a training with verl to need on each GPU, and in /dev/shm.

The figures are counted by hand: 4 bytes of a weight in float32, 4 of its gradient, 8 of Adam's states. verl's source
must have the lines that they follow from.
"""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import write_jsonl

from steps.kinds.recipe import recipe
from steps.params.reading import read_parameters
from steps.plan.hardware import hardware_of
from steps.plan.memory import MemoryEstimate, adapter_parameters
from steps.plan.memory_checks import memory_notes, memory_problems
from steps.plan.need import GIB
from steps.plan.remedies import remedies
from steps.plan.shared_memory import shared_memory_notes
from steps.plan.step import plan
from steps.plan.strategy import choose, estimate_of
from steps.plan.summary import as_text
from steps.plan.verl_memory import rollout_problems, verl_estimate
from tests.steps.test_plan_verl import source

LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336,
    "vocab_size": 128256, "num_attention_heads": 32, "num_key_value_heads": 8, "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
}  # fmt: skip
WEIGHTS = 8_000_000_000
GPU = 80 * GIB
SHARE = int(0.6 * GPU)  # rollout_gpu_memory_utilization
WHOLE = {"actor_model_lora_rank": 0}
RESIDENT = {"actor_fsdp_config_offload_policy": False}
MOVED = {**RESIDENT, "actor_fsdp_param_offload": True, "actor_fsdp_optimizer_offload": True}
KL_OFF = {"actor_use_kl_loss": False}
FSDP, VLLM = "workers/engine/fsdp/transformer_impl.py", "workers/rollout/vllm_rollout/vllm_async_server.py"
CRITIC = {"algorithm_adv_estimator": "gae"}


def params(**given: Any):
    given = {"pytorch_model_path": "m", "data_train_files": "t.jsonl", "number_of_gpu_to_use_finetuning": 8, **given}
    return read_parameters("verl_finetune", given).parameters


def memory(gpu: int = GPU, **given: Any) -> MemoryEstimate:
    return verl_estimate(params(**given), recipe("causal_lm", "grpo"), LLAMA_8B, WEIGHTS, 3072, gpu)


def adapter(**given: Any) -> int:
    return adapter_parameters(params(**given), LLAMA_8B)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({**WHOLE, **RESIDENT}, 16 * WEIGHTS // 8 + SHARE),
        ({**WHOLE, **RESIDENT, "num_nodes_finetune": 2}, 16 * WEIGHTS // 16 + SHARE),
        ({**WHOLE, **RESIDENT, "rollout_gpu_memory_utilization": 0.25}, 16 * WEIGHTS // 8 + GPU // 4),
        # Its share is free in an update, and weights and states are there while completions are written.
        ({**WHOLE, **RESIDENT, "rollout_free_cache_engine": True}, max(16 * WEIGHTS // 8, 12 * WEIGHTS // 8 + SHARE)),
        ({**WHOLE, **MOVED, "actor_strategy": "fsdp", "rollout_free_cache_engine": True}, SHARE),
        ({**WHOLE, **MOVED, "actor_strategy": "fsdp"}, 16 * WEIGHTS // 8 + SHARE),
        (WHOLE, SHARE),
        ({}, SHARE),
        (RESIDENT, (4 * WEIGHTS + 16 * adapter()) // 8 + SHARE),
        # The critic has all of its weights trained, with an adapter on the model, too.
        ({**WHOLE, **RESIDENT, **CRITIC}, (16 + 12) * WEIGHTS // 8 + SHARE),
        ({**WHOLE, **MOVED, **CRITIC}, 16 * WEIGHTS // 8 + SHARE),
        ({**RESIDENT, **CRITIC}, (4 * WEIGHTS + 12 * adapter() + 16 * WEIGHTS) // 8 + SHARE),
    ],
    ids=str,
)
def test_what_a_gpu_certainly_holds(given, expected):
    assert memory(**given).least == pytest.approx(expected, abs=64)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({**WHOLE, **RESIDENT, **KL_OFF}, 0),
        ({**WHOLE, **RESIDENT}, 4 * WEIGHTS),  # the reference, whole on one node
        ({**WHOLE, **RESIDENT, "num_nodes_finetune": 2}, 2 * WEIGHTS),
        ({**WHOLE, **RESIDENT, **KL_OFF, "algorithm_use_kl_in_reward": True}, 4 * WEIGHTS),
        (RESIDENT, 0),  # the reference is the model without its adapter
        (WHOLE, (16 + 4) * WEIGHTS),
        ({}, 4 * WEIGHTS + 16 * adapter()),
        ({**WHOLE, **KL_OFF, **MOVED}, 12 * WEIGHTS),
        ({**WHOLE, **KL_OFF, **CRITIC}, 2 * 16 * WEIGHTS),
    ],
    ids=str,
)
def test_what_a_node_keeps_in_cpu_memory(given, expected):
    assert memory(**given).on_cpu == pytest.approx(expected, abs=64)


def test_the_parts_are_those_of_the_largest_moment():
    logits = 3072 * 128256 * 2  # of one completion in 16 bit
    one = {"rollout_log_prob_micro_batch_size_per_gpu": 1, "actor_ppo_micro_batch_size_per_gpu": 1}
    before = memory(**{**one, "rollout_log_prob_micro_batch_size_per_gpu": 20})
    assert before.parts["logits"] == 20 * logits
    warm = memory(**{**one, "rollout_log_prob_micro_batch_size_per_gpu": 20, "rollout_temperature": 0.7})
    assert warm.parts["logits"] == 20 * 2 * logits
    in_update = memory(**{**one, "actor_ppo_micro_batch_size_per_gpu": 10})
    assert in_update.parts["logits"] == 10 * 3 * logits
    with_entropy = memory(**{**one, "actor_ppo_micro_batch_size_per_gpu": 10, "actor_entropy_coeff": 0.01})
    assert with_entropy.parts["logits"] == 10 * 4 * logits
    assert memory(**one, **WHOLE, **RESIDENT).parts["gradients and optimizer"] == pytest.approx(
        12 * WEIGHTS // 8, abs=64
    )
    for engine, name in {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}.items():
        assert memory(ENGINE=engine).parts[name] == SHARE
    assert "critic" in memory(**one, **CRITIC, **RESIDENT).parts
    writing = memory(**one, **RESIDENT, rollout_free_cache_engine=True, rollout_gpu_memory_utilization=0.9)
    assert set(writing.parts) == {"weights", "vLLM"}
    for estimate in (before, in_update, with_entropy, writing):
        assert estimate.needed >= estimate.least


def test_a_longer_batch_of_the_critic_needs_more():
    given = {**WHOLE, **CRITIC, "rollout_log_prob_micro_batch_size_per_gpu": 1, "actor_ppo_micro_batch_size_per_gpu": 1}
    short, long = (memory(**given, critic_max_token_len_per_gpu=tokens) for tokens in (100_000, 200_000))
    assert long.needed > short.needed
    # Recomputed: the input of each of the 32 layers is kept, and one layer.
    assert long.parts["activations"] - short.parts["activations"] > 32 * 4096 * 2 * 100_000


@pytest.mark.parametrize(
    ("file", "line"),
    [
        (FSDP, "if self.engine_config.offload_policy or self.engine_config.forward_only:"),
        (FSDP, "cpu_offload = CPUOffload(offload_params=True)"),
        (FSDP, "model=self._is_offload_param,"),
        (FSDP, "logits_rmpad = output.logits.squeeze(0)  # (total_nnz, vocab_size)"),
        (FSDP, "torch.compile(entropy_from_logits, dynamic=True)"),
        (FSDP, "is_unit_temperature=temperature_is_one,"),
        ("trainer/config/engine/fsdp.yaml", "use_torch_compile: true"),
        ("trainer/config/engine/fsdp.yaml", "model_dtype: fp32"),
        ("trainer/config/engine/fsdp.yaml", "reshard_after_forward: true"),
        ("trainer/config/ref/dp_ref.yaml", "forward_only: True"),
        ("trainer/config/model/hf_model.yaml", "use_fused_kernels: False"),
        (VLLM, '"gpu_memory_utilization": self.config.gpu_memory_utilization,'),
        (VLLM, "or not self.config.free_cache_engine:"),
        ("trainer/ppo/v1/trainer_base.py", '"calculate_entropy": True,'),
    ],
)  # fmt: skip
def test_verl_holds_what_the_estimate_assumes(file, line):
    assert line in source(file)


@pytest.fixture
def seen(monkeypatch):
    """A function that returns what the plan has seen of a model and parameters, on a cluster."""
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)

    def made(weights: int = WEIGHTS, **given: Any) -> Any:
        p = params(**given)
        layout = SimpleNamespace(config=LLAMA_8B, max_length=8192, max_positions=8192)
        model = SimpleNamespace(layout=layout, parameters=weights)
        return SimpleNamespace(parameters=p, recipe=recipe("causal_lm", "grpo"), model=model, reference=None, zero=None,
                               hardware=hardware_of(p), config=LLAMA_8B)  # fmt: skip

    return made


SMALL_BATCHES = {"actor_ppo_micro_batch_size_per_gpu": 1, "rollout_log_prob_micro_batch_size_per_gpu": 1}


@pytest.mark.parametrize(
    ("weights", "given", "refused"),
    [
        (WEIGHTS, {**WHOLE, **SMALL_BATCHES}, False),
        (30_000_000_000, {**WHOLE, **RESIDENT}, True),
        (30_000_000_000, {**WHOLE, **MOVED}, True),
        (30_000_000_000, WHOLE, False),
        (14_000_000_000, {**WHOLE, **RESIDENT}, False),  # 26 GiB of 32, beside the share of vLLM
        (14_000_000_000, {**WHOLE, **RESIDENT, **CRITIC}, True),
    ],
)
def test_only_what_surely_does_not_fit_is_refused(seen, weights, given, refused):
    problems = list(memory_problems(seen(weights, **given)))
    assert [problem.code for problem in problems] == (["PLAN-E0365"] if refused else [])
    for problem in problems:
        assert "with the share of vLLM" in problem.found
        assert "fit with" in problem.fix


def changes_in(words: str) -> dict[str, str]:
    """The parameters of a remedy."""
    text = words.replace(" together", "").replace(" and ", ", ").split(" (")[0]
    return dict(part.strip().split("=") for part in text.split(", "))


@pytest.mark.parametrize(
    ("weights", "given"),
    [(30_000_000_000, {**WHOLE, **RESIDENT}), (WEIGHTS, {}), (20_000_000_000, {**WHOLE, **RESIDENT, **CRITIC}),
     (WEIGHTS, {"number_of_gpu_to_use_finetuning": 2, **WHOLE, **RESIDENT, **SMALL_BATCHES})],
)  # fmt: skip
def test_with_each_change_that_is_told_it_fits(seen, weights, given):
    before = seen(weights, **given)
    choice = choose(before)
    assert choice is not None
    assert not choice.memory.fits
    found = remedies(before, choice)
    assert found
    for words in found:
        after = seen(weights, **{**given, **changes_in(words)})
        changed = choose(after)
        assert changed is not None
        assert changed.memory.fits, words
        assert estimate_of(after, after.parameters, "fsdp", changed.room).needed < choice.memory.needed or (
            "instance_type_finetune" in words
        )
    assert any("expected to need" in note for note in memory_notes(before))


def test_too_much_on_the_cpu_is_told(seen):
    (note,) = [note for note in memory_notes(seen(110_000_000_000, **WHOLE, **SMALL_BATCHES)) if "CPU memory" in note]
    assert "2049 GiB" in note  # (16 + 4) × 110e9 bytes
    assert "instance_type_finetune" in note


@pytest.mark.parametrize(
    ("weights", "given", "refused"),
    [
        (WEIGHTS, {}, False),
        (70_000_000_000, {}, True),  # 65 GiB on each of two GPUs
        (70_000_000_000, {"rollout_tensor_model_parallel_size": 4}, False),
        (70_000_000_000, {"rollout_tensor_model_parallel_size": 4, "rollout_dtype": "float32"}, True),
        (70_000_000_000, {"rollout_gpu_memory_utilization": 0.9}, False),
        (70_000_000_000, {"ENGINE": "trl"}, False),
    ],
)
def test_a_share_that_does_not_hold_the_weights_is_refused(seen, weights, given, refused):
    if given.get("ENGINE") == "trl":
        given = {**given, "rollout_tensor_model_parallel_size": 1}
    problems = list(rollout_problems(seen(weights, **given)))
    assert [problem.code for problem in problems] == (["PLAN-E0545"] if refused else [])
    for problem in problems:
        assert "rollout_tensor_model_parallel_size" in problem.fix


def test_the_share_that_the_fix_names_is_enough(seen):
    (problem,) = rollout_problems(seen(70_000_000_000))
    share = problem.fix.split("=")[1].split(" ")[0]
    assert list(rollout_problems(seen(70_000_000_000, rollout_gpu_memory_utilization=share))) == []


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, ""),  # 8Gi on one node, of which half is for 0.5 GiB of completions
        ({"num_nodes_finetune": 2}, ""),
        ({"num_nodes_finetune": 2, "shm_size_finetune": "1g"}, "set shm_size_finetune=2Gi"),
        ({"num_nodes_finetune": 2, "data_train_batch_size": 4096, "rollout_n": 8}, "set shm_size_finetune=14Gi"),
        ({"data_train_batch_size": 4096, "rollout_n": 8}, "set shared_memory: 14Gi in the cluster's profile"),
        ({"num_nodes_finetune": 2, "data_train_batch_size": 4096, "rollout_n": 8, "shm_size_finetune": "14Gi"}, ""),
    ],
)
def test_a_small_dev_shm_is_told(seen, given, told):
    notes = list(shared_memory_notes(seen(**given)))
    assert len(notes) == (1 if told else 0)
    assert all(told in note for note in notes)


def test_the_plan_shows_the_estimate(tiny_model, tmp_path, monkeypatch):
    monkeypatch.delenv("FINETUNE_ROOT", raising=False)
    rows = [{"q": f"{n} + {n}?", "a": str(2 * n)} for n in range(40)]
    given = {
        "pytorch_model_path": str(tiny_model), "data_train_files": str(write_jsonl(tmp_path / "t.jsonl", rows)),
        "question_key": "q", "answer_key": "a", "data_source": "openai/gsm8k", "data_train_batch_size": 8,
        "actor_ppo_mini_batch_size": 8, "actor_ppo_micro_batch_size_per_gpu": 1, "rollout_n": 2, "min_train_rows": 1,
        "rollout_log_prob_micro_batch_size_per_gpu": 1, "data_max_prompt_length": 32, "data_max_response_length": 16,
        "number_of_gpu_to_use_finetuning": 2, "mlflow_server_uri": "http://mlflow:5000",
        "actor_model_exclude_modules": "",
    }  # fmt: skip
    made = plan("verl_finetune", given, tmp_path / "plan", tmp_path / "plan.html")
    told = json.loads((tmp_path / "plan/plan.json").read_text())
    assert told["memory"]["parts"]["vLLM"] == int(0.6 * GPU)
    assert (told["memory"]["processes"], told["memory"]["strategy"]) == (2, "fsdp")
    assert told["memory"]["available_bytes"] == int(0.9 * GPU)
    assert "memory of each process" in as_text(told)
    page = (tmp_path / "plan.html").read_text()
    assert "one GPU of instance_type_finetune" in page
    assert "more are kept in CPU memory" in page
    assert json.loads(made.training)["training"]["gradient_checkpointing"] == "true"
