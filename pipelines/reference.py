"""Descriptions of all parameters: as text, as the page in docs/, and as JSON Schema for configuration files."""

from __future__ import annotations

import textwrap
from typing import Any

from pipelines.catalog import PIPELINES, Published
from steps.params.group import Group, old_names
from steps.params.pipeline import PipelineParameters
from steps.params.reading import choices_of, default_of


def groups_of(model: type[PipelineParameters]) -> list[tuple[type[Group], list[str]]]:
    """Return the groups of a pipeline's parameters in the order of declaration, each with its own fields."""
    found = []
    for group in reversed(model.__mro__):
        own = [name for name in vars(group).get("__annotations__", {}) if name in model.model_fields]
        if issubclass(group, Group) and own:
            found.append((group, own))
    return found


def as_text(published: Published) -> str:
    """Format the parameters for a terminal."""
    lines = [f"{published.name}: {published.summary}"]
    for group, names in groups_of(published.parameters):
        lines += ["", f"{_title(group)}"]
        for name in names:
            field = published.parameters.model_fields[name]
            lines.append(f"  {name} ({_kind(field)}) = {default_of(field)!r}")
            lines += textwrap.wrap(field.description or "", 100, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines)


def as_markdown() -> str:
    """Return the reference page of all pipelines; parameters shared by all tuning pipelines are listed once."""
    lines = [
        "# Parameters",
        "",
        "Generated from `steps/params/` by `make docs`; do not edit. Every pipeline also accepts them in `overrides`.",
    ]
    shared = _shared_groups()
    for group, names in shared:
        lines += _table(f"{_title(group)} (every pipeline that tunes a model)", group, names)
    for published in PIPELINES.values():
        told = dict(shared) if published.trains else {}
        own = [(group, names) for group, names in groups_of(published.parameters) if group not in told]
        lines += ["", f"## {published.name}", "", published.summary]
        for group, names in own:
            lines += _table(_title(group), group, names)
    return "\n".join(lines) + "\n"


def schema(model: type[PipelineParameters]) -> dict[str, Any]:
    """Return the JSON Schema of a configuration file, for editors that check YAML."""
    made = model.model_json_schema()
    properties = made["properties"]
    for old, name in old_names(model).items():
        properties[old] = {**properties[name], "description": f"Another name of {name}.", "deprecated": True}
    properties["pipeline"] = {"type": "string", "description": "The pipeline that this file is for."}
    return made


def _shared_groups() -> list[tuple[type[Group], list[str]]]:
    models = [published.parameters for published in PIPELINES.values() if published.trains]
    return [
        (group, names) for group, names in groups_of(models[0]) if all(issubclass(model, group) for model in models)
    ]


def _table(title: str, group: type[Group], names: list[str]) -> list[str]:
    rows = ["", f"### {title}", "", "| parameter | type | default | meaning |", "|---|---|---|---|"]
    for name in names:
        field = group.model_fields[name]
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| `{name}` | {_kind(field)} | `{default_of(field)!r}` | {meaning} |")
    return rows


def _title(group: type[Group]) -> str:
    return (group.__doc__ or group.__name__).split("\n")[0].rstrip(".")


def _kind(field: Any) -> str:
    if choices := choices_of(field):
        return ", ".join(choices)
    kind = getattr(field.annotation, "__origin__", None) or field.annotation
    bounds = [
        f"{sign} {getattr(rule, key)}"
        for rule in field.metadata
        for key, sign in (("ge", "≥"), ("gt", ">"), ("le", "≤"), ("lt", "<"))
        if getattr(rule, key, None) is not None
    ]
    return " ".join([kind.__name__, *bounds])


if __name__ == "__main__":
    print(as_markdown(), end="")
