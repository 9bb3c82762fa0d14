"""Wall time and memory of merging a LoRA adapter: our merge_adapter compared with PEFT's merge_and_unload.

    python benchmarks/merge_adapter.py [--params MILLIONS] [--rounds N] [--scratch DIR]

A random bf16 Llama in several shards and a rank-16 adapter on all its linear layers are built once. Then the arms
alternate, each in a separate process, including start-up; a plain copy of the weights is the lower bound. The merged
tensors must be bit-equal. Exits with 1 if they are not, or if a target is missed: 4 times faster, at most 700 MiB.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TARGET_RATIO = 4.0
TARGET_MIB = 700


class Run(NamedTuple):
    """Time and memory of one process."""

    seconds: float
    cpu_seconds: float
    """More reliable than wall time on a busy machine."""
    mib: float
    """Peak resident memory."""


BUILD = """
import sys
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

base, adapter, millions = sys.argv[1], sys.argv[2], float(sys.argv[3])
hidden = 1536 if millions >= 100 else 256
per_layer = 16 * hidden * hidden  # 4 h·h in attention, 3 h·4h in the MLP
layers = max(2, round((millions * 1e6 - 32000 * hidden) / per_layer))
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=32000, hidden_size=hidden, intermediate_size=4 * hidden, num_hidden_layers=layers,
    num_attention_heads=hidden // 128, num_key_value_heads=hidden // 128, tie_word_embeddings=True, dtype="bfloat16",
))
size = sum(p.numel() for p in model.parameters())
model.save_pretrained(base, max_shard_size=size * 2 // 5 + 1)
torch.set_default_dtype(torch.float32)
tuned = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"))
with torch.no_grad():
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            weight.normal_(std=0.02)
tuned.save_pretrained(adapter)
print(size)
"""
PEFT = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM

base, adapter, output = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(base)
PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output, max_shard_size="220MB")
"""
COPY = """
import shutil, sys
shutil.copytree(sys.argv[1], sys.argv[3])
"""
COMPARE = """
import sys
from pathlib import Path
import torch
from safetensors import safe_open

def tensors(folder):
    opened = [safe_open(file, "pt") for file in sorted(Path(folder).glob("*.safetensors"))]
    return {name: file for file in opened for name in file.keys()}

base, ours, theirs = (tensors(folder) for folder in sys.argv[1:])
def same(one, other, name):
    a, b = one[name].get_tensor(name), other[name].get_tensor(name)
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.view(torch.int16), b.view(torch.int16))
equal = ours.keys() == theirs.keys() and sum(same(ours, theirs, name) for name in theirs)
print(len(theirs), int(equal), sum(not same(ours, base, name) for name in ours))
"""


def main() -> int:
    """Build the model, measure, compare the tensors, and print."""
    options = _options()
    scratch = Path(tempfile.mkdtemp(prefix="merge-adapter-", dir=options.scratch))
    try:
        base, adapter = scratch / "base", scratch / "adapter"
        built = _output(BUILD, str(base), str(adapter), str(options.params))
        shards = list(base.glob("*.safetensors"))
        size = sum(file.stat().st_size for file in shards)
        print(f"{int(built) / 1e6:.0f} M parameters, {size / 1e6:.0f} MB in {len(shards)} shards, rank 16 everywhere")
        folders = ["--base", base, "--adapter", adapter, "--output", scratch / "ours"]
        arms = {
            "ours": ["-m", "steps", "merge-adapter", *folders],
            "PEFT": ["-c", PEFT, base, adapter, scratch / "PEFT"],
            "copy": ["-c", COPY, base, adapter, scratch / "copy"],
        }  # fmt: skip
        measured: dict[str, list[Run]] = {name: [] for name in arms}
        for _ in range(options.rounds):
            for name, words in arms.items():
                measured[name].append(_measure([str(word) for word in words], scratch / name))
        compared = _output(COMPARE, *(str(scratch / name) for name in ("base", "ours", "PEFT")))
        count, equal, changed = map(int, compared.split())
        return _report(measured, count, equal, changed)
    finally:
        shutil.rmtree(scratch)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=float, default=500, help="millions of parameters (default 500: 1 GB)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all arms; medians are compared (default 3)")
    parser.add_argument("--scratch", help="folder for about four times the model (default: the system's)")
    return parser.parse_args()


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}


def _output(script: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=_environment(), stdout=subprocess.PIPE, check=True, text=True
    )
    return done.stdout.splitlines()[-1]


def _measure(words: list[str], output: Path) -> Run:
    """Run one arm in a separate process."""
    shutil.rmtree(output, ignore_errors=True)
    os.sync()  # pending writes of the previous arm must not slow this one
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, *words], cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr
    complaints = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(complaints.decode(errors="replace"))
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _report(measured: dict[str, list[Run]], count: int, equal: int, changed: int) -> int:
    print(f"\n{'':6} {'median s':>9} {'CPU s':>7} {'peak MiB':>9}   all rounds")
    seconds = {name: statistics.median(run.seconds for run in runs) for name, runs in measured.items()}
    peak = {name: max(run.mib for run in runs) for name, runs in measured.items()}
    for name, runs in measured.items():
        cpu = statistics.median(run.cpu_seconds for run in runs)
        every = " ".join(f"{run.seconds:.2f}" for run in runs)
        print(f"{name:6} {seconds[name]:9.2f} {cpu:7.2f} {peak[name]:9.0f}   {every}")
    ratio = seconds["PEFT"] / seconds["ours"]
    checks = {
        f"{equal} of {count} tensors bit-equal to PEFT's, {changed} differ from the base": equal == count
        and changed > 0,
        f"{ratio:.2f} times as fast as PEFT (target {TARGET_RATIO:g})": ratio >= TARGET_RATIO,
        f"{peak['ours']:.0f} MiB at most (target {TARGET_MIB})": peak["ours"] <= TARGET_MIB,
    }
    print()
    for what, met in checks.items():
        print(f"{'ok    ' if met else 'MISSED'} {what}")
    return 0 if all(checks.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
