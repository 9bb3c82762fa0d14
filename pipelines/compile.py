"""Compiles pipelines to YAML in compiled/, which is reviewed like code and never edited by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.catalog import PIPELINES

if TYPE_CHECKING:
    from pipelines.profile import Profile


def compile_pipelines(
    names: Iterable[str],
    folder: Path,
    choices: bool = True,
    image_prefix: str = "",
    images: dict[str, str] | None = None,
    profile: Profile | None = None,
) -> list[Path]:
    """Write `<folder>/<name>_pipeline.yaml` for each name and return the paths.

    `choices` writes the UI's drop-downs, which backends before KFP 2.16 reject. `image_prefix` (a registry and project)
    is prepended to every image; `images` replaces single images, for example by a digest. `profile` is what the cluster
    is like.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}_pipeline.yaml" for name in names}
    for name, file in files.items():
        _compile(name, file, choices and (profile is None or profile.choices))
        text = file.read_text(encoding="utf-8")
        if profile:
            text = _on_cluster(text, profile)
        file.write_text(_with_images(text, image_prefix, images or {}), encoding="utf-8")
    return list(files.values())


def _compile(name: str, file: Path, choices: bool) -> None:
    from kfp import compiler

    from pipelines.signature import set_choices

    published = PIPELINES[name]
    pipeline: Any = published.load()
    set_choices(pipeline, published.parameters, choices)
    compiler.Compiler().compile(pipeline, str(file))


def _on_cluster(text: str, profile: Profile) -> str:
    import yaml

    from pipelines.profile import dumped
    from pipelines.profiled import put

    spec, platform = yaml.safe_load_all(text)
    put(profile, spec, platform)
    return dumped([spec, platform])


def _with_images(text: str, prefix: str, images: dict[str, str]) -> str:
    def named(match: re.Match[str]) -> str:
        image = images.get(match[2], f"{prefix.rstrip('/')}/{match[2]}" if prefix else match[2])
        return f"{match[1]}{image}"

    return re.sub(r"(?m)^(\s+image: )(\S+)$", named, text)
