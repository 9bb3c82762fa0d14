"""Training rows from several sources with weights: the JSON text of the parameter training_data."""

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from steps.errors import Problem, shown
from steps.params.group import Group
from steps.params.several import LINES
from steps.params.text_file import read_json

PARAMETER = "training_data"


class MixturePart(Group):
    """One source of a mixture."""

    path: Annotated[str, LINES] = ""
    """Files, as in train_file_path; or dataset_name."""

    dataset_name: str = ""
    """Data set on the Hub, or a local folder with one."""

    dataset_config: str = Field("default", min_length=1)
    """Configuration of the data set."""

    dataset_revision: str = ""
    """Branch, tag or commit of the data set."""

    dataset_split: str = Field("train", min_length=1)
    """Split of the data set."""

    sampling_weight: float = Field(1.0, ge=0)
    """Sampling frequency, relative to the other sources; 0 leaves the source out."""

    name: str = ""
    """Name in counts and reports; empty uses the path or data set name."""

    @property
    def label(self) -> str:
        """Name in counts and reports."""
        return self.name or self.path or self.dataset_name


class Mixture(Group):
    """All sources, and how they are combined."""

    type: Literal["PRECOMPUTE_WEIGHTED_MIX", "CONCATENATION"] = "PRECOMPUTE_WEIGHTED_MIX"
    """Sampled by weight until every source has been used up, or concatenated."""

    datasets: tuple[MixturePart, ...] = Field(min_length=1)
    """The sources."""


def read_mixture(text: str) -> tuple[Mixture | None, list[Problem]]:
    """Read the parameter's JSON: a list of sources, or an object with type and datasets; (None, problems) if wrong."""
    try:
        value = read_json(text)
    except ValueError as error:
        return None, [_problem("PARAM-E0231", "", f"{shown(text)} ({error})", "JSON", "correct it")]
    try:
        mixture = Mixture.model_validate({"datasets": value} if isinstance(value, list) else value)
    except ValidationError as error:
        details = error.errors()
        refused = [detail for detail in details if detail["type"] != "too_short"]  # follows from a refused source
        return None, [
            _problem("PARAM-E0231", _path(detail["loc"]), shown(detail["input"]), _expected(detail),
                     'write [{"path": "a.jsonl", "sampling_weight": 1.0}, …]')
            for detail in refused or details
        ]  # fmt: skip
    problems = [
        _problem("PARAM-E0232", f"[{place}]", "path and dataset_name" if part.path else "neither path nor dataset_name",
                 "one of path and dataset_name", "name the files, or the data set")
        for place, part in enumerate(mixture.datasets)
        if bool(part.path) == bool(part.dataset_name)
    ]  # fmt: skip
    labels = [part.label for part in mixture.datasets]
    problems += [
        _problem("PARAM-E0234", f"[{place}]", f"a second source named {shown(label)}", "a unique name for each source",
                 "set another name, or raise the weight of the other source")
        for place, label in enumerate(labels)
        if label and label in labels[:place]
    ]  # fmt: skip
    if not any(part.sampling_weight for part in mixture.datasets):
        problems.append(_problem("PARAM-E0233", "", "only weights of 0", "a sampling_weight above 0", "raise one"))
    return (None if problems else mixture), problems


def _problem(code: str, place: str, found: str, expected: str, fix: str) -> Problem:
    return Problem(code, PARAMETER + place, found, expected, fix)


def _expected(detail: Any) -> str:
    if detail["type"] == "extra_forbidden":
        return f"one of {', '.join(MixturePart.model_fields)}"
    if detail["type"] == "too_short":
        return "at least one source"
    return str(detail["msg"][0].lower() + detail["msg"][1:])


def _path(location: tuple[int | str, ...]) -> str:
    inner = location[1:] if location[:1] == ("datasets",) else location
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in inner)
