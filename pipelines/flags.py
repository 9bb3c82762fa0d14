"""Command-line flags and configuration files of every pipeline, generated from its parameter model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines import completion
from steps.errors import Problem, UserError, nearest, shown
from steps.params.text_file import read_json

if TYPE_CHECKING:
    from pipelines.catalog import Published
    from pipelines.configuration import Words
    from steps.params.group import Group


class PipelineGroup(click.Group):
    """A command group with one command per published pipeline and one flag per parameter.

    With `sweeps` it also has one per sweep, which it does not list.
    """

    def __init__(
        self, action: Callable[..., None], extra: list[click.Parameter], sweeps: bool = False, **attributes: Any
    ):
        super().__init__(**attributes)
        self.action = action
        self.extra = extra
        self.sweeps = sweeps

    def list_commands(self, ctx: click.Context) -> list[str]:
        from pipelines.catalog import PIPELINES

        return list(PIPELINES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from steps.params.group import old_names

        published = self._found(cmd_name)
        if published is None:
            return None
        model = published.parameters
        flags = [_flag(name, field) for name, field in model.model_fields.items() if name != "overrides"]
        flags += [_flag(old, model.model_fields[name], hidden=True) for old, name in old_names(model).items()]
        return click.Command(
            published.name,
            params=[*self.extra, *CONFIGURATION, *flags],
            callback=lambda **values: self.action(published.name, _split(model, values), **_others(values)),
            help=published.summary,
        )

    def _found(self, name: str) -> Published | None:
        """Return the pipeline that this command knows by a name."""
        from pipelines.catalog import found

        published = found(name)
        return published if published and (self.sweeps or published.swept == published.name) else None

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the pipeline first: its name may stand behind the options, or only in the configuration file."""
        if args and args[0].startswith("-"):
            if {"-h", "--help"} & set(args):
                args = ["--help"]
            elif ctx.resilient_parsing:  # completion
                args = _name_first_or_any(args)
            else:
                args = _name_first(args, self._found)
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            from pipelines.catalog import found

            choices = self.list_commands(ctx)
            swept = found(args[0])
            fix = nearest(args[0], choices) or "see `finetune list`"
            if swept and swept.swept != swept.name:
                fix = f"write finetune sweep {swept.swept} -f sweep.yaml, or finetune submit {swept.name}"
            raise UserError(Problem("PARAM-E0100", "pipeline", shown(args[0]), f"one of {', '.join(choices)}", fix))
        return super().resolve_command(ctx, args)


def _name_first(args: list[str], found: Callable[[str], Published | None] | None = None) -> list[str]:
    """Move the name of the pipeline to the front, or read it from the configuration file.

    `found` returns the pipeline of a name; the default knows all but sweeps. Raises UserError if neither names one, and
    as `parameters_in`.
    """
    from pipelines.catalog import PIPELINES

    found = found or (lambda name: PIPELINES.get(name))

    for place, word in enumerate(args):
        before = args[place - 1] if place else ""
        is_value = before.startswith("-") and "=" not in before and before not in NO_VALUE
        if not is_value and found(plain_name(word)):
            return [word, *args[:place], *args[place + 1 :]]
    command = click.Command("", params=CONFIGURATION, context_settings={"ignore_unknown_options": True})
    command.params = [*CONFIGURATION, click.Argument(["rest"], nargs=-1)]
    values = command.make_context("", list(args)).params
    named = _pipeline_in(values["config"], found) if values["config"] else ""
    if not named:
        none = f"{values['config']} without a line pipeline:" if values["config"] else "no name of a pipeline"
        fix = "write pipeline: and its name into the file" if values["config"] else "name it before the options"
        raise UserError(Problem("CONFIG-E0107", "pipeline", none, f"one of {', '.join(PIPELINES)}", fix))
    return [named, *args]


def _name_first_or_any(args: list[str]) -> list[str]:
    """Do the same for completion, where the name may still be missing: flags that all pipelines have are completed."""
    from pipelines.catalog import PIPELINES

    try:
        return _name_first(args)
    except (UserError, click.UsageError):
        return [next(iter(PIPELINES)), *args]


def _pipeline_in(file: Path, found: Callable[[str], Published | None]) -> str:
    """Return the pipeline that a configuration file names; empty without one."""
    from pipelines.catalog import PIPELINES
    from pipelines.configuration import read_config
    from pipelines.experiment_yaml import from_experiment, is_experiment

    values, words = read_config(file)
    named = (from_experiment(values, words)[0] if is_experiment(values) else values).get("pipeline")
    if named is None or found(plain_name(named)):
        return plain_name(named)
    fix = nearest(plain_name(named), PIPELINES) or "see `finetune list`"
    raise UserError(Problem("PARAM-E0100", f"pipeline in {file}", shown(named), f"one of {', '.join(PIPELINES)}", fix))


NO_VALUE = ("--json", "--cache", "--no-cache", "--gate-exit", "--wait", "--plan", "--no-plan", "--verify-tls",
            "--no-verify-tls")  # fmt: skip

CONFIGURATION: list[click.Parameter] = [
    click.Option(
        ["-f", "--config", "config"],
        type=click.Path(path_type=Path),
        help="YAML file with parameters by name, or an experiment in sections; -p and flags override it.",
    ),
    click.Option(
        ["-p", "--param", "param"],
        multiple=True,
        metavar="NAME=VALUE",
        help="One parameter; repeatable.",
        shell_complete=completion.pairs,
    ),
]


def _flag(name: str, field: Any, hidden: bool = False) -> click.Option:
    from steps.params.reading import choices_of, default_of

    choices = choices_of(field) or (("true", "false") if field.annotation is bool else ())
    flag = "--" + name.replace("_", "-")
    # A boolean flag needs no value: --apply-lora. Such an option of click cannot have a value that begins with a minus,
    # so all others need theirs.
    without_value: dict[str, Any] = {"is_flag": False, "flag_value": "true"} if field.annotation is bool else {}
    return click.Option(
        [flag, *([f"--{name}"] if "_" in name else []), f"parameter_{name}"],
        metavar="|".join(choices) if choices else field.annotation.__name__.upper(),
        **without_value,
        help=f"{field.description}  [default: {default_of(field)}]",
        hidden=hidden,
        shell_complete=lambda ctx, param, text: [choice for choice in choices if choice.startswith(text)],
    )


def _split(model: type[Group], values: dict[str, Any]) -> dict[str, Any]:
    """Merge the given parameters: configuration file, then -p, then flags; later ones override earlier ones."""
    from steps.params.group import merged

    flags = {key.removeprefix("parameter_"): value for key, value in values.items() if key.startswith("parameter_")}
    return merged(
        model,
        parameters_in(values["config"], model) if values.get("config") else {},
        read_pairs(values.get("param") or ()),
        read_pairs(tuple(f"{name}={value}" for name, value in flags.items() if value is not None)),
    )


def parameters_in(file: Path, model: type[Group] | None = None) -> dict[str, Any]:
    """Read a configuration file: parameters by name, or an experiment in sections.

    Without a model, the one of the pipeline that the file names says which parameters are texts. Raises UserError as
    `read_config` and `from_experiment` do.
    """
    from pipelines.catalog import found
    from pipelines.configuration import as_declared, read_config
    from pipelines.experiment_yaml import from_experiment, is_experiment

    values, words = read_config(file)
    if is_experiment(values):
        parameters, notes = from_experiment(values, words)
        for note in notes:
            click.echo(f"WARNING {note}", err=True)
        return parameters
    named = found(plain_name(values.get("pipeline")))
    model = model or (named.parameters if named else None)
    return _with_trials(model, as_declared(model, values, words), words) if model else values


def _with_trials(model: type[Group], values: dict[str, Any], words: Words) -> dict[str, Any]:
    """Return the parameters with those of each trial of a sweep as -p would pass them."""
    from pipelines.configuration import as_declared

    trials = values.get("trials")
    if "trials" not in model.model_fields or not isinstance(trials, list):
        return values
    read = [as_declared(model, one, words, ("trials", number)) if isinstance(one, dict) else one
            for number, one in enumerate(trials)]  # fmt: skip
    return {**values, "trials": read}


def _others(values: dict[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in values.items()
        if not key.startswith("parameter_") and key not in ("config", "param")
    }


def read_pairs(pairs: tuple[str, ...]) -> dict[str, Any]:
    """Read -p name=value; a value that starts with { or [ is parsed as JSON, any other value stays text."""
    values: dict[str, Any] = {}
    problems = []
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            problems.append(Problem("PARAM-E0105", f"-p {pair}", "no =", "name=value", f"write -p {pair}=…"))
        try:
            values[name.strip()] = read_json(value) if value[:1] in ("{", "[") else value
        except ValueError as error:
            problems.append(Problem("PARAM-E0105", f"-p {name}", shown(value), f"JSON ({error})", "quote it for JSON"))
    if problems:
        raise UserError(problems)
    return values


def plain_name(pipeline: Any) -> str:
    """Return the name of a pipeline as the catalog has it; empty for what is no text."""
    return pipeline.strip().replace("-", "_") if isinstance(pipeline, str) else ""


def for_pipeline(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Remove `pipeline:` from the values. Raises UserError if it names another pipeline than the one being run.

    A file for a pipeline is also one for the sweep over it.
    """
    from pipelines.catalog import PIPELINES, published_as

    values = dict(values)
    meant = values.pop("pipeline", name)
    if (asked := plain_name(meant)) not in (name, published_as(name).swept):
        known = asked in PIPELINES
        fix = f"run it with `finetune run {asked}`" if known else nearest(asked, PIPELINES) or f"write {name}"
        raise UserError(Problem("CONFIG-E0103", "pipeline", shown(meant), shown(name), fix))
    return values
