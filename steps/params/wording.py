"""Messages in the words of the user: a parameter by the name that the pipeline has for it.

Shared code names the parameters of most pipelines. Where a pipeline has others in their place, its parameters say which
(`Group.names_told`), and errors are put into these words where they leave the plan (`steps/plan/deciding.py`) or a step
(`steps/running.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache

from steps.errors import Problem, StepError

EQUALS = "="
# Not in a path, a longer word, or quotation marks, which are around what stands in the user's files.
BEFORE, AFTER = r"(?<![\w./\-'\"])", r"(?![\w\-'\"]|[./]\w)"


def with_values(names: Mapping[str, str]) -> dict[str, str]:
    """Return names of parameters that have the same values, so that name=value can be told as well.

    {"top_p": "rollout_top_p"} → the same with {"top_p=": "rollout_top_p="}
    """
    return {**names, **{f"{name}{EQUALS}": f"{own}{EQUALS}" for name, own in names.items()}}


def in_words(text: str, names: Mapping[str, str]) -> str:
    """Replace names of parameters in a sentence; a key may be a name, a name with "=", or a whole phrase.

    A name without "=" is not replaced before one: the other parameter may count something else. One without "_" may be
    an ordinary word (temperature), so that it is replaced only before "=".
    """
    if not names:
        return text
    return _pattern(tuple(names)).sub(lambda found: names[found[0]], text)


@lru_cache(maxsize=8)
def _pattern(names: tuple[str, ...]) -> re.Pattern[str]:
    alone = [name for name in names if name.isidentifier() and "_" in name]
    others = [name for name in names if not name.isidentifier()]
    ends = {name: "" if name.endswith(EQUALS) else AFTER for name in others} | dict.fromkeys(alone, f"{AFTER}(?!=)")
    starts = {name: BEFORE if name[0].isalpha() else "" for name in ends}
    longest_first = sorted(ends, key=len, reverse=True)
    return re.compile("|".join(f"{starts[name]}{re.escape(name)}{ends[name]}" for name in longest_first) or r"(?!)")


def told(problem: Problem, names: Mapping[str, str]) -> Problem:
    """Return a problem in the user's words."""
    return replace(
        problem,
        where=names.get(problem.where) or in_words(problem.where, names),
        found=in_words(problem.found, names),
        expected=in_words(problem.expected, names),
        fix=in_words(problem.fix, names),
        why=in_words(problem.why, names),
    )


@contextmanager
def in_words_of(names: Mapping[str, str]) -> Iterator[None]:
    """Put every error that is raised inside into the user's words."""
    try:
        yield
    except StepError as error:
        if names:
            error.problems = [told(problem, names) for problem in error.problems]
            error.args = ("\n".join(map(str, error.problems)),)
            if notes := getattr(error, "__notes__", []):
                error.__notes__ = [in_words(note, names) for note in notes]
        raise
