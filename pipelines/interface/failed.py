"""Errors of the Python interface: a run that failed, and the words of the command line said in those of Python."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.client.failures import problem_in
from steps.errors import Problem, StepError

FLAG = re.compile(r"(?<![\w/.-])--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)")
AFTER_F = re.compile(r" after -f\b")
COMMAND = re.compile(r"`finetune (plan|run|submit|schedule) (\w+)`")


class RunFailed(StepError):
    """A step of a run failed. `result` is the run up to there; `exit_code` and `problems` are those of its step."""

    def __init__(self, outcome: Mapping[str, Any], result: Any):
        super().__init__([problem_in(sentence) for sentence in outcome["problems"]], outcome.get("resume_from") or "")
        self.args = ("\n".join(outcome["problems"]),)
        self.exit_code = outcome["code"]
        self.retryable = outcome["retryable"]
        self.step = outcome["step"]
        self.result = result

    def _render_traceback_(self) -> list[str]:
        told = super()._render_traceback_()
        log = getattr(self.result, "log", None)
        return [*told, f"log: {log}"] if log and log.is_file() else told


class RunStopped(KeyboardInterrupt):
    """A run was stopped by an interrupt. `result` is the run up to there; None if it had not begun."""

    def __init__(self, told: str, result: Any = None):
        super().__init__(told)
        self.result = result

    def _render_traceback_(self) -> list[str]:
        return ["RunStopped:", str(self)]


@contextlib.contextmanager
def python_words() -> Iterator[None]:
    """Let errors name arguments of Python (`endpoint`) where they name flags of the command line (`--endpoint`)."""
    try:
        yield
    except RunFailed:
        raise
    except StepError as error:
        error.problems = [_in_python(problem) for problem in error.problems]
        error.args = ("\n".join(str(problem) for problem in error.problems),)
        raise


def _in_python(problem: Problem) -> Problem:
    return dataclasses.replace(problem, where=_words(problem.where), fix=_words(problem.fix))


def _words(text: str) -> str:
    text = COMMAND.sub(r"\1('\2', …)", text)
    return FLAG.sub(lambda found: found[1].replace("-", "_"), AFTER_F.sub("", text))
