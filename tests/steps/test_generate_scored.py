"""score, and the report of batch inference: numbers, escaped texts, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from prompt_rows import answers_in, text_row, write_prompts
from report_artifacts import EVIL
from test_reports import Page

from steps.artifacts import manifest_text, read_manifest
from steps.errors import UserError
from steps.evaluate.references import score
from steps.generate.step import generate
from steps.generation import engines
from steps.generation.requests import Completion
from steps.params.evaluation_config import EvaluationOptions
from steps.params.generation import DecodingParams
from steps.params.settings import GenerateSettings, ScoreSettings
from steps.reports import write_generations_report

GIVEN = [
    ("2 + 2?", "4", "4"),
    ("Name a fruit.", "An apple.", "An apple."),
    ("Who wrote Faust?", "Johann Wolfgang von Goethe", "It was Goethe"),
    (EVIL, EVIL, "no"),
    ("Tell me a story.", None, "Once upon a time"),
]


@pytest.fixture
def generations(tmp_path, monkeypatch) -> Path:
    """Answers as in GIVEN."""
    answers = {prompt: answer for prompt, _, answer in GIVEN}

    class Told:
        name, versions = "accelerate", {"torch": "2.13.0"}

        def complete(self, requests):
            for index, one in enumerate(requests):
                text = answers[one.prompt]
                yield index, Completion(text, "length" if "story" in one.prompt else "stop", 7, len(text.split()))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

    monkeypatch.setattr(engines, "open_engine", lambda *_: Told())
    rows = [{"text": prompt, "reference": reference} for prompt, reference, _ in GIVEN]
    data = write_prompts(tmp_path / "data", rows)
    settings = GenerateSettings(decoding=DecodingParams(max_new_tokens=4))
    generate(settings, None, data, tmp_path / "generations", tmp_path / "generations.html")
    return tmp_path / "generations"


def test_answers_with_a_reference_are_scored_as_those_of_an_evaluation(generations, tmp_path):
    import sacrebleu
    from rouge_score import rouge_scorer

    values = score(ScoreSettings(), generations, tmp_path / "scores")
    told = json.loads((tmp_path / "scores/metrics.json").read_text())
    assert told["answers"] == values
    assert (told["rows"], told["answered"], told["judged"]) == (5, 5, 4)
    judged = [(answer, reference) for _, reference, answer in GIVEN if reference is not None]
    assert values["exact_match"] == 0.5
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    rouge = [scorer.score(reference, answer)["rougeL"].fmeasure for answer, reference in judged]
    assert values["rougeL"] == pytest.approx(100 * sum(rouge) / 4)
    answers, references = (list(texts) for texts in zip(*judged, strict=True))
    assert values["bleu"] == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score)
    lines = pq.read_table(tmp_path / "scores/predictions.parquet").to_pylist()
    assert [(one["row"], one["answer"], one["exact"]) for one in lines] == [
        (0, "4", True), (1, "An apple.", True), (2, "It was Goethe", False), (3, "no", False)
    ]  # fmt: skip
    read_manifest(tmp_path / "scores", "scores")


def test_the_options_of_an_evaluation_count(generations, tmp_path):
    options = EvaluationOptions(metrics=["exact_match"], regexes_to_ignore=["(?s).*"])
    assert score(ScoreSettings(options=options), generations, tmp_path / "scores") == {"exact_match": 1.0}


def test_answers_without_references_are_not_scored(tmp_path, monkeypatch):
    monkeypatch.setitem(engines.ENGINES, "accelerate", "echo_engine")
    data = write_prompts(tmp_path / "data", [text_row(0, reference=None)])
    generate(GenerateSettings(), None, data, tmp_path / "generations")
    with pytest.raises(UserError, match="EVAL-E0231"):
        score(ScoreSettings(), tmp_path / "generations", tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_several_answers_to_a_row_count_each(tmp_path, monkeypatch):
    monkeypatch.setitem(engines.ENGINES, "accelerate", "echo_engine")
    data = write_prompts(tmp_path / "data", [text_row(0), text_row(1, reference=None)])
    settings = GenerateSettings(decoding=DecodingParams(do_sample=True, num_return_sequences=3))
    generate(settings, None, data, tmp_path / "generations", tmp_path / "report.html")
    score(ScoreSettings(), tmp_path / "generations", tmp_path / "scores")
    told = json.loads((tmp_path / "scores/metrics.json").read_text())
    assert (told["rows"], told["answered"], told["judged"]) == (2, 6, 3)
    page = Page(tmp_path / "report.html")
    assert "3 for each row" in page.text
    assert "Row 1, answer 3" in page.text


def test_the_report_shows_numbers_reasons_and_answers(generations, tmp_path):
    page = Page(tmp_path / "generations.html")
    for words in ("rows 5", "tokens per second", "ended by themselves 4", "ended at the longest allowed length 1",
                  "truncated prompts 0", "It was Goethe", "Johann Wolfgang von Goethe", "accelerate, torch 2.13.0",
                  "longest allowed: 4"):  # fmt: skip
        assert words in page.text
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert EVIL in page.text
    assert [one for one in page.addresses if not one.startswith("#")] == []
    assert len(page.ids) == len(set(page.ids))
    assert page.tags.count("svg") == 2


def test_the_report_of_scored_answers_has_both(generations, tmp_path):
    score(ScoreSettings(), generations, tmp_path / "scores", tmp_path / "scored.html")
    page = Page(tmp_path / "scored.html")
    assert page.ids[0] == "generations"
    assert "scores" in page.ids
    assert "exact match ↑ 0.5000" in page.text
    assert "Measured on 4 of 5 answers" in page.text
    assert len(page.ids) == len(set(page.ids))


def test_the_report_of_a_missing_artifact_says_so(tmp_path):
    (tmp_path / "generations").mkdir()
    write_generations_report(tmp_path / "generations", tmp_path / "report.html", tmp_path / "none")
    assert "has no manifest.json" in Page(tmp_path / "report.html").text
    assert "has no metrics.json" in Page(tmp_path / "report.html").text


def test_earlier_answers_and_processes_are_told(generations, tmp_path):
    manifest = read_manifest(generations)
    facts = {**manifest.facts, "answers_before": 3, "processes": 2, "truncated_prompts": 1, "empty_answers": 1}
    (generations / "manifest.json").write_text(manifest_text(replace(manifest, facts=facts)))
    write_generations_report(generations, tmp_path / "report.html")
    page = Page(tmp_path / "report.html")
    assert "in 2 processes" in page.text
    assert "3 of 5 answers are of an earlier run" in page.text
    assert "1 answer is empty" in page.text
    assert len(answers_in(generations)) == 5
