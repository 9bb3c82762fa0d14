"""The benchmark for GPUs counts useful work as torch does, keeps its budget, and runs to its end on a CPU."""

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks" / "gpu"
SCRIPT = FOLDER / "sft.py"


@pytest.fixture
def benchmark(monkeypatch):
    """The modules of benchmarks/gpu, which import each other by their names."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return lambda name: importlib.import_module(name)


def options(**given) -> argparse.Namespace:
    return argparse.Namespace(**{"shape": ["llama-3.2-1b", "qwen-2.5-7b"], "rounds": 2, "device": "cuda", **given})


def card(gibibytes: float, **given) -> dict:
    return {"memory_bytes": int(gibibytes * 2**30), "host_bytes": 2**50, "peak_flops": 989e12, **given}


class Machine:
    """Stands for the processes: tells what they would, and how long they take."""

    def __init__(self, seconds: float = 0.0, failing: str = ""):
        self.seconds, self.failing = seconds, failing
        self.asked: list[tuple[str, str]] = []

    def call(self, seconds: float, name: str, *given) -> dict:
        if name == "build":
            return {"counts": {"base": 10**9, "adapter": 10**7}}
        (job,) = given
        self.asked.append((job.shape, job.arm))
        if job.arm == self.failing:
            raise TimeoutError
        time.sleep(self.seconds)
        return measured()


def measured(**given) -> dict:
    return {"tokens_per_second": 1000.0, "flops_per_second": 4e14, "peak_bytes": 10**10, "checkpointing": False,
            "steady_seconds": 2.0, "steps": 4, "seconds": 3.0, "loss": 11.7, **given}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_useful_work_is_what_torch_counts_in_a_step_of_lora(benchmark, tied):
    import torch
    from peft import LoraConfig, get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    shapes, work = benchmark("shapes"), benchmark("work")
    config = {**shapes.TINY, "tie_word_embeddings": tied}
    counts = shapes.counted(shapes.Shape("llama", config, 0.0, steps=1, skipped=0))
    model = LlamaForCausalLM(LlamaConfig(**config, attn_implementation="eager"))
    model = get_peft_model(model, LoraConfig(r=shapes.RANK, target_modules="all-linear", task_type="CAUSAL_LM"))
    model.enable_input_require_grads()  # else the first layer needs no gradient of its input
    length = 48
    ids = torch.randint(3, 500, (1, length))
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids, labels=ids).loss.backward()
    # Eager attention computes the half that a causal mask then hides.
    hidden = 6 * config["num_hidden_layers"] * config["hidden_size"] * length**2
    assert counter.get_total_flops() == pytest.approx(
        work.useful_flops(config, counts["base"], counts["adapter"], [length]) + hidden, rel=1e-3
    )


def test_a_step_of_a_whole_row_of_qwen_costs_what_the_published_figure_implies(benchmark):
    # NeMo AutoModel's summary of performance: LoRA of Qwen2.5-7B at 4096 tokens, 14,110 tokens/s are 423 TFLOP/s.
    shapes, work = benchmark("shapes"), benchmark("work")
    flops = work.useful_flops(shapes.QWEN_7B, 7_070_000_000, 0, [4096])
    assert flops / 4096 == pytest.approx(423e12 / 14_110, rel=0.03)


@pytest.mark.slow
def test_the_shapes_have_the_published_numbers_of_parameters(benchmark):
    # All parameters as the model cards tell, without norms and biases, and without embeddings that are no head too.
    shapes = benchmark("shapes")
    llama, qwen = (shapes.counted(shapes.SHAPES[name])["base"] for name in ("llama-3.2-1b", "qwen-2.5-7b"))
    assert llama == 1_235_814_400 - 33 * 2048
    assert qwen == 7_615_616_512 - 152_064 * 3584 - 57 * 3584 - 28 * (3584 + 2 * 512)


def test_rows_are_the_same_each_time_and_have_skewed_lengths(benchmark):
    shapes = benchmark("shapes")
    for shape in shapes.SHAPES.values():
        some = shapes.lengths(shape, 4000)
        assert some == shapes.lengths(shape, 4000)
        assert max(some) == shape.max_length
        assert min(some) >= 4
        assert statistics.mean(some) == pytest.approx(shape.max_length / 2, rel=0.1)
        assert statistics.median(some) < statistics.mean(some)


def test_every_arm_is_measured_before_any_is_repeated(benchmark, tmp_path):
    sft, machine = benchmark("sft"), Machine()
    bench = sft.Bench(options(), machine, card(139), tmp_path, time.monotonic() + 1000)
    bench.run()
    assert len(machine.asked) == 16
    assert len(set(machine.asked[:8])) == 8
    assert {arm for _, arm in machine.asked[:6]} == set(sft.CORE)
    assert not bench.left_out


def test_what_does_not_fit_is_left_out_with_the_reason(benchmark, tmp_path):
    sft, machine = benchmark("sft"), Machine()
    bench = sft.Bench(options(), machine, card(24), tmp_path, time.monotonic() + 1000)
    bench.run()
    assert bench.left_out == {("qwen-2.5-7b", "TRL defaults"): "its weights are 28.4 GiB, the GPU's memory is 24.0 GiB"}
    tight = sft.Bench(options(), Machine(), card(12), tmp_path / "tight", time.monotonic() + 1000)
    (tmp_path / "tight").mkdir()
    tight.run()
    assert {shape for shape, _ in tight.left_out} == {"qwen-2.5-7b"}
    assert len(tight.left_out) == 4


def test_nothing_is_begun_that_would_end_behind_the_budget(benchmark, tmp_path, capsys):
    sft, machine = benchmark("sft"), Machine()
    bench = sft.Bench(options(), machine, card(139), tmp_path, time.monotonic() + 35)
    bench.run()
    # A first measurement tells how long the others of that shape take; the 7B shape is expected to take longer.
    assert {shape for shape, _ in machine.asked} == {"llama-3.2-1b"}
    assert {shape for shape, _ in bench.left_out} == {"qwen-2.5-7b"}
    assert "s of the budget left, about 50 needed" in capsys.readouterr().out


def test_a_training_that_hangs_is_left_out_and_not_tried_again(benchmark, tmp_path):
    sft, machine = benchmark("sft"), Machine(failing="by hand")
    bench = sft.Bench(options(shape=["llama-3.2-1b"]), machine, card(139), tmp_path, time.monotonic() + 1000)
    bench.run()
    assert bench.left_out == {("llama-3.2-1b", "by hand"): "it was ended when the budget was used up"}
    assert machine.asked.count(("llama-3.2-1b", "by hand")) == 1


@pytest.mark.parametrize(
    ("ours", "device", "expected"),
    [({}, "cuda", 0), ({"tokens_per_second": 900.0}, "cuda", 1), ({"tokens_per_second": 900.0}, "cpu", 0),
     ({"planned_bytes": 9 * 10**9}, "cuda", 1), ({"planned_bytes": 11 * 10**9}, "cuda", 0)],
)  # fmt: skip
def test_a_missed_target_is_told_and_fails_on_a_gpu(benchmark, capsys, ours, device, expected):
    found = {("1b", "ours"): [measured(**ours)] * 3, ("1b", "TRL defaults"): [measured()]}
    assert benchmark("sft").report(found, {("7b", "ours"): "no room"}, card(139), device) == expected
    out = capsys.readouterr().out
    assert "7b, ours                    left out: no room" in out
    assert "40.4%" in out  # 4e14 of 989e12
    assert ("MISSED" in out) == bool(expected)


def test_processes_are_started_afresh_if_a_library_used_the_gpu_at_import(benchmark, tmp_path, monkeypatch):
    workers = benchmark("workers").Workers(tmp_path / "log")
    answers = iter([{"forks": False, "card": "CPU"}, {"forks": True, "card": "H200"}])
    monkeypatch.setattr(workers, "call", lambda *_: next(answers) | {"by": workers.context.get_start_method()})
    assert workers.facts("cuda") == {"forks": True, "card": "H200", "by": "spawn"}


def test_a_failure_shows_what_the_process_printed(benchmark, tmp_path, monkeypatch):
    workers = benchmark("workers")
    monkeypatch.syspath_prepend(str(tmp_path))  # a spawned process looks where this one does
    (tmp_path / "arms.py").write_text("def broken():\n    print('so far')\n    raise ValueError('because')\n")
    (tmp_path / "log").touch()
    started = workers.Workers(tmp_path / "log")
    started.context = workers.multiprocessing.get_context("spawn")
    with pytest.raises(workers.Failed, match=r"so far[\s\S]*ValueError: because"):
        started.call(60, "broken")


@pytest.mark.long
@pytest.mark.slow
def test_the_benchmark_runs_on_a_cpu(tmp_path):
    words = ["--device", "cpu", "--shape", "tiny", "--rounds", "1", "--json", str(tmp_path / "found.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(SCRIPT), *words, "--scratch", str(tmp_path)], env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads((tmp_path / "found.json").read_text())
    rows = {row["arm"]: row["median"] for row in told["measured"]}
    assert set(rows) == {"ours", "TRL defaults", "by hand", "ours, packed"}
    assert told["left_out"] == []
    assert told["device"]["versions"]["torch"]
    assert told["device"]["date"] in done.stdout
    # Trainers of one seed draw the same rows, and random tokens cannot be predicted better than by chance.
    assert rows["ours"]["tokens"] == rows["TRL defaults"]["tokens"]
    for row in rows.values():
        assert row["steps"] == 3
        assert row["tokens"] / row["tokens_per_second"] == pytest.approx(row["steady_seconds"])
        assert row["loss"] == pytest.approx(6.24, abs=0.1)  # ln 512
    assert rows["ours, packed"]["tokens_per_step"] == pytest.approx(rows["ours"]["tokens_per_step"], rel=0.5)
    assert not list(tmp_path.glob("gpu-sft-*"))


@pytest.mark.slow
def test_without_a_gpu_it_says_how_to_try_it():
    import torch

    if torch.cuda.is_available():
        pytest.skip("a GPU is here")
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no GPU here; --device cpu --shape tiny runs the same on a CPU" in done.stderr
