"""The data sources for which verl 0.9.1 has a reward function, each with the rule by which it scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import orjson

from steps.errors import nearest
from steps.tasks.rules.json_text import from_json

Family = Literal["gsm8k", "math", "dapo", "numina", "code", "geometry", "search"]

# The families are named here; steps/rewards/by_source.py has the rule of each.
FAMILIES: Mapping[str, Family] = {
    "openai/gsm8k": "gsm8k",
    **dict.fromkeys(("lighteval/MATH", "DigitalLearningGmbH/MATH-lighteval", "HuggingFaceH4/MATH-500"), "math"),
    **dict.fromkeys(("math", "math_dapo", "math_dapo_reasoning"), "dapo"),
    **dict.fromkeys(
        ("numina_aops_forum", "numina_synthetic_math", "numina_amc_aime", "numina_synthetic_amc", "numina_cn_k12",
         "numina_olympiads"), "numina",
    ),
    **dict.fromkeys(("codecontests", "apps", "codeforces", "taco"), "code"),
    "hiyouga/geometry3k": "geometry",
    **dict.fromkeys(
        ("searchR1_nq", "searchR1_triviaqa", "searchR1_popqa", "searchR1_hotpotqa", "searchR1_2wikimultihopqa",
         "searchR1_musique", "searchR1_bamboogle"), "search",
    ),
}  # fmt: skip
STARTS: Mapping[str, Family] = {"aime": "dapo"}
"""Beginning of names → family, for every name that starts so."""
OBJECT_TRUTHS = "searchR1_"  # prefix of the sources whose rule takes an object; all others take a text
KNOWN = f"{', '.join(FAMILIES)}, aime…"
"""The names, for messages."""


def family_of(source: Any) -> Family | None:
    """Return the family of a data source; None for one that verl has no reward function for."""
    if not isinstance(source, str):
        return None
    return FAMILIES.get(source) or next((one for start, one in STARTS.items() if source.startswith(start)), None)


def like(source: str) -> str:
    """Return a hint at the known source that one resembles; empty without one."""
    return next((f"did you mean {name}?" for name in FAMILIES if source in name), nearest(source, FAMILIES))


def truth_for(source: str, truth: Any) -> Any:
    """Return a ground truth as verl's function for the source takes it: an object that a text holds is parsed."""
    if source.startswith(OBJECT_TRUTHS) and isinstance(truth, str) and truth.startswith("{"):
        try:
            return from_json(truth)
        except orjson.JSONDecodeError:
            return truth
    return truth
