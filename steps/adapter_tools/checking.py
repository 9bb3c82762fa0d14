"""Check whether an adapter fits a base, before it is merged or served."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from steps.adapters.fitting import Fit, described, judge
from steps.adapters.folders import Folder, open_adapter, open_base
from steps.adapters.vllm import differences, rank_of, sort_out
from steps.adapters.vllm_rules import rank_problems, vllm_problems
from steps.artifacts import Manifest, write_durably
from steps.errors import Problem, UserError

log = logging.getLogger("finetune")


def check_adapter(base: Path, adapter: Path, report: Path | None = None) -> None:
    """Log whether an adapter fits a base, and how it can be served; the same is written to report as JSON.

    Raises UserError with every problem if it does not fit.
    """
    checked(base, adapter, report)


def checked(base: Path, adapter: Path, report: Path | None = None) -> dict[str, Any]:
    """Check, log and return the result; see `check_adapter`."""
    tuned = open_adapter(adapter)
    if isinstance(tuned, Manifest):
        raise UserError(
            Problem("ADAPTER-E0205", f"adapter ({adapter})", "a fully tuned model", "an adapter",
                    "use it directly: it needs no base")
        )  # fmt: skip
    model = open_base(base)
    fit = judge(model, tuned)
    found = _findings(model, tuned, fit)
    if report:
        write_durably(report, json.dumps(found, indent=1, ensure_ascii=False))
    log.info(_as_text(found))
    if fit.problems:
        raise UserError(fit.problems)
    return found


def _findings(base: Folder, adapter: Folder, fit: Fit) -> dict[str, Any]:
    return {
        "fits": not fit.problems,
        "base": {"path": str(base.path), "architecture": (base.config.get("architectures") or ["unknown"])[0],
                 "digest": base.manifest.digest if base.manifest else ""},
        "adapter": {"path": str(adapter.path), "kind": described(adapter),
                    "digest": adapter.manifest.digest if adapter.manifest else ""},
        "same_base": fit.same_base,
        "modules": fit.modules,
        "replaced": fit.replaced,
        "vllm": _for_vllm(base, adapter, fit),
        "notes": fit.notes,
        "problems": [str(problem) for problem in fit.problems],
    }  # fmt: skip


def _for_vllm(base: Folder, adapter: Folder, fit: Fit) -> str:
    """Describe what is needed to serve the adapter beside its base with vLLM."""
    problems = list(vllm_problems(adapter))
    if not problems and fit.problems:
        return "not checked, because the adapter does not fit the base"
    if not problems:
        parts = sort_out(adapter)
        problems += [*rank_problems(adapter.where, rank_of(adapter, parts)), *differences(adapter, parts, base)]
    if problems:
        return f"merge it: found {problems[0].found}; vLLM needs {problems[0].expected}"
    return "as it is" if parts.is_ready else "after create-vllm-compatible-adapter"


def _as_text(found: dict[str, Any]) -> str:
    base, adapter = found["base"], found["adapter"]
    origin = {True: "this base, by its digest", False: "another base, by its digest",
              None: "not recorded"}[found["same_base"]]  # fmt: skip
    lines = [
        f"base     {base['path']}  {base['architecture']}",
        f"adapter  {adapter['path']}  {adapter['kind']}",
        f"origin   {origin}",
    ]
    if found["fits"]:
        modules = ", ".join(f"{count} {name}" for name, count in found["modules"].items()) or "none"
        lines.append(f"changes  {modules}")
        if found["replaced"]:
            lines.append(f"whole    {', '.join(found['replaced'])}")
    lines.append(f"vLLM     {found['vllm']}")
    lines += [f"WARNING {note}" for note in found["notes"]]
    lines.append("fits" if found["fits"] else f"does not fit: {len(found['problems'])} problems")
    return "\n".join(lines)
