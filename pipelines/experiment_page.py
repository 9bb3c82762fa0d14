"""docs/experiments.md: how an experiment file in sections is read, from the tables that read it."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.experiment_keys import DIRECT, FIXED, IGNORED, PEFT_KWARGS, PIPELINES
from pipelines.experiment_yaml import SPECIAL
from steps.errors import shown

INTRODUCTION = """\
# Experiment files in sections

Made from `pipelines/experiment_keys.py` by `make docs`; do not edit.

Experiments that were written for the Silogen finetuning engine run as they are:

```
finetune run chat_completion -f sft.yaml
finetune run preference -f dpo.yaml
```

Each key means a parameter of ours ([parameters.md](parameters.md)), which `-p` and flags overrule. What has no effect
here is told in a warning; an unknown key is refused with the nearest known one. Our own parameters may stand beside the
sections, such as `number_of_gpu_to_use_finetuning: 0`. See `examples/dates/sft.yaml` and `examples/manners/dpo.yaml`.
"""


def rows_of_table() -> Iterator[tuple[str, str]]:
    """Give every key that is just another name, with the parameter that it is."""
    for section, keys in DIRECT.items():
        for key, parameter in keys.items():
            yield f"{section}.{key}", parameter
    for key, parameter in PEFT_KWARGS.items():
        yield f"peft_conf.peft_kwargs.{key}", parameter


def as_markdown() -> str:
    """Write the page."""
    methods = ", ".join(f"`{method}` is the pipeline {pipeline}" for method, pipeline in PIPELINES.items())
    lines = [INTRODUCTION, f"`method`: {methods}.", ""]
    lines += ["| key | parameter |", "|---|---|", *(f"| `{key}` | `{name}` |" for key, name in rows_of_table()), ""]
    lines += ["## More than a name", "", "| key | what becomes of it |", "|---|---|"]
    lines += [f"| `{section}.{key}` | {(read.__doc__ or '').strip()} |" for (section, key), read in SPECIAL.items()]
    lines += ["", "## One value only", "", "| key | value | because |", "|---|---|---|"]
    for (section, key), (values, why) in FIXED.items():
        lines.append(f"| `{section}.{key}` | {', '.join(dict.fromkeys(map(shown, values)))} | {why} |")
    lines += ["", "## Without effect", "", "| key | because |", "|---|---|"]
    lines += [f"| `{section}.{key}` | {why} |" for section, keys in IGNORED.items() for key, why in keys.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
