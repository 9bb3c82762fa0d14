"""Compiles pipelines to YAML in compiled/, which is reviewed like code and never edited by hand."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from pipelines.catalog import Published, published_as
from pipelines.form import Form, short_form, sweep_form
from pipelines.images import CORE, IMAGES
from steps.errors import Problem, UserError, nearest, shown
from steps.params.pipelines import SWEEP
from steps.params.registration import COMPILED_AS
from steps.running import write_durably

if TYPE_CHECKING:
    from pipelines.profile import Profile


def compile_pipelines(
    names: Iterable[str],
    folder: Path,
    choices: bool = True,
    image_prefix: str = "",
    images: dict[str, str] | None = None,
    profile: Profile | None = None,
    form: Form | None = None,
    short: bool = False,
    sweeps: Container[str] = (),
) -> list[Path]:
    """Write `<folder>/<name>_pipeline.yaml` for each name and return the paths.

    With `short`, also write `<name>_short_pipeline.yaml`, the form with the inputs that most runs need; for the names
    in `sweeps`, `<name>_sweep_pipeline.yaml`. With `form`, only the one pipeline in that form is written, under the
    form's name. `choices` writes the UI's drop-downs, which
    backends before KFP 2.16 reject. `image_prefix` (a registry and project) is prepended to every image; `images`
    replaces single images, for example by a digest. `profile` is what the cluster is like; the other arguments
    override it.
    """
    from pipelines.profiled import images_of

    registry = profile.images.registry if profile else ""
    folder.mkdir(parents=True, exist_ok=True)
    on_cluster = choices and (profile is None or profile.choices)
    files = []
    for published, wanted in _forms(names, form, short, sweeps):
        file = folder / f"{wanted.name if wanted else published.name}_pipeline.yaml"
        text = _compiled(published, wanted, on_cluster)
        if profile:
            text = _on_cluster(text, profile, published, wanted)
        named = images_of(profile) | (images or {})
        text = _with_images(text, image_prefix or registry, named)
        if image_prefix or named or (profile and profile != type(profile)()):
            text = _with_origin(text)
        write_durably(file, text)
        files.append(file)
    return files


def _forms(
    names: Iterable[str], form: Form | None, short: bool, sweeps: Container[str]
) -> Iterator[tuple[Published, Form | None]]:
    for published in map(published_as, names):
        if form:
            yield published, form
            continue
        if published.swept != published.name:
            yield published, sweep_form(published.name)
            continue
        yield published, None
        if short and published.parameters.short_inputs:
            yield published, short_form(published)
        if published.name in sweeps:
            swept = published_as(f"{published.name}{SWEEP}")
            yield swept, sweep_form(swept.name)


def replaced_images(pairs: Iterable[str]) -> dict[str, str]:
    """Read IMAGE=REFERENCE pairs; an image may be named without its version. Raises UserError for any other text."""
    tags = {name: image for image in IMAGES for name in (image, image.partition(":")[0])}
    replaced: dict[str, str] = {}
    problems = []
    for pair in pairs:
        name, sign, reference = pair.partition("=")
        image = tags.get(name)
        if not sign or not reference or any(blank in pair for blank in " \t\n"):
            problems.append(Problem("COMPILE-E0101", f"--image {pair}", shown(pair), "IMAGE=REFERENCE without blanks",
                                    f"write --image {CORE}=REGISTRY/NAME@sha256:…"))  # fmt: skip
        elif image is None:
            near = nearest(name, tags) or "name one of them"
            known = f"one of {', '.join(IMAGES)}"
            problems.append(Problem("COMPILE-E0102", f"--image {pair}", shown(name), known, near))
        elif replaced.get(image, reference) != reference:
            problems.append(Problem("COMPILE-E0103", f"--image {pair}", f"a second reference for {image}", "one",
                                    "leave one of them out"))  # fmt: skip
        else:
            replaced[image] = reference
    if problems:
        raise UserError(problems)
    return replaced


def _compiled(published: Published, form: Form | None, choices: bool) -> str:
    """Return the YAML of a pipeline, which kfp writes only to a file."""
    from kfp import compiler

    from pipelines.signature import set_choices

    pipeline: Any = published.load(form)
    set_choices(pipeline, published.parameters, choices)
    with _written_in_c(), TemporaryDirectory() as scratch:
        file = Path(scratch, "pipeline.yaml")
        compiler.Compiler().compile(pipeline, str(file))
        return file.read_text(encoding="utf-8")


@contextmanager
def _written_in_c() -> Iterator[None]:
    """Let kfp write YAML with libyaml: the same values in an eighth of the time, which is most of a compilation.

    kfp (2.17) has no argument for it, and its module uses nothing else of yaml.
    """
    import yaml
    from kfp.compiler import pipeline_spec_builder

    before = pipeline_spec_builder.yaml
    dump_all = partial(yaml.dump_all, Dumper=yaml.CDumper)
    pipeline_spec_builder.yaml = SimpleNamespace(dump_all=dump_all)
    try:
        yield
    finally:
        pipeline_spec_builder.yaml = before


def _on_cluster(text: str, profile: Profile, published: Published, form: Form | None) -> str:
    import yaml

    from pipelines.profiled import put

    spec, platform = yaml.load_all(text, yaml.CSafeLoader)
    put(profile, spec, platform, published.parameters.model_fields, form.fixed if form else ())
    return yaml.dump_all([spec, platform], Dumper=yaml.CSafeDumper, sort_keys=True, allow_unicode=True, width=120)


def _with_images(text: str, prefix: str, images: dict[str, str]) -> str:
    def named(match: re.Match[str]) -> str:
        image = images.get(match[2], f"{prefix.rstrip('/')}/{match[2]}" if prefix else match[2])
        return f"{match[1]}{image}"

    return re.sub(r"(?m)^(\s+image: )(\S+)$", named, text)


def _with_origin(text: str) -> str:
    """Tell register-model the images of the pipeline and the digest of this text, for the provenance of a version.

    compiled/ itself names no registry and no cluster, so its files stay without.
    """
    start, mark, own = text.partition("\n    exec-register-model:\n")
    if not mark:
        return text
    images = sorted(set(re.findall(r"(?m)^\s+image: (\S+)$", text)))
    origin = json.dumps({"images": images, "spec": hashlib.sha256(text.encode()).hexdigest()})
    before, image, rest = own.partition("        image: ")
    if "        env:\n" not in before:
        before += "        env:\n"
    before = before.replace(
        "        env:\n", f"        env:\n        - name: {COMPILED_AS}\n          value: '{origin}'\n", 1
    )
    return f"{start}{mark}{before}{image}{rest}"
