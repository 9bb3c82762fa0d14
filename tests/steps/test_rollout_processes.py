"""Processes whose completions have different lengths, so that each computes another number of tokens alone."""

import json

import pyarrow.parquet as pq
import pytest
from conftest import build_model
from grids import long_but
from rewarded_rows import letters, prompt_rows, settings_with, write_prompts
from trained_kinds import Kind
from trained_together import WAYS, differences, train_all
from training_inputs import as_imported, train

from steps.params.distributed import Processes
from steps.params.lora import LoraParams

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("local_root")]

ADAPTERS = {"full": LoraParams(apply_lora=False), "lora": LoraParams(apply_lora=True, lora_r=4)}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Kind:
    """A model that ends a completion with one of many tokens."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("inputs")
    build_model(folder / "source")
    settings = folder / "source" / "generation_config.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "eos_token_id": list(range(2, 384, 6))}))
    model = as_imported(folder / "source", folder / "model")
    data = write_prompts(folder / "data", AutoTokenizer.from_pretrained(model), train=prompt_rows(16))
    return Kind(model, data, None)


def asked(reward: str, adapter: str, processes: Processes | None = None, **given):
    size = 8 // (processes.count if processes else 1)
    training = {"per_device_train_batch_size": size, "max_steps": 3, "gradient_checkpointing": "true"}
    return settings_with(reward, training, {"max_completion_length": 40}, lora=ADAPTERS[adapter],
                         processes=processes or Processes(), **given)  # fmt: skip


def lengths(out) -> list[int]:
    rows = pq.read_table(out / "tuned/completions.parquet").to_pylist()
    return [row["tokens"] for row in sorted(rows, key=lambda row: (row["step"], row["place"]))]


@pytest.mark.parametrize("way", long_but(["zero3"], WAYS))
def test_processes_need_not_write_completions_of_the_same_length(inputs, loaded, tmp_path, way):
    reward, given = letters(tmp_path), {**WAYS[way]}
    processes = Processes(per_node=2, **given.pop("processes", {}))
    for adapter in ADAPTERS:
        train(asked(reward, adapter), inputs.model, inputs.data, tmp_path / "alone" / adapter)
    jobs = {adapter: (inputs, asked(reward, adapter, processes, **given)) for adapter in ADAPTERS}
    train_all(jobs, tmp_path / "ours", loaded)
    for adapter in ADAPTERS:
        ours, alone = tmp_path / "ours" / adapter, tmp_path / "alone" / adapter
        told = lengths(ours)
        assert told == lengths(alone)
        halves = [[max(told[start + part : start + part + 4]) for start in range(0, 24, 8)] for part in (0, 4)]
        assert halves[0] != halves[1]  # the longest completion, and so the number of steps, of each process
        assert differences(ours, alone, 1e-4, 1e-3) == []
