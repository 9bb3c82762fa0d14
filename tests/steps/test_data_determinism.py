"""The same files and seed give the same bytes in every process, although Python's hash() differs between processes."""

import json
import os
from collections.abc import Iterator

import pytest
from conftest import chat_rows, write_jsonl
from forking import ForkingPython

from steps.artifacts import sha256_of
from steps.sources import storage

pytestmark = pytest.mark.slow

CHECK = """
import json, sys
from pathlib import Path
import pyarrow.parquet as pq
from steps.params.data import DataSource
from steps.prepare_data.check.checking import check_data
task, given, scratch = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
scratch.mkdir()
checked = check_data(task, DataSource(**given), scratch=scratch)
for name, rows in checked.rows.items():
    pq.write_table(rows.table(), scratch / f"{name}.parquet")
told = [checked.counts, checked.sources, checked.warnings, checked.repairs]
(scratch / "told.json").write_text(json.dumps(told))
"""
PREPARE = """
import json, sys
from pathlib import Path
from steps.params.settings import DataSettings
from steps.prepare_data.step import prepare_data
settings, model, folder = json.loads(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])
prepare_data(DataSettings(**settings), model, folder, folder.with_suffix(".html"))
"""


@pytest.fixture(scope="module")
def pythons() -> Iterator[list[ForkingPython]]:
    """Two Pythons with different hashes, libraries loaded."""
    libraries = ["pyarrow.parquet", "datasets", "transformers.models.auto.tokenization_auto", "matplotlib.figure"]
    found = [ForkingPython(libraries, {**os.environ, "PYTHONHASHSEED": seed}) for seed in ("1", "2")]
    yield found
    for python in found:
        python.close()


@pytest.fixture
def twice(pythons, tmp_path):
    """Run the code in two processes with different hashes; give the digests of what each wrote."""

    def run(code: str, *arguments: str) -> list[dict[str, str]]:
        made, hashes = [], set()
        for number, python in enumerate(pythons):
            folder = tmp_path / f"made-{number}"
            hashes.add(python.run(f"{code}\nprint(hash('a'))", *arguments, str(folder), cwd=tmp_path).split()[-1])
            files = [file for file in folder.rglob("*") if file.suffix in (".parquet", ".json") and file.is_file()]
            made.append({str(f.relative_to(folder)): sha256_of(f) for f in files if f.name != "manifest.json"})
        assert len(hashes) == 2
        return made

    return run


LABELLED = [{"sentence1": f"text {n} \u00e9", "label": ["a", "b", "b", "c"][n % 4]} for n in range(400)]
REPEATED = [{"text": f"text {n % 90} \u00e9"} for n in range(200)] + [{"text": f"TEXT {n}  \u00e9"} for n in range(9)]


@pytest.mark.parametrize(
    ("task", "rows", "given"),
    [
        ("text_classification", LABELLED, {}),
        ("text_classification", LABELLED + LABELLED[:50], {"dedup": True}),
        ("text_generation", REPEATED, {"dedup": True}),
        ("text_generation", REPEATED, {}),
        ("chat_completion", chat_rows(200), {}),
    ],
)
def test_splits_and_what_is_told_do_not_depend_on_the_process(tmp_path, task, rows, given, twice):
    file = write_jsonl(tmp_path / "a.jsonl", rows)
    one, other = twice(CHECK, task, json.dumps({"train_file_path": str(file), **given}))
    assert one == other
    assert len(one) == 4


def test_a_mixture_does_not_depend_on_the_process(tmp_path, twice):
    parts = [
        {"path": str(write_jsonl(tmp_path / f"{name}.jsonl", [{"text": f"{name} {n}"} for n in range(80)])),
         "sampling_weight": weight}
        for name, weight in (("a", 0.3), ("b", 0.7))
    ]  # fmt: skip
    one, other = twice(CHECK, "text_generation", json.dumps({"training_data": json.dumps(parts)}))
    assert one == other


@pytest.mark.slow
def test_rows_and_tokens_do_not_depend_on_the_process(tmp_path, tiny_model, twice):
    file = write_jsonl(tmp_path / "a.jsonl", chat_rows(300))
    settings = {
        "task": "chat_completion",
        "train": {"uri": str(file), "digest": storage.digest_of("train_file_path", str(file))},
        "max_length": 64,
        "preprocessing": {"packing": True, "train_on_completions_only": True},
    }
    one, other = twice(PREPARE, json.dumps(settings), str(tiny_model))
    assert one == other
    assert {"rows/train.parquet", "tokens/train.parquet", "tokens/test.parquet"} <= one.keys()
