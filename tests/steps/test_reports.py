"""The HTML reports: numbers equal the files', user text is escaped, no external files, missing files cause no error."""

import json
import pkgutil
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_artifacts import (
    EVIL,
    ROWS,
    data_facts,
    history,
    write_data,
    write_evaluation,
    write_plan,
    write_tuned,
)

from steps import reports
from steps.artifacts import new_artifact
from steps.errors import Outage, UserError
from steps.reports import sections
from steps.reports.step import report

VOID = {"meta", "br", "img", "hr", "input", "link"}


@pytest.fixture
def run(tmp_path: Path) -> dict[str, Path]:
    """What the report of a run reads: the evaluation tells of training and data."""
    return {"plan": write_plan(tmp_path / "plan"), "evaluation": write_evaluation(tmp_path / "evaluation")}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_data(tmp_path / "data")


# --- reading a page the way a browser does ---


class Page(HTMLParser):
    """The text that shows, the tags that are used, and every address that is named."""

    def __init__(self, file: Path):
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.source = file.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert not name.startswith("on"), f"{tag} with {name}"
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                self.addresses.append(value)
            if name == "id":
                self.ids.append(value)

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)


def page_of(write, *folders: Path, file: Path) -> Page:
    write(*folders, file)
    return Page(file)


def test_run_report_leads_with_the_verdict_and_holds_every_section(run, tmp_path):
    report(**run, report=tmp_path / "run.html")
    page = Page(tmp_path / "run.html")
    for earlier, later in [
        ("Passed", "Evaluation"),
        ("0.2857", "→"),
        ("→", "0.7143"),
        ("0.7143", "Answers of both models"),
    ]:
        assert page.text.index(earlier) < page.text.index(later)
    known = {module.name for module in pkgutil.iter_modules(sections.__path__)}
    assert [name for name in page.ids if name in known] == ["evaluation", "training", "data", "plan"]
    assert "meta-llama/Llama-3.2-1B" in page.text


def test_run_report_says_that_the_gate_refused(run, tmp_path):
    run["evaluation"] = write_evaluation(tmp_path / "refused", passed=False)
    report(**run, report=tmp_path / "run.html")
    page = Page(tmp_path / "run.html")
    assert "Not passed" in page.text
    assert "The tuned model is not registered." in page.text


def test_every_link_of_the_contents_has_a_section(run, tmp_path):
    report(**run, report=tmp_path / "run.html")
    page = Page(tmp_path / "run.html")
    links = [address for address in page.addresses if not re.fullmatch(r"#m[0-9a-f]+", address)]  # chart ticks
    assert len(links) == 4
    assert {link.removeprefix("#") for link in links} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))


def test_pages_load_nothing(run, tmp_path):
    report(**run, report=tmp_path / "run.html")
    page = Page(tmp_path / "run.html")
    assert all(address.startswith("#") for address in page.addresses)
    assert not set(page.tags) & {"link", "img", "iframe", "object", "embed", "form", "base"}
    styles = re.search(r"<style>(.*?)</style>", page.source, re.DOTALL).group(1)
    assert "@import" not in styles
    assert "url(" not in styles


def test_text_from_rows_shows_as_text(run, tmp_path):
    report(**run, report=tmp_path / "run.html")
    page = Page(tmp_path / "run.html")
    assert page.source.count("<script>") == 1  # our own, for links inside a frame
    assert "<img" not in page.source
    assert EVIL in page.text  # as an answer; prompts and samples hold it too
    assert page.text.count(EVIL) > len(ROWS)


@pytest.mark.parametrize("place", ["warning", "uri", "parameter", "source", "reason", "finding"])
def test_text_from_everywhere_else_shows_as_text(run, tmp_path, place):
    match place:
        case "warning":
            run["plan"] = write_plan(tmp_path / "evil", warnings=[EVIL])
        case "uri":
            run["plan"] = write_plan(
                tmp_path / "evil", sources=[{"what": "model", "uri": EVIL, "digest": EVIL, "bytes": 1}]
            )
        case "parameter":
            run["plan"] = write_plan(tmp_path / "evil", effective={"huggingface_id": EVIL}, pipeline=EVIL)
        case "source":
            data = data_facts(template=EVIL, splits={EVIL: {"rows": 1, "source": EVIL}})
            run["evaluation"] = write_evaluation(tmp_path / "evil", inputs={"data": data})
        case "reason":
            run["evaluation"] = write_evaluation(
                tmp_path / "evil", gate={"metric": EVIL, "reason": EVIL, "passed": False}
            )
        case "finding":
            data = data_facts(warnings=[{"code": EVIL, "what": EVIL, "count": 1, "rows": []}])
            run["evaluation"] = write_evaluation(tmp_path / "evil", inputs={"data": data})
    report(**run, report=tmp_path / "run.html")
    page = Page(tmp_path / "run.html")
    assert page.source.count("<script>") == 1
    assert "<img" not in page.source
    assert EVIL in page.text


def test_evaluation_counts_fixed_and_broken_rows(run, tmp_path):
    page = page_of(reports.write_evaluation_report, run["evaluation"], file=tmp_path / "page.html")
    # by hand from ROWS: Rome, the script, x and 42 fixed; Oslo right in both; the date wrong in both; Berlin broken
    assert "fixed 4 right in both 1 still wrong 1 broken 1" in page.text
    assert "loss is lower on 6 of 7" in page.text


def test_evaluation_shows_wrong_rows_first_and_about_ten(tmp_path):
    rows = [("a", "a", "a")] * 20 + [("b", "x", "y")] * 9 + [("c", "c", "z")] * 2 + [("d", "x", "d")] * 20
    page = page_of(reports.write_evaluation_report, write_evaluation(tmp_path / "e", rows), file=tmp_path / "page.html")
    shown = re.findall(r"Row (\d+) (broken|still wrong|fixed|right in both)", page.text)
    assert [(int(row), outcome) for row, outcome in shown] == [
        (29, "broken"), (30, "broken"), (20, "still wrong"), (21, "still wrong"), (22, "still wrong"),
        (23, "still wrong"), (31, "fixed"), (32, "fixed"), (33, "fixed"), (34, "fixed"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "base", "tuned", "difference", "verdict"),
    [
        ("loss", 2.5, 1.25, "−1.2500", "better"),
        ("loss", 1.25, 2.5, "+1.2500", "worse"),
        ("bleu", 10.0, 30.0, "+20.000", "better"),
        ("bleu", 30.0, 10.0, "−20.000", "worse"),
        ("word_f1", 60.0, 70.0, "+10.000", "better"),
        ("exact_match", 0.5, 0.5, "±0.0000", ""),
        ("loss", 1.0, 1.0000001, "+1e-07", "worse"),
        ("home_made", 1.0, 2.0, "+1.0000", ""),
    ],
)
def test_differences_say_whether_they_are_for_the_better(tmp_path, metric, base, tuned, difference, verdict):
    folder = write_evaluation(tmp_path / "e", base={metric: base}, tuned={metric: tuned})
    page = page_of(reports.write_evaluation_report, folder, file=tmp_path / "page.html")
    row = re.search(rf"{re.escape(difference)}</td><td class=\"\w*\">(\w*)</td>", page.source)
    assert row.group(1) == verdict


def test_wrong_answers_mark_what_differs_from_the_reference(run, tmp_path):
    page = page_of(reports.write_evaluation_report, run["evaluation"], file=tmp_path / "page.html")
    assert "199<mark>9</mark>-04-05" in page.source


def test_long_texts_are_cut_and_say_so(tmp_path):
    long = "".join(f"word{number} " for number in range(30000))
    folder = write_evaluation(tmp_path / "e", [(long, long + "b", long + "c")] * 12)
    page = page_of(reports.write_evaluation_report, folder, file=tmp_path / "page.html")
    assert "4,000 more characters" in page.text
    assert f"and {len(long) - 4600:,} more" in page.text
    assert len(page.source.encode()) < 400_000


def test_rows_without_a_question_are_compared_by_loss_alone(tmp_path):
    with new_artifact(tmp_path / "e", "evaluation") as draft:
        measured = {
            "base": {"loss": 3.0},
            "tuned": {"loss": 2.0},
            "rows": 2,
            "gate": {"metric": "loss", "passed": True},
        }
        (draft / "metrics.json").write_text(json.dumps(measured))
        texts = {name: pa.array([None, None], pa.string()) for name in ("prompt", "reference", "base", "tuned")}
        flags = {name: pa.array([None, None], pa.bool_()) for name in ("base_exact", "tuned_exact")}
        table = pa.table({"row": [0, 1], **texts, **flags, "base_loss": [3.0, 3.0], "tuned_loss": [1.0, None]})
        pq.write_table(table, draft / "predictions.parquet")
    page = page_of(reports.write_evaluation_report, tmp_path / "e", file=tmp_path / "page.html")
    assert "loss is lower on 1 of 1" in page.text
    assert "have no prompts" in page.text
    assert "Row 0" not in page.text


def test_training_report_marks_the_best_step_and_the_numbers(run, tmp_path):
    page = page_of(reports.write_training_report, write_tuned(tmp_path / "tuned"), file=tmp_path / "page.html")
    for told in (
        "1,940 of 2,910",
        "1 h 23 min",
        "8,123",
        "11,272,192",
        "0.9 % of the model",
        "best validation loss 0.7200",
    ):
        assert told in page.text
    assert "Stopped early, after 1,940 of 2,910 steps." in page.text
    assert "Resumed from step 970" in page.text
    assert page.tags.count("svg") == 2
    assert page.source.count("var(--good)") >= 2  # line and ring at the best step, drawn in the page's own colour


def test_training_report_of_a_long_run_stays_small(tmp_path):
    tuned = write_tuned(tmp_path / "t", steps=200_000)
    page = page_of(reports.write_training_report, tuned, file=tmp_path / "page.html")
    assert "60 of 20,000 logged values" in page.text
    assert "mean of 50 logged values" in page.text
    assert len(page.source.encode()) < 400_000


def test_training_report_without_evaluations_draws_the_training_loss(tmp_path):
    tuned = write_tuned(tmp_path / "t", evaluations=[], best=None, stopped_early=False, resumed_from=None)
    page = page_of(reports.write_training_report, tuned, file=tmp_path / "page.html")
    assert page.tags.count("svg") == 2
    assert "validation" not in page.text
    assert "Resumed" not in page.text


def test_data_report_counts_rows_cuts_and_findings(data, tmp_path):
    page = page_of(reports.write_data_report, data, file=tmp_path / "page.html")
    assert "rows 41,377 400 400" in page.text
    assert "truncated to 1,024 tokens 618 0 3" in page.text
    assert "95 % of rows up to 611 611 611" in page.text
    assert "41.2 %" in page.text  # 87 of 211
    assert "rows that occur more than once DATA-W0501 · first rows: 17, 408, 409, 1033, 2048 1,312" in page.text
    assert "byte order mark" in page.text


def test_data_report_counts_the_rows_of_each_source_of_a_mixture(tmp_path):
    data = write_data(tmp_path / "mixed", sources={"a.jsonl": 300, EVIL: 700})
    text = page_of(reports.write_data_report, data, file=tmp_path / "page.html").text
    for words in ("Sources of the training rows", "a.jsonl 300 30.0 %", "700 70.0 %"):
        assert words in text
    data = write_data(tmp_path / "one", sources={})
    assert "Sources of the training rows" not in page_of(reports.write_data_report, data, file=tmp_path / "2.html").text


def test_data_report_greys_what_carries_no_loss(data, tmp_path):
    page = page_of(reports.write_data_report, data, file=tmp_path / "page.html")
    assert '<span class="learned">Paris &amp; Rome&lt;|im_end|&gt;</span>' in page.source
    assert '<span class="unlearned">&lt;|im_start|&gt;user\n&lt;script&gt;' in page.source


def test_plan_report_names_what_was_set_and_what_was_left_alone(run, tmp_path):
    page = page_of(reports.write_plan_report, run["plan"], file=tmp_path / "page.html")
    chosen, others = page.text.split("Parameters set for this run")[1].split("parameters at their default")
    assert "lora_r 16" in chosen
    assert "weight_decay" not in chosen  # its default
    assert "optim adamw_torch requested: adamw_hf" in others
    for told in ("4 × nvidia.com/gpu", "14.0 GiB", "72.0 GiB", "2.3 GiB", "4e20de362430", "deepspeed is ignored"):
        assert told in page.text


def test_a_run_without_anything_says_so_in_each_section(tmp_path):
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    reports.write_run_report(nothing, nothing, tmp_path / "run.html")
    page = Page(tmp_path / "run.html")
    assert "No verdict" in page.text
    for missing in ("metrics.json", "history.json", "manifest.json", "plan.json"):
        assert f"has no {missing}" in page.text


def test_facts_that_are_almost_empty_make_a_page_too(tmp_path):
    inputs = {
        "training": history(points=[], evaluations=[], best=None, parameters=None, seconds=None),
        "data": data_facts(splits={"train": {"rows": 3}}, repairs=[], warnings=[], samples=[]),
    }
    with new_artifact(tmp_path / "evaluation", "evaluation") as draft:
        (draft / "metrics.json").write_text('{"gate": {}}')
        (draft / "inputs.json").write_text(json.dumps(inputs))
    run = {
        "plan": write_plan(
            tmp_path / "plan", memory=None, tasks=[], arithmetic=[], sources=[], requested={}, effective={}
        ),
        "evaluation": tmp_path / "evaluation",
    }
    report(**run, report=tmp_path / "run.html")
    page = Page(tmp_path / "run.html")
    assert "has no metrics" in page.text
    assert "has no logged loss" in page.text
    assert "has no predictions.parquet" in page.text
    assert "None" not in page.text


def test_equal_facts_give_equal_bytes(run, tmp_path):
    report(**run, report=tmp_path / "first.html")
    report(**run, report=tmp_path / "second.html")
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


@pytest.mark.parametrize("name", ["plan", "evaluation"])
def test_step_refuses_a_folder_of_another_kind(run, data, tmp_path, name):
    run[name] = data
    with pytest.raises(UserError, match="ARTIFACT-E0102"):
        report(**run, report=tmp_path / "run.html")


def test_step_says_that_an_artifact_is_gone(run, tmp_path):
    (run["evaluation"] / "inputs.json").unlink()
    with pytest.raises(Outage, match=r"inputs\.json"):
        report(**run, report=tmp_path / "run.html")


def test_importing_reports_loads_neither_jinja2_nor_matplotlib():
    heavy = "jinja2", "matplotlib", "pyarrow", "torch", "pydantic"
    code = f"import sys, steps.reports, steps.reports.step; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_charts_load_no_pyplot(tmp_path):
    tuned = write_tuned(tmp_path / "tuned")
    code = (
        "import sys; from pathlib import Path; from steps.reports import write_training_report; "
        f"write_training_report(Path({str(tuned)!r}), Path({str(tmp_path / 'page.html')!r})); "
        "print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["True", "False", "False"]


def test_length_limit_far_from_every_row_is_not_drawn(tmp_path):
    near = page_of(reports.write_data_report, write_data(tmp_path / "near"), file=tmp_path / "near.html")
    far = page_of(reports.write_data_report, write_data(tmp_path / "far", max_length=32768), file=tmp_path / "far.html")
    assert "rows are truncated at 1,024 tokens" in near.text
    assert "var(--second)" in near.source.split("<svg")[1]
    assert "32,768 tokens" in far.text
    assert "rows are truncated at" not in far.text
    assert "var(--second)" not in far.source.split("<svg")[1]


def test_plan_report_does_not_call_an_equal_value_another_one(tmp_path):
    plan = write_plan(
        tmp_path / "p",
        requested={"num_train_epochs": 2, "precision": 16},
        effective={"num_train_epochs": 2.0, "precision": "16"},
    )
    page = page_of(reports.write_plan_report, plan, file=tmp_path / "page.html")
    assert "num_train_epochs 2 precision 16" in page.text
    assert "requested:" not in page.text


def test_a_section_stands_behind_that_of_the_artifact_it_reads(run, tmp_path, monkeypatch):
    folder = tmp_path / "more"
    folder.mkdir()
    (folder / "costs.py").write_text(
        "from steps.reports.page import Section\nREADS = 'plan'\n"
        "def section(folder):\n    return Section('costs', 'Costs', missing='No price is given.')\n"
    )
    monkeypatch.setattr(sections, "__path__", [*sections.__path__, str(folder)])
    report(**run, report=tmp_path / "run.html")
    page = Page(tmp_path / "run.html")
    assert [name for name in page.ids if name in ("plan", "costs")] == ["plan", "costs"]
    assert "No price is given." in page.text
