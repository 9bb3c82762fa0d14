"""Tokens per second of batch inference on the CPU: our engine compared with transformers' own ways to generate.

    python benchmarks/generation.py [--rounds N] [--rows N] [--batch-size N] [--cpu-time]

A Llama with random weights answers prompts of skewed lengths; some of its tokens end an answer, so that answers have
skewed lengths too, up to the limit. The arms alternate, each in a separate process, and are measured without start-up:
`generate` in the order of arrival and sorted by length, transformers' continuous batching, and our engine, these two
also with more rows at a time. Answers must be the same, up to ties, which are listed. Exits with 1
if they are not, or if a target is missed: 2.0 times arrival order, 1.0 times continuous batching.
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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from inputs.random_model import ENDS, build, random_prompts

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

OVER_ARRIVAL, OVER_CONTINUOUS = 2.0, 1.0
LONGEST_ANSWER, LONGEST_PROMPT = 256, 256
Measured = tuple[tuple[float, float], list[list[int]]]  # seconds and CPU seconds, answers
WIDE = 32  # rows at a time for the second comparison
CONTINUOUS_WIDE, OURS_WIDE = f"continuous batching, {WIDE} rows", f"ours, {WIDE} rows"
BLOCK = 32  # tokens of a block of continuous batching's cache
CLOSE = 1e-3  # logits whose difference is below this are a tie


def main() -> int:
    """Build the model and the prompts, measure, compare the answers, and print."""
    options = _options()
    if options.arm:
        return _run_arm(options)
    scratch = Path(tempfile.mkdtemp(prefix="generation-", dir=options.scratch))
    try:
        build(scratch / "model")
        rows = random_prompts(
            options.rows, 4, LONGEST_PROMPT, math.exp(3.2), 1.0
        )  # 4 to 256 tokens, most of them short
        (scratch / "rows.json").write_text(json.dumps(rows))
        measured: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
        for _ in range(options.rounds):
            for name in ARMS:
                measured[name].append(_measure(name, scratch, options))
        return _report(measured, rows, scratch, options)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _run_arm(options: argparse.Namespace) -> int:
    """Answer all prompts in this process, and print seconds and answers."""
    rows = json.loads((options.folder / "rows.json").read_text())
    (seconds, cpu_seconds), answers = ARMS[options.arm](options.folder / "model", rows, options.batch_size)
    print(json.dumps({"seconds": seconds, "cpu_seconds": cpu_seconds, "answers": answers}))
    return 0


def _ours(folder: Path, rows: list[list[int]], batch_size: int) -> Measured:
    from steps.generation.engines import open_engine
    from steps.generation.requests import Request
    from steps.params.settings import GenerateSettings

    decoding = {"max_new_tokens": LONGEST_ANSWER, "max_length": 1024}
    settings = GenerateSettings(decoding=decoding, engine={"test_batch_size": batch_size})
    texts = [" ".join(f"w{token}" for token in row) for row in rows]
    requests = [Request(number, text) for number, text in enumerate(texts)]
    with open_engine(settings, folder) as engine:
        list(engine.complete(requests[:2]))
        stop = _clock()
        told = {number: list(answer.token_ids) for number, answer in engine.complete(requests)}
        return stop(), [told[number] for number in range(len(rows))]


def _generate(order: Callable[[list[list[int]]], list[int]]) -> Callable[..., Measured]:
    def run(folder: Path, rows: list[list[int]], batch_size: int) -> Measured:
        import torch

        model, how = _model(folder)

        def answered(places: list[int]) -> list[list[int]]:
            width = max(len(rows[place]) for place in places)
            ids = torch.tensor([[0] * (width - len(rows[place])) + rows[place] for place in places])
            output = model.generate(input_ids=ids, attention_mask=(ids != 0).long(), generation_config=how)
            return [_ended(one) for one in output[:, width:].tolist()]

        answered([0, 1])
        told: list[list[int]] = [[]] * len(rows)
        stop = _clock()
        places = order(rows)
        for start in range(0, len(places), batch_size):
            group = places[start : start + batch_size]
            for place, answer in zip(group, answered(group), strict=True):
                told[place] = answer
        return stop(), told

    return run


def _continuous(wide: bool) -> Callable[..., Measured]:
    def run(folder: Path, rows: list[list[int]], batch_size: int) -> Measured:
        from transformers import ContinuousBatchingConfig

        model, how = _model(folder)
        # Without limits it plans for all of the machine's memory, and its dense attention mask fills it.
        at_once = WIDE if wide else batch_size
        blocks = at_once * (LONGEST_PROMPT + LONGEST_ANSWER) // BLOCK + at_once
        size = {"block_size": BLOCK, "num_blocks": blocks, "max_batch_tokens": 512, "max_requests_per_batch": at_once}

        def answered(some: list[list[int]]) -> list[list[int]]:
            config = ContinuousBatchingConfig(**size)
            told = model.generate_batch(some, generation_config=how, continuous_batching_config=config)
            return [_ended(one.generated_tokens) for one in told.values()]

        answered(rows[:2])
        stop = _clock()
        told = answered(rows)
        return stop(), told

    return run


def _clock() -> Callable[[], tuple[float, float]]:
    """Start to measure; the result returns seconds and CPU seconds since then."""
    wall, cpu = time.perf_counter(), time.process_time()
    return lambda: (time.perf_counter() - wall, time.process_time() - cpu)


def _model(folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ends = model.generation_config.eos_token_id
    how = GenerationConfig(max_new_tokens=LONGEST_ANSWER, do_sample=False, eos_token_id=ends, pad_token_id=0)
    return model, how


def _ended(tokens: list[int]) -> list[int]:
    """Return the tokens up to the first end token."""
    end = next((place for place, token in enumerate(tokens) if 1 <= token <= ENDS), len(tokens))
    return tokens[: end + 1]


ARMS: dict[str, Callable[..., Measured]] = {
    "arrival order": _generate(lambda rows: list(range(len(rows)))),
    "sorted": _generate(lambda rows: sorted(range(len(rows)), key=lambda place: -len(rows[place]))),
    "continuous batching": _continuous(wide=False),
    "ours": _ours,
    CONTINUOUS_WIDE: _continuous(wide=True),
    OURS_WIDE: lambda folder, rows, _: _ours(folder, rows, WIDE),
}


def _measure(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    words = ["--arm", name, "--folder", str(folder), "--batch-size", str(options.batch_size)]
    done = subprocess.run(
        [sys.executable, __file__, *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr[-3000:]}")
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    tokens = sum(map(len, told["answers"]))
    print(f"{name:36} {told['seconds']:7.2f} s {told['cpu_seconds']:7.2f} CPU-s {tokens:6} tokens", flush=True)
    return told


def _report(
    measured: dict[str, list[dict[str, Any]]], rows: list[list[int]], folder: Path, options: argparse.Namespace
) -> int:
    measure = "cpu_seconds" if options.cpu_time else "seconds"
    seconds = {name: statistics.median(one[measure] for one in runs) for name, runs in measured.items()}
    right = measured["arrival order"][0]["answers"]
    lengths = sorted(map(len, right))
    print(f"\n{len(rows)} rows; answers of {lengths[0]} to {lengths[-1]} tokens, mean {statistics.mean(lengths):.0f}; "
          f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads; compared by {measure}")  # fmt: skip
    for name, one in seconds.items():
        print(f"{name:36} {sum(lengths) / one:7.1f} tokens/s  {seconds['arrival order'] / one:5.2f} x arrival order")
    wrong = 0
    for name, runs in measured.items():
        others = [place for place, answer in enumerate(runs[0]["answers"]) if answer != right[place]]
        ties = [place for place in others if _tie(folder, rows[place], right[place], runs[0]["answers"][place])]
        wrong += len(others) - len(ties)
        print(f"{name:36} {len(rows) - len(others)} of {len(rows)} answers equal; ties: {ties}")
    arrival = seconds["arrival order"] / seconds["ours"]
    continuous = seconds["continuous batching"] / seconds["ours"]
    wide = seconds[CONTINUOUS_WIDE] / seconds[OURS_WIDE]
    print(f"ours: {arrival:.2f} times arrival order (target {OVER_ARRIVAL}), {continuous:.2f} times continuous "
          f"batching, {wide:.2f} with {WIDE} rows (target {OVER_CONTINUOUS})")  # fmt: skip
    return int(wrong > 0 or arrival < OVER_ARRIVAL or continuous < OVER_CONTINUOUS or wide < OVER_CONTINUOUS)


def _tie(folder: Path, prompt: list[int], one: list[int], other: list[int]) -> bool:
    """Return whether the two best logits are nearly equal where two answers part."""
    import torch

    model, _ = _model(folder / "model")
    same = next((place for place, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), None)
    if same is None:
        return False
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *one[:same]]])).logits[0, -1]
    return abs(float(logits[one[same]] - logits[other[same]])) < CLOSE


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--cpu-time", action="store_true", help="compare CPU seconds, on a busy machine")
    parser.add_argument("--scratch", help="folder for model and prompts")
    parser.add_argument("--arm", choices=list(ARMS), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
