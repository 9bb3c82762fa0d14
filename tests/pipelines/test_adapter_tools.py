"""The pipeline adapter_tools, run locally."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_adapters import logits_of, save_adapter

from steps.params.planned import AdapterToolsPlan

FINETUNE = [sys.executable, "-W", "ignore", "-c", "from pipelines.cli import main; main()"]
COMPILED = Path(__file__).parents[2] / "compiled" / "adapter_tools_pipeline.yaml"


def finetune(root: Path, *words: object) -> tuple[subprocess.CompletedProcess, dict]:
    command = [*FINETUNE, "run", "adapter_tools", "--root", str(root), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    results = sorted(root.glob("adapter_tools-*/result.json"), key=os.path.getmtime)
    return done, json.loads(results[-1].read_text()) if results else {}


def test_every_output_of_the_plan_is_used():
    (spec, platform) = yaml.safe_load_all(COMPILED.read_text())
    tasks = spec["root"]["dag"]["tasks"]
    assert set(tasks) == {"plan", "import-model", "import-adapter", "adapter-tool"}
    text = str([task for name, task in tasks.items() if name != "plan"]) + str(platform)
    for output in AdapterToolsPlan._fields:
        assert f"'{output}'" in text, output
    uncached = {name for name, task in tasks.items() if not task.get("cachingOptions", {}).get("enableCache")}
    assert uncached == {"plan"}


@pytest.mark.slow
def test_a_run_merges_an_adapter_and_a_second_one_reuses_what_it_fetched(tiny_model, tmp_path):
    import torch
    from transformers import AutoModelForCausalLM

    adapter = save_adapter(tiny_model, tmp_path / "adapter", target_modules=["q_proj"])
    words = ["--pytorch-model-path", tiny_model, "--adapter-path", adapter, "--action"]
    done, result = finetune(tmp_path / "runs", *words, "merge")
    assert done.returncode == 0, done.stdout + done.stderr
    merged = Path(result["artifacts"]["result"])
    assert str(merged) in done.stdout
    model = AutoModelForCausalLM.from_pretrained(merged).eval()
    with torch.no_grad():
        logits = model(input_ids=torch.arange(40).view(2, 20)).logits
    assert torch.allclose(logits, logits_of(tiny_model, adapter), atol=1e-4)
    done, result = finetune(tmp_path / "runs", *words, "check")
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(result["reused"]) == {"import-model", "import-adapter"}
    assert (Path(result["artifacts"]["result"]) / "check.json").exists()


@pytest.mark.slow
def test_what_does_not_fit_ends_with_code_2_and_the_fix(tiny_model, tmp_path):
    words = ["--pytorch-model-path", tiny_model, "--action", "replace_tokens"]
    done, result = finetune(tmp_path / "runs", *words, "--replacements", '{"<|im_nd|>": "</s>"}')
    assert done.returncode == 2
    assert "did you mean <|im_end|>?" in done.stderr
    assert result["status"] == "failed"
    assert result["error"]["step"] == "plan"
