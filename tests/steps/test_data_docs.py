"""The rows in docs/data.md are valid."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
from checking import check_data

from steps.errors import UserError
from steps.params.chat_columns import RowForm
from steps.tasks import TASKS, learns, load_task
from steps.tasks.forms import row_reader
from steps.tasks.forms.table import FORMS as TASKS_WITH_FORMS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
FORMS = {
    task: re.findall(r"^\| `(\w+)` \| `(\{.*\})` \|$", table, re.MULTILINE)
    for task, table in re.findall(r"<!-- forms of (\w+) -->\n((?:\|.*\n)+)", PAGE)
}
EXAMPLES = re.findall(r"^### (\w+)\n[^#]*?```json\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)


def test_every_task_is_shown():
    assert [name for name, _ in EXAMPLES] == re.findall(r"^### (\w+)$", PAGE, re.MULTILINE)
    assert {name for name, _ in EXAMPLES} == set(TASKS)


@pytest.mark.parametrize(("task", "rows"), EXAMPLES)
def test_the_rows_of_the_page_are_good(tmp_path, task, rows):
    lines = rows.splitlines()
    kinds = [lines] if task in ("text_classification", "reranking", "kto") else [[line] for line in lines]
    for number, kind in enumerate(kinds):
        file = tmp_path / f"{number}.jsonl"
        file.write_text("\n".join(kind * 12) + "\n")
        if not learns(task):
            assert check_data(task, file).counts == {"train": 12}
            continue
        with pytest.raises(UserError) as error:  # rows that are all equal cannot be split: the only thing wrong here
            check_data(task, file)
        assert [problem.code for problem in error.value.problems] == ["DATA-E0701"]
        assert f"training rows of {12 * len(kind)} after" in str(error.value)


@pytest.mark.parametrize(("task", "form", "row"), [(task, *row) for task, rows in FORMS.items() for row in rows])
def test_the_rows_of_each_form_are_read_in_this_form(task, form, row):
    module, columns = load_task(task), load_task(task).Columns()
    read = row_reader(task, columns).read(json.loads(row))
    assert read.form.name == form
    assert list(module.check_row(read.row, columns)) == []


def test_one_row_of_each_form_is_shown():
    assert list(FORMS) == list(TASKS_WITH_FORMS)
    shown = {form for rows in FORMS.values() for form, _ in rows}
    assert shown == set(get_args(RowForm)) - {"auto", "off"}
