"""The error of a failed run, also where the disk is too full for the step's record."""

import errno
import json

import pytest

from pipelines.local import _outcome, _Output
from pipelines.runs import _write
from steps.errors import OutOfResources, Problem

FULL = OutOfResources(Problem("DISK-E0102", "a", "b", "c", "d")).as_json("finetune")


def outcome(tmp_path, lines: list[str]) -> dict:
    with open(tmp_path / "log.txt", "w") as file:
        output = _Output(file, print)
        output.tail = lines
        return _outcome(tmp_path / "records", output, RuntimeError("Task finetune finished with status FAILURE"))


def test_an_empty_record_is_replaced_by_what_the_step_printed(tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "1-plan.json").write_text(json.dumps({"step": "plan", "error": None}))
    (tmp_path / "records" / "2-finetune.json").write_text("")
    assert outcome(tmp_path, ["text", json.dumps(FULL), '{"code": 1}', "[1]"]) == FULL


def test_a_record_wins_over_what_was_printed(tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "2-finetune.json").write_text(json.dumps({"step": "finetune", "error": FULL}))
    assert outcome(tmp_path, [json.dumps({**FULL, "code": 2})]) == FULL


def test_without_either_the_last_lines_are_told(tmp_path):
    (tmp_path / "records").mkdir()
    told = outcome(tmp_path, ["killed"])
    assert (told["code"], told["found"]) == (70, "killed")


WANTS = (
    "OpenBLAS error: Memory allocation still failed after 10 retries, giving up.",
    "MemoryError",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "  what():  Resource temporarily unavailable",
)


@pytest.mark.parametrize("line", WANTS)
def test_a_library_that_ends_a_process_for_want_of_memory_is_no_bug(tmp_path, line):
    (tmp_path / "records").mkdir()
    assert outcome(tmp_path, ["loading", line, ""])["code"] == 5


@pytest.mark.parametrize("failed", [True, False])
def test_a_result_that_a_full_disk_refuses_leaves_no_half_of_it(tmp_path, monkeypatch, failed):
    file = tmp_path / "result.json"

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    if failed:
        _write(file, "{}", failed)
    else:
        with pytest.raises(OSError, match=r"result\.json"):
            _write(file, "{}", failed)
    assert list(tmp_path.iterdir()) == []
