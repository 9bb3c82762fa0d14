"""The base of every parameter group and of every settings value, and what else a parameter may be called."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from steps.errors import Problem


@dataclass(frozen=True)
class Renamed:
    """Other names for a parameter and its values; stands beside its type, in `Annotated`.

    `eval_strategy` of older versions and `optim=adamw_hf` are understood and told in a warning.
    """

    names: tuple[str, ...] = ()
    """Names of the parameter in other systems or older versions."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Value that is no longer there → today's value."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """Value that other systems have and we have not, in small letters → what to do instead."""


class Group(BaseModel):
    """Parameters that belong together; a pipeline's parameter model inherits from several groups."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        protected_namespaces=(),
    )

    @classmethod
    def of(cls, parameters: BaseModel) -> Self:
        """Take this group's own values out of a pipeline's parameters."""
        return cls(**{name: getattr(parameters, name) for name in cls.model_fields})

    def conflicts(self) -> Iterator[Problem]:
        """Yield what is wrong between fields, each alone being valid; a group with such a rule overrides this."""
        return iter(())

    def all_conflicts(self) -> list[Problem]:
        """Gather the conflicts of every group that this model inherits from."""
        own = [group for group in type(self).__mro__ if issubclass(group, Group) and "conflicts" in vars(group)]
        return [problem for group in reversed(own) for problem in group.conflicts(self)]


def default_in(group: type[Group], name: str) -> Any:
    """Give the default that a parameter was declared with, for whatever else needs one."""
    return group.model_fields[name].get_default(call_default_factory=True)


@cache
def renamed_in(model: type[Group]) -> dict[str, Renamed]:
    """Give what else the parameters of a model may be called; it also holds where a task narrows a parameter."""
    groups = [group for group in reversed(model.__mro__) if issubclass(group, Group)]
    return {
        name: other
        for group in groups
        for name, declared in group.model_fields.items()
        for other in declared.metadata
        if isinstance(other, Renamed)
    }


@cache
def old_names(model: type[Group]) -> dict[str, str]:
    """Map every other name of a parameter to its name in this model."""
    return {
        old: name for name, other in renamed_in(model).items() for old in other.names if old not in model.model_fields
    }


def merged(model: type[Group], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Join what was given in several places: a later one wins, whichever name the parameter has in each of them."""
    names = old_names(model)
    values: dict[str, Any] = {}
    for layer in layers:
        given = {names.get(name, name) for name in layer}
        values = {name: value for name, value in values.items() if names.get(name, name) not in given} | dict(layer)
    return values
