"""Names of classes that a Parquet file lists for the numbers in a column (`ClassLabel` of the library datasets).

The library writes the features of a data set into the schema of its Parquet files:

    {"info": {"features": {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}}}}
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from steps.params.text_file import any_json
from steps.tasks import Fault, as_found

KEY = b"huggingface"  # of the schema's metadata
READ = "DATA-F0520"
NO_LABEL = -1  # the hubs' mark of a row without a label; the tasks judge it


def class_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Return the columns of class numbers, or of lists of them, with the names of the classes."""
    try:
        features = any_json((schema.metadata or {}).get(KEY, b"{}"))["info"]["features"]
        found = {column: _names(feature) for column, feature in features.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
    return {column: names for column, names in found.items() if names}


def named(value: Any, names: list[str], path: str) -> Any:
    """Replace the numbers of a cell by names. Raises UnknownClass for a number without a name."""
    if type(value) is list:
        return [named(inner, names, f"{path}[{place}]") for place, inner in enumerate(value)]
    if type(value) is not int or value == NO_LABEL:
        return value
    if not 0 <= value < len(names):
        raise UnknownClass(
            Fault("DATA-E0520", path, as_found(value), f"the number of a class, 0 to {len(names) - 1}: the file lists "
                  f"{', '.join(names)[:60]}", "correct the number, or remove the row")
        )  # fmt: skip
    return names[value]


class UnknownClass(Exception):
    """A number for which the file has no name."""

    def __init__(self, fault: Fault):
        self.fault = fault


def _names(feature: Any) -> list[str]:
    """Return the names in a feature: a ClassLabel, or a list of them in any form of any version of the library."""
    if type(feature) is list and len(feature) == 1:
        return _names(feature[0])
    if type(feature) is not dict:
        return []
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names") or []
        return [str(name) for name in (names.values() if type(names) is dict else names)]
    return _names(feature.get("feature"))
