"""A pipeline compiled for an installation: its text, its inputs, and under which names it is uploaded."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.catalog import Published, published_as
from steps import __version__
from steps.errors import Problem, UserError

if TYPE_CHECKING:
    from pipelines.profile import Profile


@dataclass(frozen=True)
class Input:
    """An input of a compiled pipeline, as the backend checks it."""

    kind: str
    """STRING, NUMBER_INTEGER, NUMBER_DOUBLE, BOOLEAN, STRUCT or LIST."""
    default: Any
    choices: tuple[Any, ...] = ()
    """The values that the backend takes; empty: all of the kind."""


@dataclass(frozen=True)
class Package:
    """A compiled pipeline."""

    text: str
    """The YAML file."""
    published: Published | None = None
    """The pipeline that it is a form of; None for a file that somebody else compiled."""

    @cached_property
    def documents(self) -> list[dict[str, Any]]:
        """The specification, and the platform's if there is one."""
        import yaml

        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return list(yaml.load_all(self.text, Loader=loader))

    @property
    def name(self) -> str:
        """Name of the pipeline in KFP: small letters, digits and hyphens."""
        return str(self.documents[0]["pipelineInfo"]["name"])

    @property
    def display_name(self) -> str:
        """Name for people."""
        return self.name.replace("-", " ").capitalize()

    @property
    def description(self) -> str:
        """What the pipeline does, and where its parameters are described."""
        told = str(self.documents[0]["pipelineInfo"].get("description", ""))
        if not self.published:
            return told
        whole = " ".join((self.published.parameters.__doc__ or "").split())
        told = f"{whole} {told.removeprefix(self.published.summary).strip()}".strip()
        return (
            f"{told} Every parameter, with its default and meaning: `finetune describe {self.published.name}`, or "
            "docs/parameters.md of finetune-pipelines."
        )

    @property
    def version(self) -> str:
        """Version of this project and digest of the content; the comments of the file do not count."""
        content = json.dumps(self.documents, sort_keys=True).encode()
        return f"{__version__}-{hashlib.sha256(content).hexdigest()[:12]}"

    @cached_property
    def inputs(self) -> dict[str, Input]:
        """The inputs by name."""
        declared = self.documents[0]["root"].get("inputDefinitions", {}).get("parameters", {})
        return {
            name: Input(made["parameterType"], made.get("defaultValue"), tuple(made.get("literals", ())))
            for name, made in declared.items()
        }


def package_of(
    name: str, profile: Profile | None = None, image_prefix: str = "", images: dict[str, str] | None = None
) -> Package:
    """Compile one published pipeline."""
    return next(iter(packages([name], profile, image_prefix, images, short=False)))


def packages(
    names: Iterable[str],
    profile: Profile | None = None,
    image_prefix: str = "",
    images: dict[str, str] | None = None,
    choices: bool = True,
    short: bool = True,
) -> list[Package]:
    """Compile pipelines, each in full and, with `short`, in its short form. A name may be a compiled YAML file.

    Raises UserError for an unknown name, and for a file that is no compiled pipeline.
    """
    from pipelines.compile import compile_pipelines

    found: list[Package] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            if name.endswith((".yaml", ".yml")):
                found.append(_read(Path(name)))
                continue
            published = published_as(name)
            files = compile_pipelines(
                [published.name], Path(folder), choices, image_prefix, images, profile, short=short
            )
            found += [Package(file.read_text("utf-8"), published) for file in files]
    return found


def _read(file: Path) -> Package:
    import yaml

    try:
        made = Package(file.read_text("utf-8"))
        _ = made.name, made.inputs
    except OSError as error:
        found = error.strerror or str(error)
    except (yaml.YAMLError, UnicodeDecodeError):
        found = "a file that is not YAML"
    except (KeyError, TypeError, IndexError, AttributeError):
        found = "a file without pipelineInfo"
    else:
        return made
    raise UserError(Problem("CLIENT-E0106", str(file), found, "a compiled pipeline", "see `finetune compile --help`"))
