"""How much GPU memory a training needs, and when activations are recomputed."""

from steps.kinds.recipe import recipe
from steps.params.reading import read_parameters
from steps.plan.memory import GIB, estimate

LLAMA_8B = {
    "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "vocab_size": 128256,
}  # fmt: skip


def memory(gpu_memory: int, **changes):
    given = {"pytorch_model_path": "m", "train_file_path": "t.jsonl", **changes}
    parameters = read_parameters("chat_completion", given).parameters
    return estimate(parameters, recipe("causal_lm", "supervised"), LLAMA_8B, 8_030_000_000, 2048, gpu_memory)


def test_full_training_needs_sixteen_bytes_a_parameter_and_an_adapter_far_less():
    full = memory(80)
    assert full.parts["weights"] + full.parts["gradients and optimizer"] == 16 * 8_030_000_000
    assert memory(80, apply_lora=True, precision="16").needed < 30 * GIB


def test_activations_are_recomputed_only_when_they_would_not_fit():
    lora = {"apply_lora": True, "precision": "16", "per_device_train_batch_size": 8}
    assert not memory(0, **lora).checkpointing
    assert memory(48, **lora).checkpointing
    assert not memory(400, **lora).checkpointing
    assert memory(400, **lora, gradient_checkpointing="true").checkpointing
