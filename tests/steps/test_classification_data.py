"""Rows of a classifier are converted to tokens and class numbers."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from classifiers import build_bert, build_gpt2_backbone, data_settings, label_rows

from steps.artifacts import Manifest, read_manifest
from steps.errors import UserError
from steps.prepare_data.step import prepare_data


@pytest.fixture(scope="module")
def bert(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("bert")
    build_bert(folder)
    return folder


def prepared(folder: Path, model: Path, rows: list[dict], **changes) -> tuple[Manifest, dict[str, list[dict]]]:
    manifest = prepare_data(data_settings(folder, rows, **changes), model, folder / "data", folder / "report.html")
    tokens = {split: pq.read_table(folder / f"data/tokens/{split}.parquet").to_pylist()
              for split in ("train", "validation", "test")}  # fmt: skip
    return manifest, tokens


def test_texts_are_what_the_tokenizer_makes_of_them_with_the_number_of_their_class(bert, tmp_path):
    from transformers import AutoTokenizer

    rows = label_rows(60)
    manifest, tokens = prepared(tmp_path, bert, rows)
    names = ["colour", "fruit", "metal"]
    assert manifest.facts["class_names"] == names
    tokenizer = AutoTokenizer.from_pretrained(bert)
    for split, part in (("train", rows[:36]), ("validation", rows[36:48]), ("test", rows[48:])):
        expected = tokenizer([row["text"] for row in part])
        assert [row["input_ids"] for row in tokens[split]] == expected["input_ids"]
        assert [row["token_type_ids"] for row in tokens[split]] == expected["token_type_ids"]
        assert [names[row["labels"]] for row in tokens[split]] == [row["kind"] for row in part]
    train = manifest.facts["splits"]["train"]
    assert train["classes"] == {"colour": 12, "fruit": 12, "metal": 12}
    assert train["tokens"] == sum(len(row["input_ids"]) for row in tokens["train"])
    assert "colour" in (tmp_path / "report.html").read_text()


def test_pairs_are_told_apart_and_the_longer_text_is_cut_first(bert, tmp_path):
    from transformers import AutoTokenizer

    rows = label_rows(60, pairs=True)
    manifest, tokens = prepared(tmp_path, bert, rows, length=7, columns={"sentence2_key": "other"})
    expected = AutoTokenizer.from_pretrained(bert)(
        [row["text"] for row in rows[:36]], [row["other"] for row in rows[:36]], truncation=True, max_length=7
    )
    assert [row["input_ids"] for row in tokens["train"]] == expected["input_ids"]
    assert [row["token_type_ids"] for row in tokens["train"]] == expected["token_type_ids"]
    assert max(len(row["input_ids"]) for row in tokens["train"]) == 7
    train = manifest.facts["splits"]["train"]
    assert train["truncated"] == train["rows"] == 36
    assert train["length"]["max"] > 7
    assert manifest.facts["warnings"][-1]["code"] == "DATA-W0804"


def test_the_order_of_the_classes_does_not_depend_on_the_order_of_the_rows(bert, tmp_path):
    rows = [{"text": f"apple {number}", "kind": number % 11} for number in range(88)]
    manifest, tokens = prepared(tmp_path / "one", bert, rows)
    again, _ = prepared(tmp_path / "two", bert, rows[::-1])
    assert manifest.facts["class_names"] == again.facts["class_names"] == [str(number) for number in range(11)]
    assert [row["labels"] for row in tokens["train"]] == [row["kind"] for row in rows[:64]]


def test_declared_classes_win_also_those_that_no_row_has(bert, tmp_path):
    manifest, tokens = prepared(tmp_path, bert, label_rows(60), columns={"labels": "metal, fruit, colour, gas"})
    assert manifest.facts["class_names"] == ["metal", "fruit", "colour", "gas"]
    assert manifest.facts["splits"]["train"]["classes"]["gas"] == 0
    assert {row["labels"] for row in tokens["train"]} == {0, 1, 2}


def test_several_labels_become_a_number_for_each_class(bert, tmp_path):
    rows = label_rows(60, several=True)
    manifest, tokens = prepared(tmp_path, bert, rows, columns={"multilabel": True})
    names = manifest.facts["class_names"]
    assert manifest.facts["multilabel"] is True
    told = [[name for name, applies in zip(names, row["labels"], strict=True) if applies] for row in tokens["train"]]
    assert told == [row["kind"] for row in rows[:36]]
    assert [] in told


def test_a_model_without_token_types_gets_none(tmp_path):
    build_gpt2_backbone(tmp_path / "gpt2")
    _, tokens = prepared(tmp_path, tmp_path / "gpt2", label_rows(60))
    assert set(tokens["train"][0]) == {"input_ids", "labels"}


def test_rows_that_are_too_long_are_left_out_when_that_is_wanted(bert, tmp_path):
    rows = label_rows(60)
    rows[3]["text"] = "apple " * 40
    manifest, tokens = prepared(tmp_path, bert, rows, preprocessing={"length_handling": "filter"})
    assert len(tokens["train"]) == pq.read_metadata(tmp_path / "data/rows/train.parquet").num_rows == 35
    assert manifest.facts["splits"]["train"]["left_out"] == 1
    assert sum(manifest.facts["splits"]["train"]["classes"].values()) == 35


def test_a_limit_without_room_for_text_is_refused(bert, tmp_path):
    with pytest.raises(UserError, match=r"DATA-E0814 max_seq_length: found 3, of which special tokens take 3"):
        prepared(tmp_path, bert, label_rows(60, pairs=True), length=3, columns={"sentence2_key": "other"})


def test_a_tokenizer_that_cannot_fill_up_a_batch_is_refused(tmp_path):
    from transformers import AutoTokenizer

    build_gpt2_backbone(tmp_path / "gpt2")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "gpt2")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UserError, match="DATA-E0813"):
        prepared(tmp_path, tmp_path / "gpt2", label_rows(60))


def test_no_torch_is_loaded_and_equal_rows_give_equal_bytes(bert, tmp_path):
    import json
    import subprocess
    import sys

    settings = data_settings(tmp_path, label_rows(60))
    script = (
        "import sys\nfrom steps.running import run_step\nfolder, model, settings = sys.argv[1:]\n"
        "for name in ('one', 'two'):\n"
        "    run_step('prepare-data', settings, tokenizer=model, data=f'{folder}/{name}', report=f'{folder}/r.html')\n"
        "assert sys.modules.get('torch') is None"
    )
    words = [str(tmp_path), str(bert), json.dumps(settings.model_dump(mode="json"))]
    subprocess.run([sys.executable, "-W", "ignore", "-c", script, *words], check=True)
    assert read_manifest(tmp_path / "one").digest == read_manifest(tmp_path / "two").digest
