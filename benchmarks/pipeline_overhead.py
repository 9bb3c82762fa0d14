"""Overhead of the pipeline: `finetune run` compared with a plain TRL script that does the same work.

The peer loads the example's model and data, trains with the same settings, saves, and evaluates base and tuned model on
the test rows (loss, and exact match of greedy answers). Both run as separate processes, alternating; medians are
compared. Target: finetune run takes at most 1.3 times as long.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TARGET = 1.3
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
    seconds: dict[str, list[float]] = {"finetune run": [], "bare TRL script": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as scratch:
            run = ["-c", "from pipelines.cli import main; main()", "run", "chat_completion"]
            run += ["-f", "examples/dates/config.yaml", "--root", f"{scratch}/runs"]
            seconds["finetune run"].append(timed([sys.executable, "-W", "ignore", *run]))
            seconds["bare TRL script"].append(timed([sys.executable, "-W", "ignore", "-c", PEER, f"{scratch}/peer"]))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, times in seconds.items():
        print(f"{name:<16} {medians[name]:7.1f} s   ({', '.join(f'{time:.1f}' for time in times)})")
    ratio = medians["finetune run"] / medians["bare TRL script"]
    print(f"ratio            {ratio:7.2f}     (target: at most {TARGET})")
    sys.exit(ratio > TARGET)


def timed(command: list[str]) -> float:
    """Return the wall seconds of a process that must succeed."""
    started = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    return time.monotonic() - started


if __name__ == "__main__":
    main()
