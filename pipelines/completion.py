"""Completion on the command line: pipelines, tasks, and the parameters and values of -p."""

from __future__ import annotations

import os

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
    split_arg_string,
)


def pipelines(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
    """Complete the name of a pipeline."""
    from pipelines.catalog import PIPELINES

    return [name for name in PIPELINES if name.startswith(text.replace("-", "_"))]


def tasks(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
    """Complete the name of a task of check-data."""
    from steps.running import task_names

    return [name for name in task_names() if name.startswith(text)]


def pairs(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
    """Complete NAME=VALUE after -p, for the pipeline or the task of this command line."""
    from pipelines.catalog import found
    from steps.params.reading import choices_of
    from steps.running import data_parameters, task_names

    published = found(context.command.name or "")
    # click gives up on a line that ends in -p and leaves the task among the words that it did not read.
    words = [context.params.get("task"), *context.args]
    task = next((word for word in words if word in task_names()), None)
    fields = published.parameters.model_fields if published else data_parameters(task)
    name, sign, value = text.partition("=")
    if not sign:
        return [f"{one}=" for one in fields if one.startswith(name) and one != "overrides"]
    field = fields.get(name)
    choices = () if field is None else choices_of(field) or (("true", "false") if field.annotation is bool else ())
    return [f"{name}={choice}" for choice in choices if choice.startswith(value)]


class Bash(BashComplete):
    """bash splits a word at =, and completes only the part behind it; it adds no blank behind NAME=."""

    source_template = BashComplete.source_template.replace(
        "COMPREPLY+=($value)", "COMPREPLY+=($value)\n            [[ $value == *= ]] && compopt -o nospace"
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one to complete, and that word, with NAME=VALUE as one word."""
        words = split_arg_string(os.environ["COMP_WORDS"])
        place = int(os.environ["COMP_CWORD"])
        args, last = words[1:place], words[place] if place < len(words) else ""
        if last == "=" and args:
            args, last = [*args, "="], ""
        if len(args) > 1 and args[-1] == "=":
            return (args[:-1], last) if args[-2].startswith("-") else (args[:-2], f"{args[-2]}={last}")
        return args, last

    def format_completion(self, item: CompletionItem) -> str:
        """Leave out NAME= where bash has it already."""
        words = split_arg_string(os.environ["COMP_WORDS"])
        name, _, value = str(item.value).partition("=")
        there = value and "=" in words and words[words.index("=") - 1 :].count(name)
        return f"{item.type},{value if there else item.value}"


def script_class(shell: str) -> type[ShellComplete]:
    """Return the class that writes the script of a shell and answers it."""
    found = get_completion_class(shell)
    assert found is not None
    return found


add_completion_class(Bash)  # replaces click's own for bash
