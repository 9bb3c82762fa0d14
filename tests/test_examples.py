"""Tests of all examples; new examples are discovered, not listed."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from example_files import ANSWERING, CONFIGS, MADE, MAKERS, ROOT, make, named, read, run_scripts, shortened, sources

from steps.artifacts import describe_files
from steps.params.reading import read_parameters


@pytest.fixture(scope="session")
def remade(shared, warm_folder) -> Path:
    """A checkout, made in another Python and in another order, in which everything was to be made a second time."""
    return shared.made("remade", lambda folder: remake(folder, warm_folder))


def remake(folder: Path, warm: Path) -> None:
    checkout = folder / "again"
    sources(checkout)
    scripts = [shortened(checkout, maker) for maker in reversed(MAKERS)]
    told = run_scripts([*scripts, *scripts], cwd=folder, PYTHONHASHSEED="7", FINETUNE_WARM=str(warm))
    printed = {named(maker): told[len(MAKERS) + number] for number, maker in enumerate(reversed(MAKERS))}
    (folder / "printed.json").write_text(json.dumps(printed))


def test_there_are_examples_of_every_kind():
    assert {read(config)[0] for config in CONFIGS} == {
        "chat_completion", "text_generation", "pretraining", "summarization", "translation", "text_classification",
        "token_classification", "question_answering", "preference", "reranking", "grpo_chat_completion",
        "verl_finetune",
    }  # fmt: skip
    assert any(read(config)[1].get("apply_lora") for config in CONFIGS)


@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_config_is_accepted_without_a_warning(config):
    pipeline, given = read(config)
    reading = read_parameters(pipeline, given)
    assert reading.warnings == []
    assert reading.parameters.number_of_gpu_to_use_finetuning == 0


@pytest.mark.parametrize("config", ANSWERING, ids=named)
def test_config_that_trains_nothing_is_accepted_without_a_warning(config):
    pipeline, given = read(config)
    reading = read_parameters(pipeline, given)
    assert reading.warnings == []
    assert reading.parameters.number_of_gpu_to_use_inference == 0


@pytest.mark.parametrize("config", [*CONFIGS, *ANSWERING], ids=named)
def test_config_stands_in_the_readme(config):
    readme = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert f"finetune run {read(config)[0]} -f {config.relative_to(ROOT)}" in readme


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS, ids=named)
def test_config_names_only_files_that_are_made(made, config):
    paths = [value for name, value in read(config)[1].items() if name.endswith(("_path", "_files"))]
    assert len(paths) >= 3
    assert [path for path in paths if not (made / path).exists()] == []


@pytest.mark.slow
@pytest.mark.parametrize("config", ANSWERING, ids=named)
def test_config_that_trains_nothing_names_only_files_that_are_made(made, config):
    pipeline, given = read(config)
    p = read_parameters(pipeline, given).parameters
    assert (made / p.pytorch_model_path).is_dir()
    assert (made / p.data_source.test_file_path).is_file()


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("maker", MAKERS, ids=named)
def test_make_gives_equal_bytes_every_time(made, remade, maker):
    folder = maker.parent.relative_to(ROOT)
    first, second = (
        {name: describe_files(place / folder / name) for name in MADE if (place / folder / name).is_dir()}
        for place in (made, remade / "again")
    )
    assert {"base", "data"} <= first.keys()
    assert first == second


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("maker", MAKERS, ids=named)
def test_make_leaves_alone_what_is_current(remade, maker):
    assert "current" in json.loads((remade / "printed.json").read_text())[named(maker)]


@pytest.mark.slow
def test_make_mends_what_was_changed(made, tmp_path):
    maker, folder = ROOT / "examples/dates/make.py", Path("examples/dates")
    shutil.copytree(made / "examples", tmp_path / "examples")
    (tmp_path / folder / "base/config.json").write_text("{}")
    (told,) = make(tmp_path, maker)
    assert "made" in told
    assert describe_files(tmp_path / folder) == describe_files(made / folder)


@pytest.mark.slow
def test_no_test_date_was_trained_on_in_any_style(made):
    answers = {
        split: [
            json.loads(line)["messages"][-1]["content"]
            for line in (made / f"examples/dates/data/{split}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for split in ("train", "validation", "test")
    }
    assert [len(split) for split in answers.values()] == [6000, 300, 300]
    assert len(set().union(*answers.values())) == 6600


@pytest.mark.slow
def test_no_test_number_was_trained_on(made):
    numbers = {}
    for split in ("train", "test"):
        with open(made / f"examples/continuation/data/{split}.csv", encoding="utf-8", newline="") as stream:
            numbers[split] = {row["digits"] for row in csv.DictReader(stream)}
    assert [len(split) for split in numbers.values()] == [6000, 300]
    assert numbers["train"].isdisjoint(numbers["test"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "key", "counts"),
    [("phrases", "translation", (6000, 300, 300)), ("minutes", "document", (6000, 300, 300)),
     ("verse", "text", (6000, 300, 600)), ("names", "tokens", (4000, 300, 300))],
)  # fmt: skip
def test_no_test_text_was_trained_on(made, folder, key, counts):
    texts = [
        [json.dumps(json.loads(line)[key]) for line in (made / f"examples/{folder}/data/{split}.jsonl").open()]
        for split in ("train", "validation", "test")
    ]
    assert tuple(len(split) for split in texts) == counts
    assert len(set().union(*texts)) == sum(counts)


@pytest.mark.slow
def test_no_question_about_the_digits_of_a_test_question_was_trained_on_and_none_is_sorted_already(made):
    questions, digits = {}, {}
    for split in ("train", "validation", "test"):
        rows = [json.loads(line) for line in (made / f"examples/sorting/data/{split}.jsonl").open()]
        questions[split] = {row["problem"].removeprefix("Sort: ") for row in rows}
        assert len(questions[split]) == len(rows)
        for row in rows:
            assert sorted(row["problem"].removeprefix("Sort: ").split()) == row["ground_truth"].split()
        digits[split] = {row["ground_truth"] for row in rows}
        assert questions[split].isdisjoint(digits[split])
    assert [len(split) for split in questions.values()] == [4004, 120, 300]
    assert sum(map(len, digits.values())) == len(set().union(*digits.values())) == 252


@pytest.mark.slow
def test_every_query_has_its_passages_in_one_split_and_some_of_them_are_relevant(made):
    queries = {}
    for split in ("train", "validation", "test"):
        for line in (made / f"examples/passages/data/{split}.jsonl").open():
            row = json.loads(line)
            queries.setdefault(row["query"], []).append((split, row["relevant"]))
    assert len(queries) == 1035
    assert {len(rows) for rows in queries.values()} == {4}
    assert {len({split for split, _ in rows}) for rows in queries.values()} == {1}
    assert {sum(relevant for _, relevant in rows) for rows in queries.values()} == {1, 2}


@pytest.mark.slow
def test_the_gate_of_the_verses_is_within_a_tenth_of_what_the_generator_reaches(made):
    [told] = make(made, ROOT / "examples/verse/make.py")
    goal = float(told.rsplit(":", 1)[1])
    _, given = read(ROOT / "examples/verse/config.yaml")
    assert goal < given["gate_max_value"] <= 1.1 * goal


@pytest.mark.slow
def test_the_gate_of_the_minutes_is_far_above_a_summary_that_is_the_first_sentence(made):
    from steps.scoring.text_metrics import score_texts

    rows = [json.loads(line) for line in (made / "examples/minutes/data/test.jsonl").open()]
    leads = [row["document"].split(". ")[0] + "." for row in rows]
    lead = score_texts(leads, [row["summary"] for row in rows])["rougeL"]
    _, given = read(ROOT / "examples/minutes/config.yaml")
    assert given["gate_min_value"] > 1.5 * lead
