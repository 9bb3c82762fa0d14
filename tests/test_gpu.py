"""Tests that need a GPU: every way to train there learns, and gives what a CPU gives as far as both are exact.

All models are tiny. What the machine lacks (a second GPU, a package) is skipped with the reason.
"""

import gc
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import chat_rows, write_jsonl
from training_inputs import settings_with, train, write_ids, write_tokens

from steps.artifacts import read_manifest
from steps.errors import OutOfResources
from steps.finetune.checkpoints import folder_for
from steps.launch.deepspeed_config import BUILT_IN
from steps.params.distributed import Processes
from steps.params.evaluation import EvaluationParams
from steps.params.lora import LoraParams
from steps.params.quantisation import QuantisationParams
from steps.params.settings import DataSettings, EvaluationSettings, FinetuneSettings, Resolved
from steps.params.training import CheckpointParams

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("local_root")]

ADAPTER = {"lora": LoraParams(apply_lora=True, lora_r=8)}
BITS = {"4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "8": {"load_in_8bit": True}}
NO_GPUS = {"CUDA_VISIBLE_DEVICES": "", "HIP_VISIBLE_DEVICES": ""}


@pytest.fixture(autouse=True)
def gpu() -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU here")


def losses(history: dict) -> list[float]:
    return [point["loss"] for point in history["points"]]


def tensors(folder: Path) -> dict:
    from safetensors.torch import load_file

    return load_file(next(folder.glob("*.safetensors")))


def on_the_cpu(code: str, *words: str) -> None:
    """Run code in a process that sees no GPU."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    environment = {**os.environ, **NO_GPUS, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.run([sys.executable, "-c", code, *words], env=environment, check=True, stdout=subprocess.DEVNULL)


TRAINS = """
import json, sys
from pathlib import Path
from training_inputs import train
from steps.params.settings import FinetuneSettings
for job in json.loads(sys.argv[1]):
    train(FinetuneSettings.model_validate(job["settings"]), *(Path(job[name]) for name in ("model", "data", "out")))
"""
LOW_TOKENS = """
def low(completions, completion_ids, **kwargs):
    return [sum(token < 75_968 for token in ids) / max(1, len(ids)) for ids in completion_ids]
"""
EVALUATES = """
import sys
from pathlib import Path
from steps.evaluate.step import evaluate
from steps.params.settings import EvaluationSettings
evaluate(EvaluationSettings.model_validate_json(sys.argv[1]), *(Path(word) for word in sys.argv[2:]))
"""


@pytest.mark.parametrize("precision", ["32", "16"])
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("recompute", ["false", "true"])
def test_training_learns_on_a_gpu(model, data, tmp_path, precision, lora, recompute):
    training = {"num_train_epochs": 3, "precision": precision, "gradient_checkpointing": recompute}
    history = train(settings_with(training, **(ADAPTER if lora else {})), model, data, tmp_path / "out")
    assert losses(history)[-1] < losses(history)[0]


def test_losses_on_a_gpu_equal_those_on_a_cpu(model, tokenizer, data, tmp_path):
    packed = write_tokens(tmp_path / "packed", tokenizer, chat_rows(50), packing=True)
    steps = {"max_steps": 4}
    cases: dict[str, tuple[FinetuneSettings, Path]] = {
        "full": (settings_with(steps), data),
        "lora": (settings_with(steps, **ADAPTER), data),
        "packed": (settings_with(steps, packing=True), packed),
    }
    here = {name: losses(train(settings, model, rows, tmp_path / name)) for name, (settings, rows) in cases.items()}
    jobs = [
        {"settings": settings.model_dump(mode="json"), "model": str(model), "data": str(rows),
         "out": str(tmp_path / "cpu" / name)}
        for name, (settings, rows) in cases.items()
    ]  # fmt: skip
    on_the_cpu(TRAINS, json.dumps(jobs))
    for name, trace in here.items():
        there = losses(json.loads((tmp_path / "cpu" / name / "tuned/history.json").read_text()))
        assert trace == pytest.approx(there, rel=1e-3), name


def test_sixteen_bits_are_those_that_the_card_computes_with():
    import torch

    from steps.finetune.arguments import sixteen_bit_type

    computes = bool(torch.version.hip) or torch.cuda.get_device_capability() >= (8, 0)  # Ampere: NVIDIA's white paper
    assert sixteen_bit_type() == ("bfloat16" if computes else "float16")


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_float16_trains_with_a_scaled_loss(model, data, tmp_path, monkeypatch, lora):
    monkeypatch.setattr("steps.finetune.arguments.sixteen_bit_type", lambda: "float16")
    same = ADAPTER if lora else {}
    half = train(settings_with({"precision": "16"}, **same), model, data, tmp_path / "half")
    whole = train(settings_with(**same), model, data, tmp_path / "whole")
    assert losses(half) == pytest.approx(losses(whole), rel=0.05)
    assert losses(half)[-1] < losses(half)[0]


@pytest.mark.parametrize("bits", BITS)
def test_an_adapter_on_a_quantised_base_learns_and_is_in_float32(model, data, tmp_path, bits):
    import torch

    quantised = {"quantisation": QuantisationParams(**BITS[bits]), **ADAPTER}
    half = {"precision": "16", "num_train_epochs": 3}
    history = train(settings_with(half, **quantised), model, data, tmp_path / "few")
    whole = train(settings_with({**half, "max_steps": 1}, **ADAPTER), model, data, tmp_path / "whole")
    assert losses(history)[0] == pytest.approx(losses(whole)[0], rel=0.05)
    assert losses(history)[-1] < losses(history)[0]
    assert {tensor.dtype for tensor in tensors(tmp_path / "few/tuned").values()} == {torch.float32}
    assert history["parameters"]["total"] == whole["parameters"]["total"]


def test_an_adapter_from_a_gpu_is_merged_as_peft_merges_it(model, data, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from steps.finetune.step import finetune

    out = tmp_path / "out"
    where = (out / "tuned", out / "checkpoints", out / "report.html", out / "merged")
    finetune(settings_with({"max_steps": 6}, **ADAPTER), model, data, *where)
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, out / "tuned").merge_and_unload().state_dict()
    ours = AutoModelForCausalLM.from_pretrained(out / "merged", dtype=torch.float32).state_dict()
    plain = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, msg=lambda told, name=name: f"{name}: {told}")
    assert any(not torch.equal(ours[name], plain[name]) for name in ours)


@pytest.mark.skipif(not find_spec("flash_attn"), reason="the package flash_attn is not installed")
def test_flash_attention_gives_the_losses_of_torchs_attention(model, data, tmp_path):
    half = {"precision": "16", "max_steps": 4}
    flash = train(settings_with({**half, "attn_implementation": "flash_attention_2"}), model, data, tmp_path / "flash")
    usual = train(settings_with(half), model, data, tmp_path / "usual")
    assert losses(flash) == pytest.approx(losses(usual), rel=0.02)


@pytest.mark.skipif(not find_spec("deepspeed"), reason="the package deepspeed is not installed")
@pytest.mark.parametrize("stage", ["2", "3"])
def test_deepspeed_in_one_process_gives_the_losses_without_it(model, data, tmp_path, stage):
    zero = {**deepcopy(BUILT_IN[stage]), "zero_force_ds_cpu_optimizer": False}
    accumulated = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 1}
    plain = train(settings_with(accumulated), model, data, tmp_path / "plain")
    ours = train(settings_with(accumulated, deepspeed=zero), model, data, tmp_path / "ours")
    assert losses(ours) == pytest.approx(losses(plain), rel=1e-3)
    assert tensors(tmp_path / "ours/tuned").keys() == tensors(tmp_path / "plain/tuned").keys()


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_gpus_train_as_one_does(model, data, tmp_path, strategy):
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("only one GPU here")
    alone = train(settings_with({"num_train_epochs": 1}), model, data, tmp_path / "alone")
    half_each = {"num_train_epochs": 1, "per_device_train_batch_size": 2}
    processes = Processes(per_node=2, strategy=strategy)
    both = train(settings_with(half_each, processes=processes), model, data, tmp_path / "both")
    assert both["processes"]["count"] == 2
    assert losses(both) == pytest.approx(losses(alone), rel=1e-3)


@contextmanager
def only(mebibytes: int) -> Iterator[None]:
    """Let torch take this much memory of the GPU beyond what it has."""
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + mebibytes * 2**20) / whole)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.fixture
def many_rows(tmp_path: Path) -> Path:
    """Rows of 64 tokens, whose activations need more than 0.6 MiB each in the tiny model (docs/memory.md)."""
    rows = [[5 + (number + place) % 300 for place in range(64)] for number in range(2048)]
    return write_ids(tmp_path / "many", train=rows, validation=rows[:8])


LARGE = {"max_steps": 2, "per_device_train_batch_size": 2048, "evaluation_strategy": "no"}


def test_a_batch_too_large_for_the_gpu_is_told_as_that(model, many_rows, tmp_path):
    with only(1000), pytest.raises(OutOfResources, match="TRAIN-E0501 step 1, batch 2048"):
        train(settings_with(LARGE), model, many_rows, tmp_path / "out")


def test_a_batch_is_halved_until_it_fits_on_the_gpu_with_the_same_losses(model, many_rows, tmp_path):
    whole = train(settings_with(LARGE), model, many_rows, tmp_path / "whole")
    with only(1000):
        found = train(settings_with({**LARGE, "auto_find_batch_size": True}), model, many_rows, tmp_path / "found")
    batch = found["batch"]
    assert batch["per_device"] < 2048
    assert batch["per_device"] * batch["accumulated"] == 2048
    assert losses(found) == pytest.approx(losses(whole), rel=1e-3)


def test_a_resumed_training_ends_as_an_unbroken_one(model, data, tmp_path):
    import torch

    kept = CheckpointParams(save_steps=4, keep_checkpoints="true")
    settings = settings_with(checkpoints=kept)
    unbroken = train(settings, model, data, tmp_path / "unbroken")
    inputs = {"model": read_manifest(model).digest, "data": read_manifest(data).digest}
    checkpoints = folder_for(settings, inputs, tmp_path / "none").path
    for checkpoint in checkpoints.glob("checkpoint-*"):
        if int(checkpoint.name.rpartition("-")[2]) > 8:
            shutil.rmtree(checkpoint)
    again = settings_with(checkpoints=kept.model_copy(update={"resume_from_checkpoint": "true"}))
    resumed = train(again, model, data, tmp_path / "resumed")
    assert resumed["resumed_from"] == 8
    # Sums of a GPU may be made in another order each time, so the last bits can differ.
    assert losses(resumed) == pytest.approx(losses(unbroken), rel=1e-4)
    mine, theirs = tensors(tmp_path / "resumed/tuned"), tensors(tmp_path / "unbroken/tuned")
    for name, tensor in theirs.items():
        torch.testing.assert_close(mine[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.fixture
def half_a_billion(tmp_path: Path) -> Path:
    """The shape of Qwen2.5 0.5B with random weights and this project's tiny tokenizer."""
    import torch
    from conftest import build_tokenizer
    from training_inputs import as_imported
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    build_tokenizer(tmp_path / "built")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "built")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
        num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path / "built")
    return as_imported(tmp_path / "built", tmp_path / "half_a_billion")


@pytest.mark.parametrize(
    ("use_vllm", "lora"),
    [("true", False), ("true", True), ("false", True)],
    ids=["vllm-full", "vllm-lora", "ours-lora"],
)
def test_twenty_steps_with_rewards_on_the_shape_of_half_a_billion_weights(half_a_billion, tmp_path, lora, use_vllm):
    """Prints what it took. vLLM has the weights of the moment if its log-probabilities stay close to the model's."""
    import pyarrow.parquet as pq
    import torch
    from rewarded_rows import letters, prompt_rows, write_prompts
    from rewarded_rows import settings_with as rewarded_with
    from transformers import AutoTokenizer

    if use_vllm == "true" and find_spec("vllm") is None:
        pytest.skip("vllm is not installed")
    tokenizer = AutoTokenizer.from_pretrained(half_a_billion)
    rows = prompt_rows(160)
    prompts = write_prompts(tmp_path / "data", tokenizer, train=rows)
    reward = letters(tmp_path, LOW_TOKENS)
    training = {"max_steps": 20, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 4,
                "learning_rate": 1e-3 if lora else 1e-4, "lr_scheduler_type": "constant",
                "precision": "16"}  # fmt: skip
    asked = {"num_generations": 8, "max_completion_length": 128, "max_prompt_length": 128, "use_vllm": use_vllm}
    torch.cuda.reset_peak_memory_stats()
    history = train(rewarded_with(reward, training, asked, gpus=1, **(ADAPTER if lora else {})), half_a_billion,
                    prompts, tmp_path / "out")  # fmt: skip
    assert history["steps"] == 20
    table = pq.read_table(tmp_path / "out/tuned/completions.parquet").to_pydict()
    assert len(table["reward"]) == 20 * 64
    apart = (
        [point["sampling/sampling_logp_difference/mean"] for point in history["points"]] if use_vllm == "true" else []
    )
    assert all(math.isfinite(loss) for loss in losses(history))
    first, last = (sum(table["reward"][part]) / 256 for part in (slice(None, 256), slice(-256, None)))
    speed, memory = sum(table["tokens"]) / history["seconds"], torch.cuda.max_memory_allocated() / 2**30
    print(f"{history['seconds']:.1f} s, {speed:.0f} completion tokens/s, at most {memory:.1f} GiB beside vLLM's share; "
          f"reward {first:.3f} to {last:.3f}; log-probabilities apart {apart[-1:]}")  # fmt: skip
    assert all(one < 0.1 for one in apart)  # bfloat16, computed in two ways


@pytest.fixture
def prepared(model: Path, tmp_path: Path) -> Path:
    """Conversations as prepare_data hands them on, ten of them for the evaluation."""
    from steps.prepare_data.step import prepare_data
    from steps.sources.storage import digest_of

    rows = chat_rows(60)
    parts = {"train": rows[:40], "validation": rows[40:50], "test": rows[50:]}
    sources = {}
    for name, part in parts.items():
        file = str(write_jsonl(tmp_path / f"{name}.jsonl", part))
        sources[name] = Resolved(uri=file, digest=digest_of(f"{name}_file_path", file))
    settings = DataSettings(task="chat_completion", max_length=64, **sources)
    prepare_data(settings, model, tmp_path / "prepared", tmp_path / "data.html")
    return tmp_path / "prepared"


@pytest.mark.parametrize("precision", ["32", "16"])
def test_an_evaluation_on_a_gpu_tells_what_one_on_a_cpu_tells(model, prepared, tmp_path, precision):
    import pyarrow.parquet as pq

    from steps.evaluate.step import evaluate

    out = tmp_path / "out"
    tuned: Callable[[str], Path] = out.joinpath
    train(settings_with({"num_train_epochs": 4, "learning_rate": 5e-3}), model, prepared, out)
    settings = EvaluationSettings(
        task="chat_completion", batch_size=4, precision=precision,
        evaluation=EvaluationParams(evaluation_max_new_tokens=8),
    )  # fmt: skip
    inputs = [model, tuned("tuned"), tuned("tuned"), prepared]
    evaluate(settings, *inputs, tmp_path / "gpu")
    on_the_cpu(EVALUATES, settings.model_dump_json(), *map(str, inputs), str(tmp_path / "cpu"))
    here, there = (json.loads((tmp_path / place / "metrics.json").read_text()) for place in ("gpu", "cpu"))
    for which in ("base", "tuned"):
        assert math.isfinite(here[which]["loss"])
        assert here[which]["loss"] == pytest.approx(there[which]["loss"], rel=1e-3 if precision == "32" else 0.02)
    assert here["tuned"]["loss"] < here["base"]["loss"]
    if precision == "32":
        mine, theirs = (pq.read_table(tmp_path / p / "predictions.parquet").to_pylist() for p in ("gpu", "cpu"))
        same = sum(a["tuned"] == b["tuned"] for a, b in zip(mine, theirs, strict=True))
        assert same >= len(theirs) - 1  # two tokens may be equally likely
