"""What every sweep tells about itself, wherever it runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas


def no_facts() -> dict[str, Any]:
    """Return the facts of a sweep before its plan."""
    return {"trials": [], "best": None, "final": None, "metric": "", "varied": []}


class Told(ABC):
    """A sweep that can be looked at."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """All that is known of it, in the form of sweep.json."""

    @property
    def best(self) -> dict[str, Any] | None:
        """The best trial so far: number, parameters, score and the rest; None before the first one is finished."""
        return next((trial for trial in self.facts["trials"] if trial["best"]), None)

    @property
    def final(self) -> dict[str, Any] | None:
        """Metrics of base and best trial on the test rows, the gate, and the registered version; None before."""
        return self.facts["final"]

    def table(self) -> pandas.DataFrame:
        """Return one row for each trial: its parameters, state, score and metrics on the validation rows."""
        from pipelines.sweeping.table import table_of

        return table_of(self.facts)
