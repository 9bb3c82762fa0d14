"""The base of every parameter group and of every settings value."""

from collections.abc import Iterator
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from steps.errors import Problem


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
