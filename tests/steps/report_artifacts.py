"""Artifacts for the report tests, with one of everything that is hard to show."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from steps.artifacts import new_artifact

EVIL = '<script>alert("x")</script><img src=x onerror=alert(1)>'


def write_plan(folder: Path, **changes: object) -> Path:
    effective = {
        "huggingface_id": "meta-llama/Llama-3.2-1B", "apply_lora": True, "lora_r": 16, "learning_rate": 1e-4,
        "optim": "adamw_torch", "num_train_epochs": 3.0, "register_tuned_model": True, "weight_decay": 0.0,
        "train_file_path": "s3://a-bucket-with-a-rather-long-name/datasets/2026/11/customer-support/train-v3.jsonl",
    }  # fmt: skip
    facts = {
        "pipeline": "chat_completion",
        "task": "chat_completion",
        "requested": {**effective, "optim": "adamw_hf"},
        "effective": effective,
        "translations": [
            {"parameter": "optim", "requested": "adamw_hf", "effective": "adamw_torch", "by_user": False},
            {"parameter": "use_peft", "requested": "use_peft", "effective": "apply_lora", "by_user": True},
        ],
        "warnings": ["deepspeed is ignored with one GPU: there is nothing to spread the optimizer over"],
        "tasks": [
            {"task": "import_model", "what": "check and copy the model", "cpu": "4", "memory": "28Gi",
             "gpu_type": "", "gpu_count": "0", "node_pool": "any"},
            {"task": "finetune", "what": "sft, LoRA rank 16, bfloat16", "cpu": "24", "memory": "448Gi",
             "gpu_type": "nvidia.com/gpu", "gpu_count": "4", "node_pool": "a100-pool"},
        ],
        "arithmetic": [
            {"name": "sequences per optimizer step", "value": 64, "how": "4 per device × 4 devices × 4 accumulated"},
            {"name": "optimizer steps", "value": "known after prepare_data", "how": "packing decides"},
        ],
        "sources": [
            {"what": "model", "uri": "meta-llama/Llama-3.2-1B", "digest": "4e20de362430cd3b72f300e6b0f18e50e7166e08",
             "bytes": 2471645608},
            {"what": "train", "uri": effective["train_file_path"], "digest": "a" * 64, "bytes": 123456789},
        ],
        "memory": {
            "needed_bytes": 14 * 2**30,
            "parts": {"weights": 5 * 2**30, "gradients and optimizer": 2**30, "activations": 6 * 2**30,
                      "logits": 2 * 2**30},
            "available_bytes": 72 * 2**30,
            "note": "activations are kept",
        },
        **changes,
    }  # fmt: skip
    with new_artifact(folder, "plan") as draft:
        (draft / "plan.json").write_text(json.dumps(facts))
    return folder


def data_facts(**changes: object) -> dict:
    def split(rows: int, truncated: int) -> dict:
        return {
            "source": "train.jsonl" if rows > 1000 else "a share of train.jsonl", "rows": rows,
            "sequences": rows - 12, "tokens": rows * 211, "supervised_tokens": rows * 87,
            "length": {"min": 11, "median": 187.5, "p95": 611.0, "max": 2314},
            "histogram": {"edges": list(range(0, 2401, 120)), "counts": [rows // (n * n + 1) for n in range(20)]},
            "truncated": truncated, "left_out": 0, "fill": None,
        }  # fmt: skip

    return {
        "task": "chat_completion", "max_length": 1024, "packing": False, "template": "the model's own",
        "splits": {"train": split(41377, 618), "validation": split(400, 0), "test": split(400, 3)},
        "repairs": [{"code": "DATA-R0101", "what": "train.jsonl: a byte order mark was removed", "count": 1}],
        "warnings": [
            {"code": "DATA-W0501", "what": "train.jsonl: rows that occur more than once", "count": 1312,
             "rows": [17, 408, 409, 1033, 2048]}
        ],
        "samples": [
            {"split": "train", "tokens": [
                {"text": "<|im_start|>", "supervised": False}, {"text": "user\n", "supervised": False},
                {"text": EVIL, "supervised": False},
                {"text": "<|im_end|>\n<|im_start|>assistant\n", "supervised": False},
                {"text": "Paris", "supervised": True}, {"text": " & Rome", "supervised": True},
                {"text": "<|im_end|>", "supervised": True},
            ]}
        ],
        **changes,
    }  # fmt: skip


def write_data(folder: Path, **changes: object) -> Path:
    with new_artifact(folder, "data") as draft:
        draft.facts = data_facts(**changes)
    return folder


def history(steps: int = 1940, **changes: object) -> dict:
    points = [
        {"step": step, "epoch": step / 970, "loss": 0.6 + 1.6 * 0.997**step + 0.08 * (step * 7919 % 13) / 13,
         "learning_rate": 1e-4 * min(step / 100, 1 - (step - 100) / steps), "grad_norm": 1.25}
        for step in range(10, steps + 1, 10)
    ]  # fmt: skip
    evaluations = [
        {"step": step, "epoch": step / 970, "loss": 0.72 + ((step - 1164) / 1500) ** 2}
        for step in range(194, steps + 1, 194)
    ]
    best = min(evaluations, key=lambda point: point["loss"])
    return {
        "points": points, "evaluations": evaluations,
        "best": {"step": best["step"], "metric": "validation loss", "value": best["loss"]},
        "steps": steps, "planned_steps": 2910, "seconds": 5025.5, "tokens_per_second": 8123.4, "resumed_from": 970,
        "parameters": {"total": 1247086592, "trainable": 11272192}, "stopped_early": True, **changes,
    }  # fmt: skip


def write_tuned(folder: Path, **changes: object) -> Path:
    with new_artifact(folder, "adapter") as draft:
        (draft / "history.json").write_text(json.dumps(history(**changes)))
    return folder


ROWS = [
    # reference, base, tuned
    ("1998-04-05", "April", "1999-04-05"),
    ("Berlin", "Berlin", "Bonn"),
    ("Rome", "I cannot say.", "Rome"),
    ("Oslo", "Oslo", "Oslo"),
    (EVIL, "no", EVIL),
    ("x" * 9000, "y" * 300, "x" * 9000),
    ("42", "", "42"),
]


def write_evaluation(
    folder: Path, rows: list = ROWS, passed: bool = True, inputs: dict | None = None, **changes: object
) -> Path:
    exact = [[answer == reference for answer in answers] for reference, *answers in rows]
    base, tuned = (sum(pair[which] for pair in exact) / len(rows) for which in (0, 1))
    gate = {
        "metric": "exact_match", "base": base, "tuned": tuned, "min_value": 0.5, "max_value": None,
        "must_beat_base": True, "passed": passed,
        "reason": "Passed: exact_match of the tuned model beats the base model's." if passed else "Not passed: worse.",
    }  # fmt: skip
    measured = {
        "base": {"loss": 2.34375, "perplexity": 10.42, "exact_match": base, "bleu": 21.5},
        "tuned": {"loss": 0.75, "perplexity": 2.117, "exact_match": tuned, "bleu": 21.25},
        "rows": len(rows), "gate": gate, **changes,
    }  # fmt: skip
    columns = {
        "row": list(range(len(rows))),
        "prompt": [f"<|im_start|>user\n{row}? {EVIL}<|im_end|>\n<|im_start|>assistant\n" for row in range(len(rows))],
        "reference": [row[0] for row in rows],
        "base": [row[1] for row in rows],
        "tuned": [row[2] for row in rows],
        "base_exact": [pair[0] for pair in exact],
        "tuned_exact": [pair[1] for pair in exact],
        "base_loss": [2.0] * len(rows),
        "tuned_loss": [0.5] * (len(rows) - 1) + [2.5],
    }  # fmt: skip
    with new_artifact(folder, "evaluation") as draft:
        (draft / "metrics.json").write_text(json.dumps(measured))
        told = inputs or {"base": {}, "training": history(), "data": data_facts()}
        (draft / "inputs.json").write_text(json.dumps(told))
        pq.write_table(pa.table(columns), draft / "predictions.parquet")
    return folder
