"""A merge of a large model: how much memory it takes, and what is left when it is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from steps.artifacts import read_manifest

ROOT = Path(__file__).parents[2]


def run_step(base: Path, adapter: Path, output: Path) -> subprocess.Popen:
    folders = ["--base", base, "--adapter", adapter, "--output", output]
    return subprocess.Popen(
        [sys.executable, "-m", "steps", "merge-adapter", *folders],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def write_hollow_model(folder: Path, tensors: int) -> Path:
    """Write a bf16 model of zeros, 8 MB for each tensor, as sparse files; and an adapter for all of it."""
    import torch
    from safetensors.torch import save_file

    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True)
    adapter.mkdir()
    names = [f"model.layers.{number}.q_proj" for number in range(tensors)]
    size = 2 * 2048 * 2048
    header = {
        f"{name}.weight": {"dtype": "BF16", "shape": [2048, 2048], "data_offsets": [index * size, (index + 1) * size]}
        for index, name in enumerate(names)
    }
    text = json.dumps(header).encode()
    with open(base / "model.safetensors", "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + tensors * size)
    (base / "config.json").write_text('{"model_type": "hollow", "tie_word_embeddings": false}')
    factors = {"A": torch.randn(4, 2048), "B": torch.randn(2048, 4)}
    weights = {f"base_model.model.{name}.lora_{side}.weight": factors[side].clone() for name in names for side in "AB"}
    save_file(weights, adapter / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.slow
def test_killed_midway_nothing_is_visible_and_the_next_try_cleans_up(tmp_path):
    folder = write_hollow_model(tmp_path, tensors=40)
    folders = (folder / "base", folder / "adapter", folder / "merged")
    process = run_step(*folders)
    while not [part for part in folder.glob("merged.tmp-*/model.safetensors") if part.stat().st_size]:
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (folder / "merged").exists()
    again = run_step(*folders)
    output, complaints = again.communicate()
    assert again.returncode == 0, complaints
    assert "shard 1/1 model.safetensors: 40 of 40 tensors merged" in output
    assert sorted(path.name for path in folder.iterdir()) == ["adapter", "base", "merged"]
    assert read_manifest(folder / "merged").facts["changed_tensors"] == 40


@pytest.mark.slow
def test_memory_does_not_grow_with_the_model(tmp_path):
    peaks = []
    for tensors in (8, 96):  # 64 MB and 768 MB
        folder = write_hollow_model(tmp_path / str(tensors), tensors)
        process = run_step(folder / "base", folder / "adapter", folder / "merged")
        assert process.stderr
        complaints = process.stderr.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, complaints
        peaks.append(usage.ru_maxrss / 1024)
        shutil.rmtree(folder)
    assert peaks[1] - peaks[0] < 40  # MiB; the model grew by 704
