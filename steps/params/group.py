"""Base class of parameter groups and settings values, and other names of parameters."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from steps.errors import Problem
from steps.params.wording import told, with_values


@dataclass(frozen=True)
class Renamed:
    """Other names of a parameter and its values; goes into `Annotated` with its type.

    They are accepted with a warning, such as `eval_strategy` of older versions or `optim=adamw_hf`.
    """

    names: tuple[str, ...] = ()
    """Names of the parameter in other systems or older versions."""
    values: Mapping[str, str] = field(default_factory=dict)
    """Old value → current value."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """Unsupported value of other systems, in lower case → what to do instead."""


class Group(BaseModel):
    """A group of related parameters; a pipeline's parameter model inherits from several groups."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        protected_namespaces=(),
    )

    own_names: ClassVar[Mapping[str, str]] = {}
    """Parameter of a base class → the parameter that this model has instead, such as `eval_strategy`.

    The model declares the new one, and the old name as a `ClassVar` property that returns its value: a class variable
    takes the place of the inherited field, and the code that reads the old name finds it.
    """

    @classmethod
    def named(cls, name: str) -> str:
        """Return the name that a parameter of a base class has in this model."""
        return cls.own_names.get(name, name)

    @classmethod
    def other_names(cls) -> dict[str, str]:
        """Return what messages say in place of names of base classes (`wording.in_words`)."""
        return with_values(cls.own_names)

    @property
    def names_told(self) -> dict[str, str]:
        """The same, with parameters that the user set in place of others of this model."""
        return self.other_names()

    @classmethod
    def of(cls, parameters: BaseModel) -> Self:
        """Build this group from a pipeline's parameters."""
        return cls(**{name: getattr(parameters, name) for name in cls.model_fields})

    def short(self) -> dict[str, Any]:
        """Return the values that differ from their default, as JSON values from which the group can be built again."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def conflicts(self) -> Iterator[Problem]:
        """Yield conflicts between fields that are valid by themselves; groups with such rules override this."""
        return iter(())

    def all_conflicts(self) -> list[Problem]:
        """Collect the conflicts of all groups that this model inherits from."""
        own = [group for group in type(self).__mro__ if issubclass(group, Group) and "conflicts" in vars(group)]
        names = self.names_told
        return [told(problem, names) for group in reversed(own) for problem in group.conflicts(self)]


def default_in(group: type[Group], name: str) -> Any:
    """Return the declared default of a parameter."""
    return group.model_fields[name].get_default(call_default_factory=True)


def with_default(group: type[Group], name: str, default: Any) -> Any:
    """Return a field declared in a group with another default, for the pipelines where it is another one."""
    return FieldInfo.merge_field_infos(group.model_fields[name], default=default)


@cache
def renamed_in(model: type[Group]) -> dict[str, Renamed]:
    """Return the other names by parameter, also for parameters that a task declares again."""
    groups = [group for group in reversed(model.__mro__) if issubclass(group, Group)]
    return {
        name: other
        for group in groups
        for name, declared in group.model_fields.items()
        for other in declared.metadata
        if isinstance(other, Renamed) and name not in model.own_names
    }


@cache
def old_names(model: type[Group]) -> dict[str, str]:
    """Map every other name of a parameter to its name in this model."""
    found = {old: name for name, other in renamed_in(model).items() for old in other.names}
    names = {old: model.named(name) for old, name in {**found, **model.own_names}.items()}
    fields = model.model_fields
    return {old: name for old, name in names.items() if old not in fields and name in fields}


def merged(model: type[Group], *layers: Mapping[str, Any]) -> dict[str, Any]:
    """Join parameters from several places; later ones override earlier ones, under whichever name they are given."""
    names = old_names(model)
    values: dict[str, Any] = {}
    for layer in layers:
        given = {names.get(name, name) for name in layer}
        values = {name: value for name, value in values.items() if names.get(name, name) not in given} | dict(layer)
    return values
