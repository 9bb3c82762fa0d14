"""Open the sources of a split in a test, and return rows and notes."""

import json

import pytest
from data_cases import assert_six_parts

from steps.errors import StepError
from steps.params.data import DataSource
from steps.prepare_data.findings import Findings
from steps.prepare_data.read.reading import detect, read_rows
from steps.prepare_data.read.sources import open_source


def rows(*texts):
    return "".join(json.dumps({"text": text}) + "\n" for text in texts)


class Told(list):
    """What was noted: (code, sentence)."""

    def __call__(self, code, what):
        self.append((code, what))

    @property
    def codes(self):
        return [code for code, _ in self]


def open_all(scratch, split="train", **given):
    told = Told()
    return open_source(split, DataSource(**given), scratch / "scratch", told), told


def read_source(file, wanted, findings):
    """Yield (record, line, row) of an opened file."""
    return read_rows(file, detect(file, findings), wanted, findings)


def texts_of(files):
    """Read every file; give its texts by the user's name for it."""
    found = {}
    for file in files:
        findings = Findings(file.name)
        found[file.name] = [row["text"] for _, _, row in read_source(file, {"text_key": "text"}, findings)]
        assert findings.problems == []
    return found


def refused(scratch, split="train", **given):
    with pytest.raises(StepError) as caught:
        open_all(scratch, split, **given)
    for problem in caught.value.problems:
        assert_six_parts(str(problem))
        assert "scratch" not in str(problem)
    return caught.value


def table(tmp_path, text, **files):
    folder = tmp_path / "table"
    folder.mkdir(exist_ok=True)
    (folder / "MLTable").write_text(text)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return str(folder)
