"""The plan's estimate of a training's memory, compared with torch's account of the same step."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import measured_memory
import pytest
from forking import ForkingPython
from measured_memory import configuration, model_of

from steps.kinds.recipe import recipe
from steps.params.reading import read_parameters
from steps.plan.memory import MemoryEstimate, estimate
from steps.plan.sharding import ALONE, Sharing

pytestmark = pytest.mark.slow

LARGEST_ERROR = 0.2
PIPELINES = {"bert": ("text_classification", "sequence_classification"), "bert-masked": ("pretraining", "masked_lm"),
             "t5": ("translation", "seq2seq_lm"), "bart": ("translation", "seq2seq_lm")}  # fmt: skip
NO_DROPOUT = {
    "gpt2": {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    "bert": {"attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0},
    "t5": {"dropout_rate": 0.0},
}


def parameters(pipeline: str, batch: int, **changes):
    given = {"pytorch_model_path": "m", "train_file_path": "t.jsonl", "per_device_train_batch_size": batch, **changes}
    return read_parameters(pipeline, given).parameters


def estimated(
    family: str,
    size: str,
    *,
    batch: int,
    length: int,
    answer: int = 0,
    lora: bool = False,
    half: bool = False,
    checkpointing: bool = False,
    attention: str = "auto",
    accumulated: int = 1,
    gpu: bool = False,
    sharing: Sharing = ALONE,
    **changes,
) -> MemoryEstimate:
    pipeline, kind = PIPELINES.get(family, ("chat_completion", "causal_lm"))
    p = parameters(
        pipeline,
        batch,
        gradient_accumulation_steps=accumulated,
        precision="16" if half else "32",
        apply_lora=lora,
        gradient_checkpointing=str(checkpointing).lower(),
        attn_implementation=attention,
        number_of_gpu_to_use_finetuning=int(gpu),
        **({"max_target_length": answer} if answer else {}),
    )
    count = sum(one.numel() for one in model_of(family, size, False, False, "sdpa", **changes).parameters())
    _, config = configuration(family, size, **changes)
    return estimate(p, recipe(kind, "supervised"), config.to_dict(), count, length, 0, sharing=sharing)


CASES = [
    ("llama", "middle", {"batch": 4, "length": 512}),
    ("llama", "middle", {"batch": 8, "length": 1024, "half": True}),
    ("llama", "middle", {"batch": 8, "length": 512, "checkpointing": True}),
    ("llama", "large", {"batch": 4, "length": 512, "half": True, "checkpointing": True}),
    ("llama", "large", {"batch": 1, "length": 256}),
    ("llama", "middle", {"batch": 4, "length": 512, "lora": True}),
    ("llama", "large", {"batch": 4, "length": 1024, "lora": True, "half": True}),
    ("llama", "large", {"batch": 16, "length": 512, "lora": True, "half": True, "checkpointing": True}),
    ("llama", "small", {"batch": 4, "length": 1024, "attention": "eager"}),
    ("llama", "middle", {"batch": 4, "length": 1024, "attention": "eager", "half": True}),
    ("llama", "middle", {"batch": 4, "length": 512, "accumulated": 2}),
    ("llama", "large", {"batch": 4, "length": 1024, "gpu": True}),
    ("llama", "large", {"batch": 4, "length": 1024, "gpu": True, "half": True}),
    ("llama", "large", {"batch": 1, "length": 256, "gpu": True}),
    ("llama", "large", {"batch": 8, "length": 1024, "gpu": True, "half": True, "lora": True}),
    ("llama", "large", {"batch": 8, "length": 1024, "gpu": True, "half": True, "checkpointing": True}),
    ("qwen2", "large", {"batch": 2, "length": 1024, "half": True}),
    ("qwen2", "middle", {"batch": 4, "length": 512, "lora": True}),
    ("gpt2", "middle", {"batch": 4, "length": 512}),
    ("gpt2", "middle", {"batch": 4, "length": 1024, "half": True}),
    ("gpt2", "large", {"batch": 4, "length": 512, "lora": True, "half": True}),
    ("gpt2", "middle", {"batch": 8, "length": 512, "checkpointing": True}),
    ("gpt2", "large", {"batch": 4, "length": 1024, "gpu": True, "half": True, **NO_DROPOUT["gpt2"]}),
    ("bert", "middle", {"batch": 8, "length": 256}),
    ("bert", "large", {"batch": 16, "length": 256, "half": True}),
    ("bert", "middle", {"batch": 16, "length": 384, "lora": True}),
    ("bert", "middle", {"batch": 8, "length": 384, "lora": True, "half": True}),
    ("bert", "large", {"batch": 16, "length": 384, "checkpointing": True}),
    ("bert", "large", {"batch": 16, "length": 384, "gpu": True, **NO_DROPOUT["bert"]}),
    ("bert-masked", "middle", {"batch": 8, "length": 256}),
    ("bert-masked", "middle", {"batch": 8, "length": 256, "half": True}),
    ("t5", "middle", {"batch": 8, "length": 256, "answer": 64}),
    ("t5", "middle", {"batch": 8, "length": 256, "answer": 64, "half": True}),
    ("t5", "large", {"batch": 4, "length": 512, "answer": 128, "lora": True}),
    ("t5", "middle", {"batch": 8, "length": 512, "answer": 128, "checkpointing": True}),
    ("t5", "middle", {"batch": 8, "length": 512, "answer": 128, "gpu": True, "half": True, **NO_DROPOUT["t5"]}),
    ("bart", "middle", {"batch": 8, "length": 256, "answer": 128}),
    ("bart", "middle", {"batch": 8, "length": 256, "answer": 128, "half": True}),
]  # fmt: skip


MEASURE = """
import json, sys
sys.path.insert(0, sys.argv[1])
import measured_memory
name, given, named = json.loads(sys.argv[2])
print(json.dumps(getattr(measured_memory, name)(*given, **named)))
"""


@pytest.fixture(scope="module")
def measuring() -> Iterator[ForkingPython]:
    """Processes in which no other test ran: torch's tracker also counts what other tests leave behind."""
    made = ForkingPython(["torch", "transformers.models.auto.modeling_auto", "peft", "trl.trainer.utils"], os.environ)
    yield made
    made.close()


def measured_apart(measuring: ForkingPython, name: str, *given, **named):
    folder = Path(__file__).parent
    return json.loads(measuring.run(MEASURE, str(folder), json.dumps([name, given, named]), cwd=folder))


def described(case) -> str:
    family, size, how = case
    words = [f"{name}={value}" if value is not True else name for name, value in how.items() if "drop" not in name]
    return f"{family} {size} {' '.join(words)}"


def told_of(case) -> MemoryEstimate:
    family, size, how = case
    return estimated(family, size, **{"attention": "auto", **how})


SHARDED = [
    pytest.param(half, reshard, checkpointing, marks=() if half is not reshard else pytest.mark.long)
    for half in (False, True) for reshard in (False, True) for checkpointing in (False, True)
]  # fmt: skip


OFTEN = ("gpt2", "bert")  # a decoder and an encoder; both together take a minute


def marked(case):
    """A small step of some families is tested always, the others, of up to a minute each, with the long tests."""
    first = next(one for one in CASES if one[0] == case[0] and one[1] != "large" and _tokens(one) <= 2048)
    first = first if case[0] in OFTEN else None
    return pytest.param(case, id=described(case), marks=() if case is first else pytest.mark.long)


def _tokens(case) -> int:
    return case[2]["batch"] * case[2]["length"]


@pytest.mark.parametrize("case", map(marked, CASES))
def test_the_estimate_is_within_a_fifth_of_what_torch_counts(case, measuring):
    family, size, how = case
    told, found = told_of(case), measured_apart(measuring, "measured", family, size, **how)
    assert told.needed == pytest.approx(found["Total"], rel=LARGEST_ERROR), (told.parts, found)


def test_the_weights_and_states_are_exact(measuring):
    how = {"batch": 1, "length": 32, "gpu": True}
    told, found = told_of(("llama", "middle", how)), measured_apart(measuring, "measured", "llama", "middle", **how)
    assert told.parts["weights"] == pytest.approx(found["Parameter"], rel=0.001)
    # Gradients and two states, and another float32 for each weight while torch updates all of them at once.
    states = told.parts["gradients and optimizer"] + told.parts["optimizer's update"]
    assert states == pytest.approx(found["Total"] - found["Parameter"], rel=0.01)


@pytest.mark.parametrize(("half", "reshard", "checkpointing"), SHARDED)
def test_a_shard_is_within_a_fifth_of_what_torch_counts(half, reshard, checkpointing, measuring):
    told, how = told_of_shard(half, reshard, checkpointing)
    assert told == pytest.approx(measured_apart(measuring, "measured_shards", 4, **how), rel=LARGEST_ERROR)


def told_of_shard(half: bool, reshard: bool, checkpointing: bool) -> tuple[int, dict]:
    how = {"batch": 4, "length": 512, "half": half, "checkpointing": checkpointing}
    told = estimated("llama", "middle", **how, gpu=True, sharing=Sharing("fsdp", 4, 4, reshard))
    return told.needed, {**how, "reshard": reshard}


def test_ddp_has_a_second_copy_of_the_gradients(measuring):
    alone, copied = measured_apart(measuring, "measured_copies")
    count = sum(one.numel() for one in model_of("llama", "small", False, False, "sdpa").parameters())
    assert copied - alone == pytest.approx(4 * count, rel=0.01)
    how = {"batch": 1, "length": 16, "gpu": True}
    ours = estimated("llama", "small", **how, sharing=Sharing("ddp", 2, 2)).needed
    assert ours - estimated("llama", "small", **how).needed == 4 * count


def table() -> None:
    """Print the table of docs/memory.md; arguments choose cases by a part of their name."""
    print("| model and step | estimated MiB | measured MiB | ratio |\n|---|---|---|---|")
    for case in CASES:
        if sys.argv[1:] and not any(word in described(case) for word in sys.argv[1:]):
            continue
        family, size, how = case
        found = measured_memory.measured(family, size, **how)["Total"]
        print(_line(described(case), told_of(case).needed, found), flush=True)
    for case in (marked.values for marked in SHARDED):
        words = zip(("half", "reshard", "checkpointing"), case, strict=True)
        name = " ".join(["llama middle batch=4 length=512 fsdp of 4", *(word for word, on in words if on)])
        told, how = told_of_shard(*case)
        print(_line(name, told, measured_memory.measured_shards(4, **how)), flush=True)


def _line(name: str, told: int, found: int) -> str:
    return f"| {name} | {told / 2**20:.0f} | {found / 2**20:.0f} | {told / found:.2f} |"


if __name__ == "__main__":
    table()
