"""Tokens per second of completions for GRPO on the CPU: ours compared with TRL's GRPOTrainer.

    python benchmarks/grpo.py [--rounds N] [--prompts N] [--cpu-time]

A Llama with random weights writes 8 completions to each prompt; some of its tokens end a completion, so that lengths
are skewed, up to the limit. The arms alternate, each in a separate process, and are measured without start-up: the
default path of a bare GRPOTrainer (`generate`, without vLLM), with 8 prompts per generation and with one, which is what
TRL's defaults give; and ours with 8. Models are in training mode, as a training calls them.

Sampled completions differ between the arms, as their draws do: their number must be the same, and mean lengths and
rewards equal within the sampling error. At a temperature near zero, where draws decide nothing, completions must be
equal, up to ties, which are listed. Exits with 1 if not, or if the target is missed: 3.0 times TRL with as many prompts
per generation.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from inputs.random_model import build, random_prompts

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

TARGET = 3.0
EACH, TOGETHER = 8, 8  # completions per prompt, prompts per generation
LONGEST, LONGEST_PROMPT = 256, 512
COLD = 1e-4  # temperature near zero
CLOSE = 1e-3  # logits whose difference is below this are a tie
LIMIT = 4.0  # standard errors
TRL, OURS = (f"{name}, {TOGETHER} prompts at a time" for name in ("TRL", "ours"))
TRL_ONE = "TRL, 1 prompt at a time"
ARMS = {TRL: TOGETHER, TRL_ONE: 1, OURS: TOGETHER}


def main() -> int:
    """Build the model and the prompts, measure, compare the completions, and print."""
    options = _options()
    if options.arm:
        return _run_arm(options)
    scratch = Path(tempfile.mkdtemp(prefix="grpo-", dir=options.scratch))
    try:
        build(scratch / "model")
        (scratch / "prompts.json").write_text(json.dumps(random_prompts(options.prompts, 32, LONGEST_PROMPT, 120, 0.6)))
        measured: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
        for number in range(options.rounds):
            for name in ARMS:
                measured[name].append(_measure(name, scratch, number))
        return _report(measured, scratch, options)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_arm(options: argparse.Namespace) -> int:
    """Write all completions in this process at temperature 1, then near zero; print seconds and completions."""
    write = (_ours if options.arm == OURS else _trl)(options.folder / "model", ARMS[options.arm], options.round)
    prompts = json.loads((options.folder / "prompts.json").read_text())
    together = ARMS[options.arm]
    write(prompts[:1], 1.0, 8)  # starts threads and fills caches
    wall, cpu = time.perf_counter(), time.process_time()
    warm = [one for start in range(0, len(prompts), together)
            for one in write(prompts[start : start + together], 1.0, LONGEST)]  # fmt: skip
    seconds, cpu_seconds = time.perf_counter() - wall, time.process_time() - cpu
    cold = write(prompts[:together], COLD, LONGEST) if together > 1 else []
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "warm": warm, "cold": cold[::EACH]}))
    return 0


def _ours(folder: Path, together: int, number: int) -> Any:
    from steps.finetune.rollouts import write_completions
    from steps.params.reward_training import Completions

    model, tokenizer = _model(folder)
    seeds = iter(range(number << 32, (number + 1) << 32))

    def write(prompts: list[list[int]], temperature: float, most: int) -> list[list[int]]:
        asked = Completions(num_generations=EACH, temperature=temperature, max_completion_length=most)
        rows = [prompt for prompt in prompts for _ in range(EACH)]
        told = write_completions(model, tokenizer, rows, asked, [next(seeds) for _ in rows])
        return [one.tokens for one in told]

    return write


def _trl(folder: Path, together: int, number: int) -> Any:
    import torch
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = _model(folder)
    config = GRPOConfig(
        output_dir=str(folder.parent / "trl"),
        use_cpu=True,
        report_to="none",
        bf16=False,
        num_generations=EACH,
        per_device_train_batch_size=EACH,
        gradient_accumulation_steps=together,  # together with the batch size: completions per generation
        max_completion_length=LONGEST,
    )
    rows = Dataset.from_list([{"prompt": "w100"}] * EACH)
    trainer = GRPOTrainer(model, [lambda completions, **_: [0.0] * len(completions)], config, rows,
                          processing_class=tokenizer)  # fmt: skip
    trainer.model.train()
    torch.manual_seed(number)

    def write(prompts: list[list[int]], temperature: float, most: int) -> list[list[int]]:
        trainer.generation_config.temperature = temperature
        trainer.generation_config.max_new_tokens = most
        rows = [prompt for prompt in prompts for _ in range(EACH)]
        told: list[list[int]] = trainer._generate_single_turn(rows, None, {}, num_generations=EACH)[0]
        return told

    return write


def _model(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    return model, AutoTokenizer.from_pretrained(folder)


def _measure(name: str, folder: Path, number: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, __file__, "--arm", name, "--folder", str(folder), "--round", str(number)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    tokens = sum(map(len, told["warm"]))
    print(f"{name:28} {told['seconds']:7.2f} s {told['cpu_seconds']:7.2f} CPU-s {tokens:6} tokens", flush=True)
    return told


def _report(measured: dict[str, list[dict[str, Any]]], folder: Path, options: argparse.Namespace) -> int:
    measure = "cpu_seconds" if options.cpu_time else "seconds"
    speeds = {
        name: statistics.median(sum(map(len, one["warm"])) / one[measure] for one in runs)
        for name, runs in measured.items()
    }
    counts = {name: [len(one["warm"]) for one in runs] for name, runs in measured.items()}
    wrong = int(any(count != options.prompts * EACH for runs in counts.values() for count in runs))
    print(f"\n{options.prompts} prompts, {EACH} completions each, in every round and arm: {not wrong}; "
          f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads; compared by {measure}")  # fmt: skip
    for name, speed in speeds.items():
        print(f"{name:28} {speed:7.1f} tokens/s  {speed / speeds[TRL]:5.2f} x {TRL}")
    for title, value in {"length": len, "reward": _reward}.items():
        wrong += _unequal(title, {name: [value(row) for one in runs for row in one["warm"]]
                                  for name, runs in measured.items()})  # fmt: skip
    wrong += _differing(measured[TRL][0]["cold"], measured[OURS][0]["cold"], folder)
    ratio = speeds[OURS] / speeds[TRL]
    print(f"ours: {ratio:.2f} times TRL with {TOGETHER} prompts at a time (target {TARGET}), "
          f"{speeds[OURS] / speeds[TRL_ONE]:.2f} times TRL with one")  # fmt: skip
    return int(wrong > 0 or ratio < TARGET)


def _reward(tokens: list[int]) -> float:
    """Return how close a completion is to 64 tokens, and punish repeated pairs: the library's rewards."""
    from steps.rewards import length, repetition

    text = " ".join(f"w{token}" for token in tokens)
    near = length.reward(length.Options(target=64, unit="tokens"))
    again = repetition.reward(repetition.Options(ngram_size=2))
    return float(near(completions=[text], completion_ids=[tokens])[0]) + float(again(completions=[text])[0])


def _unequal(title: str, values: dict[str, list[float]]) -> int:
    """Print means with their standard errors; return how many differ from TRL's by more than `LIMIT` of them.

    Completions of a prompt are alike, so that the error is that of the means of prompts.
    """
    means = {}
    for name, some in values.items():
        prompts = [statistics.mean(some[start : start + EACH]) for start in range(0, len(some), EACH)]
        error = statistics.mean(statistics.variance(some[start : start + EACH]) for start in range(0, len(some), EACH))
        means[name] = statistics.mean(prompts), math.sqrt(error / len(some))
    wrong = 0
    for name, (mean, error) in means.items():
        away = abs(mean - means[TRL][0]) / math.hypot(error, means[TRL][1])
        wrong += away > LIMIT
        print(f"{name:28} mean {title} {mean:8.4f} ± {error:.4f}, {away:.1f} standard errors from TRL's")
    return wrong


def _differing(theirs: list[list[int]], ours: list[list[int]], folder: Path) -> int:
    """Print and return how many completions at a temperature near zero differ by more than a tie."""
    prompts = json.loads((folder / "prompts.json").read_text())[:TOGETHER]
    others = [place for place, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1]]
    ties = [place for place in others if _tie(folder, prompts[place], theirs[place], ours[place])]
    print(f"at temperature {COLD}: {len(ours) - len(others)} of {len(ours)} completions equal; ties: {ties}")
    return len(others) - len(ties)


def _tie(folder: Path, prompt: list[int], one: list[int], other: list[int]) -> bool:
    """Return whether the two best logits are nearly equal where two completions part."""
    import torch

    model = _model(folder / "model")[0].eval()
    same = next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    if same is None:
        return False
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *one[:same]]])).logits[0, -1]
    return abs(float(logits[one[same]] - logits[other[same]])) < CLOSE


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=2 * TOGETHER)
    parser.add_argument("--cpu-time", action="store_true", help="compare CPU seconds, on a busy machine")
    parser.add_argument("--scratch", help="folder for model and prompts")
    parser.add_argument("--arm", choices=list(ARMS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--round", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
