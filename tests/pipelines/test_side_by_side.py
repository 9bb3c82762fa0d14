"""Tasks that run side by side: every line of the log and of the screen is whole, and every reused task is told."""

import logging
import sys
import threading
from contextlib import redirect_stdout

from kfp.local.logging_utils import local_logger_context

from pipelines.local import _CacheHits, _Output
from pipelines.log_file import INDENT
from steps.running import SHOWN

LINES = 300


def together(*work) -> None:
    threads = [threading.Thread(target=one) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_lines_of_two_tasks_stay_whole_in_the_log_and_on_the_screen(tmp_path, capsys):
    def task(name: str):
        def work() -> None:
            for number in range(LINES):
                print(f"{SHOWN if number % 2 else ''}{name} {number}", end="")
                print()

        return work

    screen = sys.stdout
    with open(tmp_path / "log.txt", "w") as file:
        output = _Output(file, print)
        with redirect_stdout(output):
            together(task("one"), task("two"))
        assert sys.stdout is screen
    log = (tmp_path / "log.txt").read_text().splitlines()
    shown = capsys.readouterr().out.splitlines()
    for name in ("one", "two"):
        assert [line for line in log if line.startswith(name)] == [f"{name} {number}" for number in range(LINES)]
        assert [line for line in shown if line.startswith(name)] == [f"{name} {n}" for n in range(1, LINES, 2)]
    assert len(log) == 2 * LINES
    assert len(shown) == LINES


def test_what_kfp_prints_of_one_task_hides_nothing_of_another(tmp_path):
    turn = threading.Barrier(2)

    def first() -> None:
        print("12:00:00.1 - INFO - Task 'one' outputs:")
        turn.wait()
        turn.wait()
        print(f"{INDENT}data: Dataset( name='data',")
        print("12:00:00.2 - INFO - the next")

    def second() -> None:
        turn.wait()
        print("a line of the second")
        turn.wait()

    with open(tmp_path / "log.txt", "w") as file, redirect_stdout(_Output(file, print)):
        together(first, second)
    log = (tmp_path / "log.txt").read_text()
    assert "a line of the second" in log
    assert "Dataset" not in log


def test_every_reused_task_is_told_while_kfp_changes_the_handlers(tmp_path, capsys):
    reused: list[str] = []
    root = logging.getLogger()
    before = root.level, list(root.handlers)

    def hits() -> None:
        for number in range(LINES):
            logging.info("Task trial-%d cache hit (key=abc); skipping execution.", number)

    def others() -> None:
        for _ in range(LINES):
            with local_logger_context():
                pass

    with open(tmp_path / "log.txt", "w") as file:
        output = _Output(file, print)
        with redirect_stdout(output), _CacheHits(reused, output.tell):
            together(hits, others, others)
    assert reused == [f"trial-{number}" for number in range(LINES)]
    shown = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line.startswith("▸")] == [f"▸ trial-{number}" for number in range(LINES)]
    assert (root.level, root.handlers) == before
