"""Damaged model folders: what the plan says of each, before anything is loaded."""

import json
import re
import shutil
import struct

import pytest
from conftest import chat_rows, write_jsonl

from steps.errors import UserError
from steps.plan.deciding import decide


@pytest.fixture
def planned(tiny_model, tmp_path, monkeypatch):
    """Return a function that plans with a copy of a model after a change of its folder."""
    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    copy = tmp_path / "model"
    shutil.copytree(tiny_model, copy)

    def plan(change, **parameters):
        change(copy)
        return decide("chat_completion", {"pytorch_model_path": str(copy), "train_file_path": str(rows),
                                          "number_of_gpu_to_use_finetuning": 0, **parameters})  # fmt: skip

    return plan


def with_values(**values):
    def change(folder):
        config = json.loads((folder / "config.json").read_text()) | values
        (folder / "config.json").write_text(json.dumps({k: v for k, v in config.items() if v != "left out"}))

    return change


def without_tensors(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"max_position_embeddings": "many"}, "max_position_embeddings: found 'many'; expected a whole number"),
        ({"max_position_embeddings": -1}, "max_position_embeddings: found -1; expected a whole number of at least 0"),
        ({"max_position_embeddings": [512]}, "max_position_embeddings: found "),
        ({"hidden_size": "64"}, "hidden_size: found '64'"),
        ({"hidden_size": 64.5}, "hidden_size: found 64.5"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: found 0; expected a whole number of at least 1"),
        ({"vocab_size": True}, "vocab_size: found True"),
        ({"model_type": "left out"}, "model_type: found nothing; expected the name of an architecture"),
        ({"model_type": 3}, "model_type: found 3"),
        ({"text_config": "x"}, "text_config: found 'x'; expected an object"),
        ({"text_config": {"vocab_size": "x"}}, "text_config: vocab_size: found 'x'"),
        ({"rope_scaling": [1]}, "rope_scaling: found "),
    ],
)
def test_values_that_no_model_has_are_told(planned, values, words):
    with pytest.raises(UserError, match=f"MODEL-E0116 pytorch_model_path: config.json: {re.escape(words)}"):
        planned(with_values(**values))
