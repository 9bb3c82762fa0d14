"""Charts of confusion matrix and ROC curves: their content, and that names from the data are shown as plain text."""

import html
import re
import warnings
import xml.etree.ElementTree as ET

import pytest

from steps.reports.charts import CLASSES_DRAWN, confusion_matrix, roc_curve


def texts(chart) -> list[str]:
    return [html.unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", chart.svg)]


def cells(chart) -> list[tuple[str, float]]:
    """Colour and depth of every filled cell, row by row."""
    styles = (path.get("style", "") for path in ET.fromstring(str(chart.svg)).iter("path"))
    found = [re.search(r"fill: var\((--\w+)\); opacity: ([\d.]+)", style) for style in styles]
    return [(cell[1], float(cell[2])) for cell in found if cell]


def test_a_matrix_shows_every_count_and_both_axes():
    chart = confusion_matrix(["good", "bad"], [[1040, 7], [0, 12]])
    assert texts(chart) == ["good", "bad", "predicted", "good", "bad", "true", "1,040", "7", "12"]
    assert chart.folded == 0


def test_a_cell_is_as_deep_as_its_share_of_its_row():
    right, wrong, other = cells(confusion_matrix(["good", "bad"], [[30, 10], [0, 5]]))
    assert (right[0], wrong[0], other[0]) == ("--first", "--second", "--first")
    assert right[1] == pytest.approx(0.06 + 0.44 * 0.75)
    assert wrong[1] == pytest.approx(0.06 + 0.44 * 0.25)
    assert other[1] == pytest.approx(0.5)


def test_of_many_classes_the_most_mistaken_are_drawn():
    size = 50
    counts = [[100 if row == column else 0 for column in range(size)] for row in range(size)]
    counts[41][7] = 9  # the only mistake: both classes must be seen
    chart = confusion_matrix([f"class {number}" for number in range(size)], counts)
    assert chart.folded == size - CLASSES_DRAWN + 1
    shown = texts(chart)
    assert {"class 41", "class 7", f"{chart.folded} others"} <= set(shown)
    assert len(shown) == 2 * CLASSES_DRAWN + 2  # names and axes, no counts
    assert [colour for colour, _ in cells(chart)].count("--second") == 1


def test_names_out_of_the_data_stay_what_they_are():
    names = ["$x^2$", "<script>", "#010101", ' id="a"', " font-family: x;", "日本語", "two\nlines", "n" * 40]
    counts = [[int(row == column) for column in range(len(names))] for row in range(len(names))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        chart = confusion_matrix(names, counts)
    assert texts(chart)[:8] == [
        "$x^2$", "<script>", "#010101", 'id="a"', "font-family: x;", "日本語", "two lines", "n" * 17 + "…"
    ]  # fmt: skip
    assert "<script" not in chart.svg
    assert not re.search(r"#0\d0\d0\d(?!<)", chart.svg.replace(">#010101<", ">name<"))


def curve(auc: float) -> dict:
    return {"fpr": [0, 0, 1], "tpr": [0, auc, 1], "auc": auc}


def lines(chart) -> list[str]:
    """Colours of the curves, in the order in which they are drawn."""
    return [
        name for name in re.findall(r"stroke: var\((--\w+)\)", chart.svg) if name in ("--first", "--second")
    ]  # fmt: skip


def test_the_class_that_is_told_apart_worst_is_drawn_last_in_its_own_colour():
    chart = roc_curve({"a": curve(0.9), "b": curve(0.6), "c": curve(0.8)})
    assert chart.highlighted == "b"
    assert lines(chart) == ["--first", "--first", "--second"]
    assert "false positive rate" in texts(chart)


def test_of_two_classes_one_curve_is_drawn():
    chart = roc_curve({"bad": curve(0.9), "good": curve(0.8)})
    assert chart.highlighted == ""
    assert lines(chart) == ["--first"]
    points = re.search(r'd="([^"]*)"[^>]*stroke: var\(--first\)', chart.svg)[1]
    second = [float(pair) for pair in re.findall(r"[ML] [\d.]+ ([\d.]+)", points)]
    assert (second[0] - second[1]) / (second[0] - second[-1]) == pytest.approx(0.8, abs=0.001)


def test_drawings_of_two_models_share_no_id():
    for draw, facts in ((confusion_matrix, (["a", "b"], [[1, 2], [3, 4]])), (roc_curve, ({"a": curve(0.7)},))):
        drawings = [draw(*facts, of=model).svg for model in ("of the base model", 'of the "tuned" model')]
        ids = [set(re.findall(r' id="([^"]*)"', svg)) for svg in drawings]
        assert all(ids)
        assert not ids[0] & ids[1]
        assert "model" in ET.fromstring(str(drawings[1])).get("aria-label")


def test_equal_facts_give_equal_bytes():
    for draw, facts in ((confusion_matrix, (["a", "b"], [[1, 2], [3, 4]])), (roc_curve, ({"a": curve(0.7)},))):
        assert draw(*facts).svg == draw(*facts).svg
