"""The plan counts the training rows that prepare_data will leave, whichever way the other splits are given."""

import itertools
from collections import Counter

import pytest
from checking import check_sources
from conftest import write_jsonl

from steps.params.data import DataSource
from steps.params.pipelines.preference import PreferenceParameters
from steps.params.pipelines.text_generation import TextGenerationParameters
from steps.params.splits import EDGES, SPLITS, split_sizes, train_percent
from steps.plan.arithmetic import table
from steps.plan.sources import look_at_data
from steps.prepare_data.check.splitting import split_rows

WAYS = ("nothing", "file", "mltable", "dataset")
GIVEN = {"pytorch_model_path": "m", "min_train_rows": 1}


def texts(name: str, count: int) -> list[dict]:
    return [{"text": f"{name} {number}"} for number in range(count)]


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Rows for each split in every way: {way: {split: parameters}}."""
    from datasets import Dataset, DatasetDict

    folder = tmp_path_factory.mktemp("sources")
    ways = {way: {} for way in WAYS}
    DatasetDict({name: Dataset.from_list(texts(name, 7)) for name in ("held", "last")}).save_to_disk(folder / "saved")
    for split, held in (("validation", "held"), ("test", "last")):
        (folder / split).mkdir()
        file = write_jsonl(folder / split / "rows.jsonl", texts(f"{split} row", 7))
        (folder / split / "MLTable").write_text("paths: [{file: ./rows.jsonl}]")
        ways["nothing"][split] = {}
        ways["file"][split] = {f"{split}_file_path": str(file)}
        ways["mltable"][split] = {f"{split}_mltable_path": str(folder / split)}
        ways["dataset"][split] = {"dataset_name": str(folder / "saved"), f"dataset_{split}_split": held}
    return ways


def counted(parameters, rows: int) -> int:
    return {line["name"]: line["value"] for line in table(parameters, rows, 64)}["training rows"]


@pytest.mark.parametrize(("validation", "test"), itertools.product(WAYS, WAYS))
def test_the_plan_counts_what_prepare_data_leaves(sources, tmp_path, validation, test):
    file = write_jsonl(tmp_path / "train.jsonl", texts("train", 33))
    given = {**sources[validation]["validation"], **sources[test]["test"], "train_file_path": str(file)}
    parameters = TextGenerationParameters(**GIVEN, **given)
    found = look_at_data(parameters)
    left = check_sources("text_generation", DataSource.of(parameters)).counts["train"]
    assert found["train"].rows == 33
    assert counted(parameters, found["train"].rows) == left
    # 80 % of 33 is 26.4; with both splits drawn 10 % each are 3.3 and 3.3, so that the edges 26 and 30 leave 26, 4, 3.
    assert left == (33 if "nothing" not in (validation, test) else 26)


@pytest.mark.parametrize("given", EDGES, ids=lambda given: "+".join(sorted(given)) or "none")
def test_every_number_of_rows_is_counted_as_it_is_split(given):
    ways = {f"{split}_file_path": "x.jsonl" for split in given}
    parameters = TextGenerationParameters(**GIVEN, train_file_path="t.jsonl", **ways)
    for rows in [*range(1, 130), 999, 1007]:
        parts = split_rows(rows, set(given), "shuffled", seed=1)
        assert counted(parameters, rows) == len(parts["train"]), rows
        assert split_sizes(rows, given).keys() == parts.keys()
    assert set(SPLITS) - set(given) == set(split_sizes(10, given))


def test_small_numbers_are_what_was_worked_out_by_hand():
    # Of 5 rows 4 would be 80 %, but each of the other two gets one; of 13 the edges are 10.4 and 11.7.
    assert split_sizes(5, ()) == {"train": 3, "validation": 1, "test": 1}
    assert split_sizes(13, ()) == {"train": 10, "validation": 2, "test": 1}
    assert split_sizes(13, {"validation"}) == {"train": 10, "test": 3}
    assert split_sizes(13, {"validation", "test"}) == {"train": 13}
    assert [train_percent(given) for given in ((), {"test"}, {"validation"}, {"validation", "test"})] == [
        80,
        80,
        80,
        100,
    ]


def test_pairs_that_are_taken_apart_count_twice():
    both = {"validation_mltable_path": "v", "test_mltable_path": "t"}
    apart = PreferenceParameters(**GIVEN, train_file_path="t.jsonl", method="kto", kto_rows="pairs",
                                 per_device_train_batch_size=2, **both)  # fmt: skip
    assert counted(apart, 10) == 20


@pytest.mark.parametrize("changes", [{"dedup": True}, {"processing_function": "f.py:f"}])
def test_rows_that_may_be_dropped_are_not_counted(tmp_path, changes):
    rows = texts("train", 20) + texts("train", 20)
    file = write_jsonl(tmp_path / "train.jsonl", rows)
    parameters = TextGenerationParameters(**GIVEN, train_file_path=str(file), **changes)
    assert look_at_data(parameters)["train"].rows is None
    assert max(Counter(row["text"] for row in rows).values()) == 2


def test_the_share_of_an_experiment_is_the_one_that_is_drawn():
    from pipelines.experiment_keys import RATIO

    assert RATIO == 0.2
