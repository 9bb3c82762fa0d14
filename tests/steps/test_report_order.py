"""The order of the reports' pages: KFP's interface shows the first 390 pixels of a page beside another run's.

Verdict and main table are first, at most a dozen rows with nothing before them that may grow; long parts are folded.
"""

from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_artifacts import data_facts, history, write_data, write_evaluation, write_plan, write_tuned
from sweep_results import FINAL, SPACE, random_sweep, write_sweep

from steps import reports

MAIN = {"run": "table", "evaluation": "table", "plan": "table", "data": "table", "training": "dl", "sweep": "table"}
TASKS = ("plan", "import_model", "prepare_data", "finetune", "evaluate", "report", "register_model")
METRICS = ("loss", "perplexity", "bleu", "exact_match", "chrf", "rouge1", "rouge2", "rougeL", "word_f1")
ROWS = [(f"right {number}", "base", f"right {number}") for number in range(40)]


class Outline(HTMLParser):
    """What a page shows before a reader opens anything: (tag, text behind it) in order, and what is folded."""

    def __init__(self, file: Path):
        super().__init__()
        self.shown: list[tuple[str, str]] = []
        self.folded: list[tuple[str, str]] = []
        self.ids: dict[str, bool] = {}
        self.closed = 0
        self._closes: list[bool] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        given = dict(attrs)
        if tag == "details":
            self._closes.append("open" not in given)
            self.closed += self._closes[-1]
        (self.folded if self.closed else self.shown).append((tag, given.get("class") or ""))
        if "id" in given and tag == "section":
            self.ids[given["id"]] = bool(self.closed)

    def handle_endtag(self, tag: str) -> None:
        if tag == "details":
            self.closed -= self._closes.pop()

    def tags(self) -> list[str]:
        return [tag for tag, _ in self.shown]

    def before(self, *wanted: str) -> list[str]:
        """Return the tags that are shown before the first of `wanted`."""
        tags = self.tags()
        return tags[: min(tags.index(tag) for tag in wanted if tag in tags)]


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Outline]:
    """Every report, about a run with much to tell."""
    folder = tmp_path_factory.mktemp("pages")
    values = {name: number / 8 for number, name in enumerate(METRICS)}
    tasks = [{"task": name, "what": "what it does", "cpu": "4", "memory": "28Gi", "gpu_type": "", "gpu_count": "0",
              "node_pool": "any", "disk_bytes": 9**9, "why": "a reason " * 9, "more_disk": "2 MiB for each checkpoint"}
             for name in TASKS]  # fmt: skip
    splits = data_facts()["splits"] | {"test": {"rows": 3, "source": "test.jsonl"}}
    evaluation = write_evaluation(
        folder / "evaluation", ROWS, base=values, tuned=values,
        inputs={"base": {}, "training": history(), "data": data_facts(splits=splits)},
    )  # fmt: skip
    plan = write_plan(folder / "plan", tasks=tasks, warnings=[f"warning {number}" for number in range(9)])
    reports.write_run_report(plan, evaluation, folder / "run.html")
    reports.write_plan_report(plan, folder / "plan.html")
    reports.write_data_report(write_data(folder / "data"), folder / "data.html")
    reports.write_training_report(write_tuned(folder / "tuned"), folder / "training.html")
    reports.write_evaluation_report(evaluation, folder / "evaluation.html")
    many = random_sweep(64, list(SPACE), {3: "failed", 9: "pruned"}, final=FINAL)
    reports.write_sweep_report(write_sweep(folder / "sweep", many), folder / "sweep.html")
    return {name: Outline(folder / f"{name}.html") for name in MAIN}


@pytest.mark.parametrize("name", MAIN)
def test_the_verdict_and_the_main_table_are_first(pages, name):
    page = pages[name]
    before = page.before(MAIN[name])
    assert "h1" in before
    assert not {"ul", "figure", "h2", "h3", "nav", "details", "svg"} & set(before)
    assert before.count("p") <= 1
    if name != "training":  # its table of numbers tells how it ended
        badge = page.shown.index(("span", "badge"))
        assert badge < page.tags().index(MAIN[name])


@pytest.mark.parametrize("name", [name for name, main in MAIN.items() if main == "table"])
def test_the_main_table_is_short(pages, name):
    tags = pages[name].tags()
    table = tags[tags.index("table") :]
    table = table[: next(place for place, tag in enumerate(table) if tag in ("p", "h3", "details", "nav"))]
    rows = table.count("tr")
    if name == "plan":
        assert "small" not in table  # each would be a line of its own
    assert rows <= (6 if name in ("run", "evaluation") else 12), rows  # with the row of headings
    assert rows > 1


def test_metrics_that_do_not_fit_are_folded_and_the_gates_is_first(pages, tmp_path):
    file = tmp_path / "page.html"
    values = {name: number / 8 for number, name in enumerate(METRICS)}
    reports.write_evaluation_report(write_evaluation(tmp_path / "e", ROWS, base=values, tuned=values), file)
    text = file.read_text()
    assert "<summary>4 more metrics</summary>" in text
    places = [text.index(f'<th scope="row">{name.replace("_", " ")}') for name in METRICS]
    assert min(places) == places[METRICS.index("exact_match")]
    assert len(set(places)) == len(METRICS)


def test_a_run_shows_the_evaluation_and_folds_the_other_sections(pages):
    page = pages["run"]
    assert page.ids == {"evaluation": False, "training": True, "data": True, "plan": True}
    assert page.tags().count("details") == 0
    assert page.tags().index("nav") > page.tags().index("table")
    assert page.tags().count("table") == 1
    assert "article" not in page.tags()
    assert [tag for tag, _ in page.folded].count("article") == 10


@pytest.mark.parametrize(("name", "part"), [("evaluation", "article"), ("training", "td"), ("data", "sample")])
def test_samples_and_logged_values_are_folded(pages, name, part):
    assert any(part in (tag, kind) for tag, kind in pages[name].folded)
    assert not any(part in (tag, kind) for tag, kind in pages[name].shown if name != "training")


@pytest.mark.parametrize("name", [name for name in MAIN if name != "run"])
def test_folding_needs_no_script(pages, name):
    assert "script" not in pages[name].tags()
