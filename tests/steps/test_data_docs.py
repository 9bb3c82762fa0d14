"""The rows in docs/data.md are valid."""

import re
from pathlib import Path

import pytest
from checking import check_data

from steps.errors import UserError
from steps.tasks import TASKS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
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
        with pytest.raises(UserError) as error:  # rows that are all equal cannot be split: the only thing wrong here
            check_data(task, file)
        assert [problem.code for problem in error.value.problems] == ["DATA-E0701"]
        assert f"training rows of {12 * len(kind)} after" in str(error.value)
