"""Compiles pipelines to the YAML in compiled/, which is reviewed like code and never edited by hand."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipelines.catalog import PIPELINES


def compile_pipelines(
    names: Iterable[str],
    folder: Path,
    choices: bool = True,
    image_prefix: str = "",
    images: dict[str, str] | None = None,
) -> list[Path]:
    """Write `<folder>/<name>_pipeline.yaml` for each name and return the paths.

    `choices` writes drop-downs for the UI, which KFP backends before 2.16 reject. `image_prefix` (a registry and
    project) is put in front of every image; `images` replaces single images, for instance with a digest.
    """
    folder.mkdir(parents=True, exist_ok=True)
    return [_compile(name, folder / f"{name}_pipeline.yaml", choices, image_prefix, images or {}) for name in names]


def _compile(name: str, file: Path, choices: bool, image_prefix: str, images: dict[str, str]) -> Path:
    from kfp import compiler

    from pipelines.signature import set_choices

    published = PIPELINES[name]
    pipeline: Any = published.load()
    set_choices(pipeline, published.parameters, choices)
    compiler.Compiler().compile(pipeline, str(file))
    text = file.read_text(encoding="utf-8")
    file.write_text(_with_images(text, image_prefix, images), encoding="utf-8")
    return file


def _with_images(text: str, prefix: str, images: dict[str, str]) -> str:
    def named(match: re.Match[str]) -> str:
        image = images.get(match[2], f"{prefix.rstrip('/')}/{match[2]}" if prefix else match[2])
        return f"{match[1]}{image}"

    return re.sub(r"(?m)^(\s+image: )(\S+)$", named, text)
