"""The report of a sweep: its numbers are those of sweep.json, texts are escaped, no external file, odd sweeps too."""

import copy
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from sweep_results import FINAL, LONG, REASON, SPACE, grid_sweep, random_sweep, sweep, trial, write_sweep

from steps import reports
from steps.reports.formats import parameter

EVIL = "<script>alert('x')</script>\"><img src=x>"
NAMES = ["learning_rate", "lora_r"]


class Page(HTMLParser):
    """The texts of a page, those of its charts, its tags and addresses, and the cells of the tables."""

    def __init__(self, file: Path):
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.drawn: list[str] = []
        self.rows: list[list[str]] = []
        self.labels: list[str] = []
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in ("meta", "br", "wbr"):
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "xlink:href", "data", "action", "srcset"):
                self.addresses.append(value)
            if name == "aria-label":
                self.labels.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self._open.pop()

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if "style" in self._open:
            return
        self.words.append(data)
        if "svg" in self._open:
            self.drawn.append(data)
        if {"td", "th"} & set(self._open):
            self.rows[-1][-1] += data

    def trials(self) -> list[list[str]]:
        """Return the rows of the table of trials, in the order of the page."""
        states = {"best", "finished", "failed", "pruned", "running", "waiting"}
        rows = [row for row in self.rows if len(row) > 5 and row[1] in states]
        return rows[: len({row[0] for row in rows})]


@pytest.fixture
def page(tmp_path):
    def write(facts: dict, finished: bool = True) -> Page:
        reports.write_sweep_report(write_sweep(tmp_path / "sweep", facts, finished), tmp_path / "sweep.html")
        return Page(tmp_path / "sweep.html")

    return write


def test_the_head_names_the_best_trial_the_test_rows_and_the_version(page):
    facts = grid_sweep()
    best = facts["trials"][facts["best"]]
    told = page(facts).text
    for words in (
        "Sweep dates",
        "Passed",
        f"Trial {best['number']} is the best: learning_rate 0.0002, lora_r 16; exact match {best['score']:.4f}",
        "8 finished of 8 trials.",
        "On the test rows: exact match 0.1250 (base) → 0.9375 (tuned).",
        "exact_match of the tuned model beats the base model's.",
        "Registered as version 3 of dates-best (models:/dates-best@champion).",
    ):
        assert words in told


@pytest.mark.parametrize(
    ("final", "told"),
    [
        (None, "Finished"),
        ({**FINAL, "registered": None}, "No version is registered."),
        ({**FINAL, "gate": {**FINAL["gate"], "passed": False, "reason": "Not passed: worse"}}, "Not passed"),
        ({"metrics": FINAL["metrics"], "gate": {}, "registered": None}, "The best trial on the test rows"),
    ],
)
def test_the_head_with_and_without_a_gate(page, final, told):
    shown = page(grid_sweep(final=final))
    assert told in shown.text
    assert ("On the test rows: " in shown.text) == bool(final and final["gate"])


def test_the_table_has_every_trial_best_first_failed_last(page):
    facts = random_sweep(20, [*NAMES, "weight_decay"], {3: "failed", 7: "failed", 9: "pruned", 12: "pruned"})
    rows = page(facts).trials()
    done = sorted((entry for entry in facts["trials"] if entry["state"] == "finished"), key=lambda e: -e["score"])
    assert [row[0] for row in rows] == [*(str(entry["number"]) for entry in done), "9", "12", "3", "7"]
    assert [row[1] for row in rows] == ["best", *["finished"] * 15, "pruned", "pruned", "failed", "failed"]
    for row, entry in zip(rows, done, strict=False):
        assert row[2] == f"{entry['score']:.4f}"
        assert row[3:6] == [parameter(value) for value in entry["parameters"].values()]
        assert "".join(row).count(f"{entry['tokens']:,}") == 1
    assert REASON in rows[-1][-1]


def test_lower_is_better_turns_the_order_round(page):
    facts = random_sweep(9, NAMES, higher_is_better=False)
    scores = [entry["score"] for entry in facts["trials"]]
    facts["best"] = scores.index(min(scores))
    assert [row[2] for row in page(facts).trials()] == [f"{score:.4f}" for score in sorted(scores)]


def test_a_running_sweep_says_so_and_needs_no_manifest(page):
    shown = page(random_sweep(8, NAMES, {5: "running", 6: "running", 7: "waiting"}), finished=False)
    assert "Running" in shown.text
    assert "5 finished, 2 running, 1 waiting of 8 trials." in shown.text
    assert "is the best so far" in shown.text
    assert "was not finished when this page was written" in shown.text


def test_all_failed_says_why_once(page):
    failed = [
        trial(n, {"learning_rate": 1e-3, "lora_r": n + 1}, "failed", reason=LONG.replace("40", str(n)))
        for n in range(5)
    ]
    other = trial(5, {"learning_rate": 1e-3, "lora_r": 9}, "failed", reason="The disk is full.")
    shown = page(sweep([*failed, other], NAMES))
    assert "Failed All 6 trials failed: FINETUNE-E0301 The loss became infinite at step 0" in shown.text
    assert "5 trials: 0, 1, 2, 3, 4; the numbers in the reason are those of the first" in shown.text
    assert "Trial 5" in shown.text
    assert shown.text.count(LONG.replace("40", "3")) == 1  # whole in the fold of its row
    assert len(shown.labels) == 1  # only the curves are drawn


def test_every_chart_is_drawn_with_its_ticks(page):
    shown = page(grid_sweep(importance={"learning_rate": 0.75, "lora_r": 0.25}))
    assert shown.labels == [
        "one line per trial over its parameters and its score", "exact_match over learning_rate",
        "exact_match over lora_r", "validation loss of each trial over steps",
    ]  # fmt: skip
    for tick in ("1e-5", "5e-5", "2e-4", "0.001", "8", "16", "trial 5"):
        assert tick in shown.drawn
    assert "75.0 %" in shown.text
    assert "fANOVA" in shown.text


def test_no_importance_no_section(page):
    assert "fANOVA" not in page(grid_sweep(importance={})).text


def test_exact_values_are_behind_the_charts(page):
    facts = random_sweep(5, ["learning_rate"])
    cells = {cell for row in page(facts).rows for cell in row}
    for entry in facts["trials"]:
        assert repr(entry["parameters"]["learning_rate"]) in cells
        assert f"{entry['curve'][0][1]:.4f}" in cells


def test_cost(page):
    text = page(grid_sweep(cost={"trainings": 8, "preparations": 1, "steps": 12345, "seconds": 3725.0})).text
    for words in ("trainings 8", "preparations of the data 1", "optimizer steps 12,345", "training time 1 h 2 min"):
        assert words in text


@pytest.mark.parametrize(
    "place", ["name", "metric", "parameter", "value", "listed", "reason", "curve", "gate", "version"]
)
def test_texts_from_everywhere_show_as_text(page, place):
    facts = copy.deepcopy(grid_sweep())
    entry = facts["trials"][facts["best"]]
    match place:
        case "name":
            facts["name"] = EVIL
        case "metric":
            facts["metric"] = EVIL
        case "parameter":
            facts |= {"varied": [EVIL], "space": {EVIL: [1, 2]}}
            for one in facts["trials"]:
                one["parameters"] = {EVIL: one["number"] % 2}
        case "value" | "listed":
            entry["parameters"]["lora_r"] = EVIL if place == "value" else [EVIL]
        case "reason":
            facts["trials"][0] |= {"state": "failed", "score": None, "reason": EVIL}
        case "curve":
            for one in facts["trials"]:
                one["curve_metric"] = EVIL
        case "gate":
            facts["final"]["gate"]["reason"] = EVIL
        case "version":
            facts["final"]["registered"]["name"] = EVIL
    shown = page(facts)
    assert "<script" not in shown.source
    assert "<img" not in shown.source
    assert "alert('x')" in shown.text


def test_a_formula_in_a_value_is_drawn_as_text(page):
    trials = [trial(n, {"template": text}) for n, text in enumerate(("$x^2$", "$\\frac{", "a_b"))]
    shown = page(sweep(trials, ["template"]))
    assert {"$x^2$", "$\\frac{", "a_b"} <= set(shown.drawn)


def test_the_page_loads_nothing_and_runs_nothing(page):
    shown = page(random_sweep(12, list(SPACE), {3: "pruned", 4: "failed"}))
    assert all(address.startswith("#") for address in shown.addresses)
    assert not set(shown.tags) & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    styles = re.search(r"<style>(.*?)</style>", shown.source, re.DOTALL).group(1)
    assert "@import" not in styles
    assert "url(" not in styles
    ids = re.findall(r' id="([^"]*)"', shown.source)
    assert len(ids) == len(set(ids))


def test_no_colour_is_left_from_the_drawing(page):
    shown = page(random_sweep(30, list(SPACE), {3: "pruned", 4: "failed", 5: "running"}))
    drawings = "".join(re.findall(r"<svg.*?</svg>", shown.source, re.DOTALL))
    assert re.findall(r"#(0[0-9a-f])\1\1\b", drawings) == []
    variables = set(re.findall(r"var\((--[\w-]+)\)", shown.source))
    light, dark = re.findall(r":root \{(.*?)\}", shown.source, re.DOTALL)
    for variable in variables - {"--mono"}:
        assert f"{variable}:" in light
        assert f"{variable}:" in dark


ODD = {
    "no trials": lambda: sweep([], []),
    "almost nothing": lambda: {"name": "x"},
    "trials with only a number": lambda: {"trials": [{"number": 0}, {"number": 1, "state": "finished"}]},
    "one trial": lambda: sweep([trial(0, {"learning_rate": 1e-4})], ["learning_rate"]),
    "one trial that varies nothing": lambda: sweep([trial(0, {})], []),
    "one parameter": lambda: random_sweep(9, ["learning_rate"]),
    "eight parameters": lambda: random_sweep(12, list(SPACE)),
    "64 trials": lambda: random_sweep(64, list(SPACE)[:6], {3: "failed", 9: "pruned"}),
    "constant scores": lambda: changed(random_sweep(8, NAMES), score=0.5),
    "scores of zero": lambda: changed(random_sweep(8, NAMES), score=0),
    "no finite score": lambda: changed(random_sweep(8, NAMES), score=math.nan),
    "infinite scores": lambda: changed(random_sweep(8, NAMES), {2: math.inf, 3: -math.inf}),
    "a huge loss": lambda: changed(random_sweep(8, NAMES), {2: 1e30}),
    "no curves": lambda: changed(random_sweep(8, NAMES), curve=[]),
    "null curves": lambda: changed(random_sweep(8, NAMES), curve=None),
    "curves of one point": lambda: changed(random_sweep(8, NAMES), curve=[[10, 2.5]]),
    "curves that are not finite": lambda: changed(
        random_sweep(8, NAMES), curve=[[10, 2.5], [20, math.nan], [30, None]]
    ),
    "curves of thousands of steps": lambda: changed(
        random_sweep(8, NAMES), curve=[[step, 1 / step] for step in range(1, 5000)]
    ),
    "no space": lambda: random_sweep(8, list(SPACE), space={}),
    "conditional parameters": lambda: sweep(
        [trial(n, {"lora_r": 4 * n} if n % 2 else {"optim": "lion"}) for n in range(6)], ["lora_r", "optim"]
    ),
    "null and mixed values": lambda: sweep(
        [trial(n, {"x": value}) for n, value in enumerate((None, 1, 0.5, "auto", True, ["a"], {"b": 1}, ""))], ["x"]
    ),
    "equal values": lambda: sweep([trial(n, {"lora_r": 8, "x": 0.0}) for n in range(4)], ["lora_r", "x"]),
    "numbers from negative to large": lambda: sweep(
        [trial(n, {"x": value}) for n, value in enumerate((-1e9, -1, 0, 1e-9, 2**62))], ["x"], space={}
    ),
    "a space on a log scale from zero": lambda: sweep(
        [trial(n, {"x": n}) for n in range(4)], ["x"], space={"x": {"low": 0, "high": 9, "log": True}}
    ),
    "forty categories": lambda: sweep([trial(n, {"x": f"a long category {n}"}) for n in range(40)], ["x"]),
    "a long name": lambda: sweep([trial(n, {"a_very_long_name_" * 9: n}) for n in range(4)], ["a_very_long_name_" * 9]),
    "many metrics": lambda: changed(random_sweep(4, NAMES), metrics={f"metric_{n}": n / 8 for n in range(12)}),
    "only pruned": lambda: random_sweep(4, NAMES, dict.fromkeys(range(4), "pruned")),
    "only waiting": lambda: random_sweep(4, NAMES, dict.fromkeys(range(4), "waiting")),
}  # fmt: skip


def changed(facts: dict, scores: dict[int, float] | None = None, **changes: object) -> dict:
    for entry in facts["trials"]:
        entry |= copy.deepcopy(changes)
        entry["score"] = (scores or {}).get(entry["number"], entry["score"])
    return facts


@pytest.mark.parametrize("entry", [[1, 2, 4, 16], {"choices": [1, 2, 4, 16]}], ids=["list", "choices"])
def test_listed_numbers_are_numbers_with_ticks_at_the_list(page, entry):
    trials = [trial(n, {"x": value}) for n, value in enumerate((2, 4))]
    shown = page(sweep(trials, ["x"], space={"x": entry}))
    drawn = [text for text in shown.drawn if text in ("1", "2", "4", "16")][:8]  # without the ticks of the curves
    assert drawn == ["1", "2", "4", "16"] * 2  # beside the axis, and below the scatter


@pytest.mark.parametrize("name", ODD)
def test_odd_sweeps_make_a_page(page, name):
    shown = page(ODD[name](), finished=False)
    assert "Sweep" in shown.text
    words = shown.text.replace("None of", "")
    for wrong in ("None", "nan", "inf ", "undefined", "Undefined"):
        assert wrong not in words, words
    assert len(shown.source) < 500_000


def test_a_folder_without_sweep_json_says_so(tmp_path):
    reports.write_sweep_report(tmp_path, tmp_path / "sweep.html")
    assert "has no sweep.json" in (tmp_path / "sweep.html").read_text()


def test_equal_facts_give_equal_bytes(tmp_path):
    folder = write_sweep(tmp_path / "sweep", json.loads(json.dumps(random_sweep(9, NAMES))))
    for name in ("first", "second"):
        reports.write_sweep_report(folder, tmp_path / f"{name}.html")
    assert (tmp_path / "first.html").read_bytes() == (tmp_path / "second.html").read_bytes()


def test_pruned_trials_are_crosses_only_where_their_curve_shows_the_metric(page, tmp_path):
    facts = random_sweep(9, NAMES, {2: "pruned"})
    assert "last value of its curve" not in page(facts).text
    facts |= {"metric": "loss", "higher_is_better": False}
    reports.write_sweep_report(write_sweep(tmp_path / "loss", facts), tmp_path / "loss.html")
    assert "last value of its curve" in Page(tmp_path / "loss.html").text
