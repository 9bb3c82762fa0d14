"""Generates docs/experiments.md from the tables with which experiment files are read."""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.experiment_keys import DIRECT, FIXED, IGNORED, PEFT_KWARGS, PIPELINES
from pipelines.experiment_yaml import SPECIAL
from steps.errors import shown

INTRODUCTION = """\
# Experiment files in sections

Generated from `pipelines/experiment_keys.py` by `make docs`; do not edit.

Experiment files written for the Silogen finetuning engine run unchanged:

```
finetune run chat_completion -f sft.yaml
finetune run preference -f dpo.yaml
finetune run batch_inference -f generate.yaml
```

Each key is read as a parameter of this project ([parameters.md](parameters.md)); `-p` and flags override it. A key
without effect gives a warning; an unknown key is refused, with the nearest known key as a hint. The file can also set
parameters of this project beside the sections, such as `number_of_gpu_to_use_finetuning: 0`. See
`examples/dates/sft.yaml`, `examples/manners/dpo.yaml` and `examples/counting/generate.yaml`.

A file with `model_conf` is a configuration of `generate`: `prompt_conf` is a parameter of batch_inference, and fields
of `hf_gen_params` that are parameters set these; the others stay in `hf_gen_params`.
"""


def rows_of_table() -> Iterator[tuple[str, str]]:
    """Yield every key that is only another name of a parameter, with that parameter."""
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
    lines += ["## Keys that are converted", "", "| key | how it is read |", "|---|---|"]
    lines += [f"| `{section}.{key}` | {(read.__doc__ or '').strip()} |" for (section, key), read in SPECIAL.items()]
    lines += ["", "## Keys with a fixed value", "", "| key | value | reason |", "|---|---|---|"]
    for (section, key), (values, why) in FIXED.items():
        lines.append(f"| `{section}.{key}` | {', '.join(dict.fromkeys(map(shown, values)))} | {why} |")
    lines += ["", "## Keys without effect", "", "| key | reason |", "|---|---|"]
    lines += [f"| `{section}.{key}` | {why} |" for section, keys in IGNORED.items() for key, why in keys.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(as_markdown(), end="")
