"""Eight trials over learning rate and rank on the example `dates`: our sweep, our single runs, and Optuna with TRL.

    python benchmarks/sweep.py [--rounds 3] [--max-steps 50]

All train the same eight adapters, one at a time, with one thread:

    sweep            `finetune sweep` over a grid; what it does after the trials is included: it merges the best one,
                     compares it with the base on the test rows, writes the report and registers it
    sweep, 2 at once the same with max_parallel=2
    runs alone       eight `finetune run`, each in a new folder: it imports and prepares again, as a loop in a notebook
                     that starts a pipeline without its cache
    runs with cache  eight `finetune run` in one folder, whose later ones reuse model and data
    Optuna           transformers' Trainer.hyperparameter_search with Optuna's GridSampler on rows that TRL tokenised,
                     all in one process; it compares the trials by their validation loss, then merges the best one and
                     compares it with the base on the test rows, as the sweep does

CPU seconds are those of all processes. Targets: the sweep trains eight times and prepares once; its trials end sooner
than eight trainings and 1.1 preparations of single runs take, including what these spend on measuring; and it needs at
most half of the CPU seconds of runs alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import ctypes
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CONFIG = "examples/dates/config_lora.yaml"
SPACE = {"learning_rate": [5e-4, 1e-3, 2e-3, 4e-3], "lora_r": [16, 64]}
POINTS = [dict(zip(SPACE, values, strict=True)) for values in itertools.product(*SPACE.values())]
PREPARATIONS = 1.1  # at most
SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER of prctl
FINETUNE = [sys.executable, "-W", "ignore", "-c", "from pipelines.cli import main; main()"]

PEER = """
import json, pathlib, sys, optuna, torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer
from trl import SFTConfig, SFTTrainer

config, space, out = json.loads(sys.argv[1]), json.loads(sys.argv[2]), pathlib.Path(sys.argv[3])
read = lambda name: [json.loads(line) for line in open(config[name])]
rows, held_out, test = read("train_file_path"), read("validation_file_path"), read("test_file_path")
tokenizer = AutoTokenizer.from_pretrained(config["pytorch_model_path"])
base = lambda: AutoModelForCausalLM.from_pretrained(config["pytorch_model_path"])

def suggested(trial):
    return {name: trial.suggest_categorical(name, values) for name, values in space.items()}

def model_init(trial):
    rank = suggested(trial)["lora_r"] if trial else space["lora_r"][0]  # the Trainer makes one model without a trial
    lora = LoraConfig(r=rank, lora_alpha=config["lora_alpha"], target_modules="all-linear",
                      task_type="CAUSAL_LM")
    return get_peft_model(base(), lora)

# SFTTrainer tokenises; it has no model_init, without which there is no search, and changes its own model only.
sft = SFTTrainer(
    model=base(),
    args=SFTConfig(
        output_dir=str(out), max_steps=config["max_steps"],
        per_device_train_batch_size=config["per_device_train_batch_size"],
        per_device_eval_batch_size=config["per_device_eval_batch_size"],
        lr_scheduler_type=config["lr_scheduler_type"], warmup_steps=config["warmup_steps"],
        max_length=config["max_seq_length"], assistant_only_loss=True, logging_steps=config["logging_steps"],
        eval_strategy="epoch", save_strategy="epoch", gradient_checkpointing=False, bf16=False, optim="adamw_torch",
        use_cpu=True, report_to="none", disable_tqdm=True, seed=42,
    ),
    train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(held_out), processing_class=tokenizer,
)
trainer = Trainer(model_init=model_init, args=sft.args, data_collator=sft.data_collator,
                  train_dataset=sft.train_dataset, eval_dataset=sft.eval_dataset)
best = trainer.hyperparameter_search(
    lambda trial: {"learning_rate": suggested(trial)["learning_rate"]}, lambda metrics: metrics["eval_loss"],
    n_trials=config["trials"], direction="minimize", backend="optuna",
    sampler=optuna.samplers.GridSampler(space, seed=0),
)
(out / "best.json").write_text(json.dumps({"loss": best.objective, **best.hyperparameters}))

adapter = next((out / f"run-{best.run_id}").glob("checkpoint-*"))
PeftModel.from_pretrained(base(), adapter).merge_and_unload().save_pretrained(out / "tuned")
tokenizer.padding_side = "left"
for folder in (config["pytorch_model_path"], out / "tuned"):
    judged = AutoModelForCausalLM.from_pretrained(folder).eval()
    batch = config["per_device_eval_batch_size"]
    with torch.inference_mode():
        for start in range(0, len(test), batch):
            some = test[start : start + batch]
            inputs = tokenizer.apply_chat_template(
                [row["messages"][:-1] for row in some], add_generation_prompt=True, return_tensors="pt", padding=True,
                return_dict=True)
            tokenizer.batch_decode(judged.generate(
                **inputs, max_new_tokens=config["evaluation_max_new_tokens"], do_sample=False))
            whole = tokenizer.apply_chat_template(
                [row["messages"] for row in some], return_tensors="pt", padding=True, return_dict=True)
            judged(**whole, labels=whole["input_ids"])
"""


def main() -> None:
    """Measure all ways alternately, print a table, and exit with 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--max-steps", type=int, default=50, help="optimizer steps of each training")
    given = parser.parse_args()
    os.chdir(ROOT)
    subprocess.run([sys.executable, "examples/dates/make.py"], check=True)
    config = yaml.safe_load(Path(CONFIG).read_text("utf-8"))
    config |= {"max_steps": given.max_steps, "warmup_steps": given.max_steps // 10}
    config |= {"gate_metric": "loss", "gate_min_value": -1}
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    measured: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for number in range(given.rounds):
        for name, way in WAYS.items():
            with tempfile.TemporaryDirectory() as scratch:
                one = way(Path(scratch), config)
            measured[name].append(one)
            seconds = f"{one['wall']:6.1f} s  {one['cpu']:6.1f} CPU-s"
            print(f"round {number + 1}, {name:<17} {seconds}  {one['told']}", flush=True)
    sys.exit(missed({name: medians(rounds) for name, rounds in measured.items()}))


def missed(found: dict[str, dict[str, Any]]) -> bool:
    """Print the medians and their ratios to those of the sweep; return whether a target is missed."""
    ours, alone = found["sweep"], found["runs alone"]
    print(f"\n{'':<18} {'s':>7} {'ratio':>6} {'CPU-s':>7} {'ratio':>6}")
    for name, one in found.items():
        ratios = (one[kind] / ours[kind] for kind in ("wall", "cpu"))
        wall, cpu = (f"{ratio:6.2f}" for ratio in ratios)
        print(f"{name:<18} {one['wall']:7.1f} {wall} {one['cpu']:7.1f} {cpu}")
    allowed = len(POINTS) * alone["train"] + PREPARATIONS * alone["prepare"]
    print(f"sweep: {ours['trainings']:.0f} trainings, {ours['preparations']:.0f} preparation; its last trial was "
          f"measured after {ours['chosen']:.1f} s; eight trainings and 1.1 preparations of runs alone take "
          f"{allowed:.1f} s ({alone['train']:.2f} s and {alone['prepare']:.2f} s each); Optuna chose after "
          f"{found['Optuna']['chosen']:.1f} s")  # fmt: skip
    return bool(
        ours["trainings"] > len(POINTS)
        or ours["preparations"] > PREPARATIONS
        or ours["chosen"] > allowed
        or ours["cpu"] > alone["cpu"] / 2
    )


def medians(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of every number of some rounds."""
    numbers = [name for name, value in rounds[0].items() if not isinstance(value, str)]
    return {name: statistics.median(one[name] for one in rounds) for name in numbers}


def sweep(scratch: Path, config: dict[str, Any], parallel: int = 1) -> dict[str, Any]:
    """Run our sweep; count its trainings and preparations in the logs of its steps."""
    described = {"pipeline": "chat_completion", "parameters": without_pipeline(config), "space": SPACE, "name": "bench"}
    file = scratch / "sweep.yaml"
    file.write_text(json.dumps({**described, "max_parallel": parallel}), "utf-8")
    begun = time.time()
    wall, cpu, output = timed([*FINETUNE, "sweep", "-f", str(file), "--root", str(scratch / "runs"), "--json"])
    facts, folder = json.loads(output), scratch / "runs/sweeps/bench"
    best = next(trial for trial in facts["trials"] if trial["best"])
    chosen = max(file.stat().st_mtime for file in folder.glob("trials/*/measured/trial.json")) - begun
    return {
        "wall": wall, "cpu": cpu, "chosen": chosen, "told": told_best(best["score"], best["parameters"]),
        "trainings": lines_of(folder.glob("trials/*/log.txt"), "training from step 0"),
        "preparations": lines_of(folder.glob("data/*.log"), "▸ prepare-data"),
    }  # fmt: skip


def single_runs(scratch: Path, config: dict[str, Any], alone: bool) -> dict[str, Any]:
    """Run the eight trials as runs of their own, each in a root of its own or all in one with its cache."""
    wall, cpu, runs = 0.0, 0.0, []
    for number, point in enumerate(POINTS):
        file = scratch / f"{number}.yaml"
        file.write_text(json.dumps({**config, **point}), "utf-8")
        root = scratch / (f"runs-{number}" if alone else "runs")
        seconds, used, output = timed([*FINETUNE, "run", "-f", str(file), "--root", str(root), "--json"])
        wall, cpu = wall + seconds, cpu + used
        result = json.loads(output)
        history = json.loads(Path(result["artifacts"]["tuned"], "history.json").read_text("utf-8"))
        runs.append({"loss": history["evaluations"][-1]["loss"], "point": point, **seconds_of(result)})
    best = min(runs, key=lambda one: one["loss"])
    kept = {name: statistics.median(one[name] for one in runs) for name in ("train", "prepare")}
    return {"wall": wall, "cpu": cpu, **kept, "told": told_best(best["loss"], best["point"])}


def seconds_of(result: dict[str, Any]) -> dict[str, float]:
    """Return the seconds of a run's training and of everything before it."""
    seconds = {step["step"]: step["seconds"] or 0.0 for step in result["steps"]}
    before = ("import-model", "prepare-data")
    return {"train": seconds["finetune"], "prepare": sum(seconds.get(name, 0.0) for name in before)}


def optuna(scratch: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Run the peer."""
    words = [json.dumps({**config, "trials": len(POINTS)}), json.dumps(SPACE), str(scratch)]
    begun = time.time()
    wall, cpu, _ = timed([sys.executable, "-W", "ignore", "-c", PEER, *words])
    file = scratch / "best.json"
    best = json.loads(file.read_text("utf-8"))
    told = told_best(best.pop("loss"), best)
    return {"wall": wall, "cpu": cpu, "chosen": file.stat().st_mtime - begun, "told": told}


WAYS = {
    "sweep": sweep,
    "sweep, 2 at once": lambda scratch, config: sweep(scratch, config, parallel=2),
    "runs alone": lambda scratch, config: single_runs(scratch, config, alone=True),
    "runs with cache": lambda scratch, config: single_runs(scratch, config, alone=False),
    "Optuna": optuna,
}


def timed(command: list[str]) -> tuple[float, float, str]:
    """Return wall and CPU seconds of a process that must succeed, with all that it started, and its output."""
    before, started = children(), time.monotonic()
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        wall = time.monotonic() - started
        if done.returncode:
            errors.seek(0)
            sys.exit((done.stdout + errors.read())[-4000:])
    while True:  # processes that it left behind became our children, since this process is their subreaper
        try:
            os.wait()
        except ChildProcessError:
            break
    return wall, children() - before, done.stdout


def children() -> float:
    """Return the CPU seconds of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def without_pipeline(config: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a configuration file that do not vary."""
    return {name: value for name, value in config.items() if name not in ("pipeline", *SPACE)}


def lines_of(logs: Iterable[Path], words: str) -> int:
    """Count the lines of logs that have these words."""
    return sum(words in line for log in logs for line in log.read_text("utf-8").splitlines())


def told_best(loss: float, point: dict[str, Any]) -> str:
    """Return the words about the best trial."""
    return f"best: validation loss {loss:.4f} with " + ", ".join(f"{name}={point[name]}" for name in SPACE)


if __name__ == "__main__":
    main()
