"""Reports of a training with rewards: figures equal the files', texts are escaped, and every part may be missing."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_artifacts import EVIL, data_facts, write_plan
from test_reports import Page, page_of

from steps import reports
from steps.artifacts import new_artifact
from steps.reports.charts import VARIABLES
from steps.reports.reward_training import sample_completions
from steps.reports.step import report

ODD = "\u202eright to left\u200b \u0007 \U0001f642 ḧ̴̨"
LONG = "again and again. " * 800
NAMES = ["accuracy", "format", "short<b>"]


def history(**changes) -> dict:
    points = [
        {"step": step, "epoch": step / 20, "loss": 0.01 * step, "learning_rate": 1e-5, "grad_norm": 0.5,
         "reward": 0.2 + step / 100, "reward_std": 0.3 - step / 200, "frac_reward_zero_std": 0.25,
         **{f"rewards/{name}/mean": 0.1 * number + step / 100 for number, name in enumerate(NAMES)},
         **{f"rewards/{name}/std": 0.1 for name in NAMES}, "completions/mean_length": 40.0 - step / 4,
         "completions/clipped_ratio": 0.5 - step / 80, "kl": 0.001 * step}
        for step in range(1, 41)
    ]  # fmt: skip
    evaluations = [
        {"step": step, "epoch": step / 20, "loss": 0.1, "reward": 0.25 + step / 100, "reward_std": 0.2,
         **{f"rewards/{name}/mean": 0.3 + step / 200 for name in NAMES}, "completions/mean_length": 35.0}
        for step in (10, 20, 30, 40)
    ]  # fmt: skip
    best = {"step": 40, "metric": "reward", "value": 0.65}
    return {"points": points, "evaluations": evaluations, "best": best, "steps": 40, "planned_steps": 40,
            "seconds": 63.2, "tokens_per_second": 2345.6, "parameters": {"trainable": 100, "total": 1000},
            **changes}  # fmt: skip


def write_tuned(folder: Path, told: dict | None = None, completions: bool = True, steps: int = 40) -> Path:
    with new_artifact(folder, "model") as draft:
        (draft / "history.json").write_text(json.dumps(told or history()))
        if completions:
            rows = [
                {"step": step, "split": split, "place": place, "prompt": f"{EVIL} prompt {step}-{place}",
                 "completion": f"{EVIL} {ODD} completion {step}-{place} {split}"
                 + LONG * ((step, place) == (steps, 0)),
                 "tokens": 10 + place, "finished": (step, place) != (steps, 0),
                 "reward": None if place == 5 else (place * 7 % 4) / 4,
                 **{f"rewards/{name}": place / 4 for name in NAMES},
                 "accuracy/answer": f"{EVIL}{place}", "short<b>/words": "3", "advantage": 0.0}
                for step in range(1, steps + 1) for split in ("train", "validation") for place in range(6)
            ]  # fmt: skip
            pq.write_table(pa.Table.from_pylist(rows), draft / "completions.parquet")
    return folder


def write_evaluation(folder: Path, training: Path | None = None, predictions: bool = True) -> Path:
    def of(which: str, row: int) -> dict:
        tuned = which == "tuned"
        reward = (0.2 + row / 100) + (0.05 * (row % 5 - 1) if tuned else 0)
        return {
            which: LONG if row == 4 else f"{EVIL} {ODD} {which} {row}", f"{which}_reward": None if row == 7 else reward,
            **{f"{which}_rewards/{name}": None if name == "format" else reward / 2 for name in NAMES},
            f"{which}_tokens": 1 if row == 2 else 12, f"{which}_finished": row != 4,
            f"{which}_accuracy/answer": f"{EVIL}{row}" if row else "", f"{which}_short<b>/words": "12",
        }  # fmt: skip

    rows = [
        {"row": row, "prompt": f"{EVIL} prompt {row}", "ground_truth": None if row == 3 else f"<b>{row}",
         **of("base", row), **of("tuned", row)}
        for row in range(20)
    ]  # fmt: skip
    metrics = {
        "base": {"reward": 0.3, "rewards/accuracy": 0.15, "gen_len": 11.5, "finished": 0.95},
        "tuned": {"reward": 0.35, "rewards/accuracy": 0.175, "gen_len": 11.5, "finished": 0.95},
        "rows": 20,
        "gate": {"metric": "reward", "base": 0.3, "tuned": 0.35, "min_value": None, "max_value": None,
                 "must_beat_base": True, "passed": True, "reason": "Passed: reward 0.35 beats 0.3."},
        "rewards": {
            "rewards": [
                {"name": "accuracy", "short": "accuracy", "weight": 0.8, "base": 0.15, "tuned": 0.175,
                 "applies": {"base": 20, "tuned": 19}},
                {"name": "format", "short": "format", "weight": 0.2, "base": None, "tuned": None,
                 "applies": {"base": 0, "tuned": 0}},
                {"name": "s3://b/r.py:short<b>", "short": "short<b>", "weight": -1.0, "base": 0.15, "tuned": 0.175,
                 "applies": {"base": 20, "tuned": 20}},
            ],
            "without": {"base": 1, "tuned": 1}, "longest": 256, "split": "test", "engine": "vllm",
        },
    }  # fmt: skip
    with new_artifact(folder, "evaluation") as draft:
        (draft / "metrics.json").write_text(json.dumps(metrics))
        if predictions:
            pq.write_table(pa.Table.from_pylist(rows), draft / "predictions.parquet")
        if training:
            facts = {**data_facts(), "rewarded": True, "columns": ["ground_truth", "level<b>"]}
            told = {"base": {}, "training": json.loads((training / "history.json").read_text()), "data": facts,
                    "completions": sample_completions(training)}  # fmt: skip
            (draft / "inputs.json").write_text(json.dumps(told))
    return folder


def test_the_evaluation_shows_each_reward_and_the_rows_that_differ_most(tmp_path):
    page = page_of(reports.write_evaluation_report, write_evaluation(tmp_path / "e"), file=tmp_path / "e.html")
    assert "accuracy 0.8 0.1500 0.1750 19 (base 20)" in page.text
    assert "format 0.2 – – 0" in page.text
    assert "short<b> -1 0.1500 0.1750 20" in page.text
    assert "The reward format applies to none of the rows" in page.text
    assert "Completions that no reward applies to: 1 of the base, 1 of the tuned model." in page.text
    assert "greedily with vllm, with at most 256 tokens" in page.text
    # 20 rows, of which row 7 has no reward: rows 0, 5, … fall, rows 1, 6, … stay, the others rise.
    assert "higher 11 equal 4 lower 4" in page.text
    assert [int(page.text.split(f"{EVIL} prompt ")[n].split()[0]) for n in range(1, 11)] == [
        4, 9, 14, 19, 3, 8, 13, 18, 0, 2]  # fmt: skip
    assert "10 of 20 rows" in page.text


def test_texts_of_rewards_are_escaped_and_shortened(tmp_path):
    tuned = write_tuned(tmp_path / "t")
    evaluation = write_evaluation(tmp_path / "e", tuned)
    for write, folder in ((reports.write_evaluation_report, evaluation), (reports.write_training_report, tuned)):
        page = page_of(write, folder, file=tmp_path / "page.html")
        assert not {"script", "img", "b2"} & set(page.tags)
        assert EVIL in page.text
        assert "short<b>" in page.text
        assert ODD.split()[-1] in page.text
        assert re.search(r"… and [\d,]+ more that are not shown", page.text)
        assert "ran into the limit" in page.text
        assert "\u202e" in page.text


def test_the_training_shows_its_curves_and_completions(tmp_path):
    page = page_of(reports.write_training_report, write_tuned(tmp_path / "t"), file=tmp_path / "t.html")
    for label in ("reward over steps", "reward accuracy over steps", "reward short&lt;b&gt; over steps",
                  "completion length over steps", "completions at the limit over steps", "KL divergence over steps",
                  "groups without variance over steps", "loss over steps"):  # fmt: skip
        assert f'aria-label="{label}"' in page.source
    assert "best reward 0.6500 at step 40" in page.text
    assert [f"Step {step}" in page.text for step in (1, 21, 40)] == [True] * 3
    assert "nothing could be learned" not in page.text
    assert not any(colour in page.source for colour in VARIABLES)  # all are the page's own
    # Of the first step, place 1 has the highest reward, 3/4, and place 0 the lowest; place 5 has none.
    first = page.text[page.text.index("Step 1 ") : page.text.index("Step 21")]
    assert "completion 1-1 train" in first
    assert "completion 1-0 train" in first
    assert "Highest reward reward 0.7500 · 11 tokens" in first
    assert "Lowest reward reward 0 · 10 tokens" in first
    assert "validation" not in first


def test_the_report_of_a_run_has_the_completions_of_the_training(tmp_path):
    evaluation = write_evaluation(tmp_path / "e", write_tuned(tmp_path / "t"))
    report(write_plan(tmp_path / "p"), evaluation, tmp_path / "run.html")
    page = Page(tmp_path / "run.html")
    assert "completion 40-1 train" in page.text
    assert 'aria-label="reward over steps"' in page.source
    assert "level<b>" in page.text
    assert len(page.ids) == len(set(page.ids))


@pytest.mark.parametrize(
    ("figure", "value", "told"),
    [
        ("frac_reward_zero_std", 0.75, "In 75% of the groups all completions had the same reward"),
        ("completions/clipped_ratio", 0.9, "90% of the completions ran into max_completion_length"),
    ],
)
def test_what_keeps_a_model_from_learning_is_told(tmp_path, figure, value, told):
    points = [{**point, figure: value} for point in history()["points"]]
    page = page_of(
        reports.write_training_report, write_tuned(tmp_path / "t", history(points=points)), file=tmp_path / "t.html"
    )
    assert told in page.text


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_short_training_has_a_report(tmp_path, steps):
    short = history(points=history()["points"][:steps], evaluations=[], best=None)
    tuned = write_tuned(tmp_path / "t", short, steps=steps)
    assert [one["step"] for one in sample_completions(tuned)] == list(range(1, steps + 1))
    page = page_of(reports.write_training_report, tuned, file=tmp_path / "t.html")
    assert "Reward" in page.text
    without = write_tuned(tmp_path / "w", short, completions=False)
    assert "Completions during" not in page_of(reports.write_training_report, without, file=tmp_path / "w.html").text
    bare = write_evaluation(tmp_path / "b", predictions=False)
    page = page_of(reports.write_evaluation_report, bare, file=tmp_path / "b.html")
    assert "accuracy 0.8" in page.text
