"""Writes docs/experiments.md: how an experiment file in sections is read; from the tables of experiment_keys.py."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.experiment_keys import DIRECT, FIXED, IGNORED, PEFT_KWARGS, PIPELINES
from pipelines.experiment_yaml import SPECIAL
from steps.errors import shown

INTRODUCTION = """\
# Experiment files in sections

Generated from `pipelines/experiment_keys.py` by `make docs`; do not edit.

Experiment files for the Silogen finetuning engine run without changes:

```
finetune run chat_completion -f sft.yaml
finetune run preference -f dpo.yaml
```

Each key sets one of our parameters ([parameters.md](parameters.md)); `-p` and flags override it. A key without effect
gives a warning; an unknown key is an error that suggests the nearest known key. Our own parameters, such as
`number_of_gpu_to_use_finetuning: 0`, can be written beside the sections. See `examples/dates/sft.yaml` and
`examples/manners/dpo.yaml`.
"""


def rows_of_table() -> Iterator[tuple[str, str]]:
    """Yield every key that sets a parameter to its value unchanged, with the parameter."""
    for section, keys in DIRECT.items():
        for key, parameter in keys.items():
            yield f"{section}.{key}", parameter
    for key, parameter in PEFT_KWARGS.items():
        yield f"peft_conf.peft_kwargs.{key}", parameter


def as_markdown() -> str:
    """Return the page as Markdown."""
    methods = ", ".join(f"`{method}` is the pipeline {pipeline}" for method, pipeline in PIPELINES.items())
    lines = [INTRODUCTION, f"`method`: {methods}.", ""]
    lines += ["| key | parameter |", "|---|---|", *(f"| `{key}` | `{name}` |" for key, name in rows_of_table()), ""]
    lines += ["## Converted keys", "", "| key | effect |", "|---|---|"]
    lines += [f"| `{section}.{key}` | {(read.__doc__ or '').strip()} |" for (section, key), read in SPECIAL.items()]
    lines += ["", "## Keys with one supported value", "", "| key | value | reason |", "|---|---|---|"]
    for (section, key), (values, why) in FIXED.items():
        lines.append(f"| `{section}.{key}` | {', '.join(dict.fromkeys(map(shown, values)))} | {why} |")
    lines += ["", "## Keys without effect", "", "| key | reason |", "|---|---|"]
    lines += [f"| `{section}.{key}` | {why} |" for section, keys in IGNORED.items() for key, why in keys.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
