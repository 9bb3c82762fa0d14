"""Overhead of the pipeline: `finetune run` compared with a plain TRL script that does the same work.

The peer loads the example's model and data, trains with the same settings, saves, and evaluates base and tuned model on
the test rows (loss, and exact match of greedy answers). Both run as separate processes, alternating; medians are
compared. Targets: finetune run takes at most 1.3 times as long, its first training step starts at most 20 s after the
command, and the same command again, whose steps are all reused, ends in at most 10 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

TARGET = 1.3
FIRST_STEP_TARGET = 20
REUSED_TARGET = 10
FIRST_STEP = "training from step 0"
ROOT = Path(__file__).parents[1]

PEER = """
import json, sys, torch, yaml
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

config = yaml.safe_load(open("examples/dates/config.yaml"))
read = lambda name: [json.loads(line) for line in open(config[name])]
rows, held_out, test = read("train_file_path"), read("validation_file_path"), read("test_file_path")
tokenizer = AutoTokenizer.from_pretrained(config["pytorch_model_path"])
model = AutoModelForCausalLM.from_pretrained(config["pytorch_model_path"])
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir=sys.argv[1], num_train_epochs=config["num_train_epochs"],
        per_device_train_batch_size=config["per_device_train_batch_size"],
        per_device_eval_batch_size=config["per_device_eval_batch_size"],
        learning_rate=config["learning_rate"], lr_scheduler_type=config["lr_scheduler_type"],
        warmup_steps=config["warmup_steps"], max_length=config["max_seq_length"], assistant_only_loss=True,
        logging_steps=config["logging_steps"], eval_strategy="epoch", save_strategy="epoch",
        load_best_model_at_end=True, metric_for_best_model="eval_loss", gradient_checkpointing=False, bf16=False,
        optim="adamw_torch", use_cpu=True, report_to="none", disable_tqdm=True, seed=42,
    ),
    train_dataset=Dataset.from_list(rows), eval_dataset=Dataset.from_list(held_out), processing_class=tokenizer,
)
print("training from step 0", flush=True)
trainer.train()
trainer.save_model(sys.argv[1] + "/tuned")

tokenizer.padding_side = "left"
for folder in (config["pytorch_model_path"], sys.argv[1] + "/tuned"):
    judged = AutoModelForCausalLM.from_pretrained(folder).eval()
    right, batch = 0, config["per_device_eval_batch_size"]
    with torch.inference_mode():
        for start in range(0, len(test), batch):
            some = test[start : start + batch]
            asked = [row["messages"][:-1] for row in some]
            inputs = tokenizer.apply_chat_template(
                asked, add_generation_prompt=True, return_tensors="pt", padding=True, return_dict=True)
            out = judged.generate(**inputs, max_new_tokens=config["evaluation_max_new_tokens"], do_sample=False)
            texts = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
            right += sum(t.strip() == r["messages"][-1]["content"] for t, r in zip(texts, some))
            whole = tokenizer.apply_chat_template(
                [row["messages"] for row in some], return_tensors="pt", padding=True, return_dict=True)
            judged(**whole, labels=whole["input_ids"])
    print(folder, "exact match", right / len(test))
"""


def main() -> None:
    """Run both alternately, print a table, and exit with 1 if the target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    subprocess.run([sys.executable, "examples/dates/make.py"], cwd=ROOT, check=True)
    names = ("finetune run", "bare TRL script")
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            run = ["-c", "from pipelines.cli import main; main()", "run", "chat_completion"]
            run += ["-f", "examples/dates/config.yaml", "--root", f"{scratch}/runs"]
            for name, arguments in zip(names, (run, ["-c", PEER, f"{scratch}/peer"]), strict=True):
                whole, first = timed([sys.executable, "-W", "ignore", *arguments])
                seconds[name].append(whole)
                seconds[f"{name}, first step"].append(first)
            seconds["reused"].append(timed([sys.executable, "-W", "ignore", *run])[0])
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        print(f"{name:<28} {medians[name]:7.1f} s   ({', '.join(f'{time:.1f}' for time in times)})")
    ratio = medians["finetune run"] / medians["bare TRL script"]
    print(f"{'ratio':<28} {ratio:7.2f}     (target: at most {TARGET})")
    first, reused = medians["finetune run, first step"], medians["reused"]
    print(f"targets: first step after {FIRST_STEP_TARGET} s, reused run {REUSED_TARGET} s")
    sys.exit(ratio > TARGET or first > FIRST_STEP_TARGET or reused > REUSED_TARGET)


def timed(command: list[str]) -> tuple[float, float]:
    """Return the wall seconds of a process that must succeed, and those until its training starts (0: it does not)."""
    started = time.monotonic()
    first, lines = 0.0, []
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout
        for line in process.stdout:
            lines.append(line)
            if FIRST_STEP in line:
                first = time.monotonic() - started
    if process.returncode:
        sys.exit("".join(lines)[-4000:])
    return time.monotonic() - started, first


if __name__ == "__main__":
    main()
