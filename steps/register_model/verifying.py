"""Compare a registered version, or a folder, with what was registered: every file, provenance, tags and signature."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from steps.artifacts import MANIFEST, parse_manifest
from steps.errors import Problem, SecurityRefusal, StepError, UserError, some_of
from steps.models.layout import COPY_FOLDER, REFERENCE_FILE
from steps.params.text_file import any_json
from steps.redaction import masked
from steps.register_model.provenance import PROVENANCE_DIGEST, SIGNATURE_DIGEST, SIGNED_WITH
from steps.signing import PROVENANCE, SIGNATURE
from steps.signing.keys import Key, read_public
from steps.signing.places import Folder, Place, digests, folder_at, place_at, place_of
from steps.signing.signature import NotSigned, hint_of, signed_digests
from steps.signing.statement import TAGS, read
from steps.tracking.registered import Version, open_version
from steps.writing import with_home

RESTORE = "do not use it: restore what was registered, or register the model again"
NOTE, MOST_BYTES_OF_NOTE = "registered_model_meta", 1000
_NOTED = re.compile(r"model_name: '?(\w[\w .-]{0,199}?)'?\nmodel_version: '?(\d+)'?\n")
MOST_BYTES = 64 * 1024 * 1024  # of provenance and signature, which have a line for each file


@dataclass
class Verified:
    """What was compared, as rows of a table, and what is not as it was registered."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def tell(self, what: str, told: str, problems: list[Problem] | None = None, checked: bool = True) -> None:
        """Add a row; `checked` is false for what could not be compared."""
        self.rows.append({"what": what, "told": told, "ok": not problems if checked else None})
        self.problems += problems or []


def verify_model(model: str, key: Path | None = None, mlflow_server_uri: str = "") -> dict[str, Any]:
    """Verify a version (NAME, NAME/VERSION, NAME@ALIAS) or a folder; return what was compared, with the verdict.

    Raises SecurityRefusal if something is not as it was registered, UserError if the model does not exist, the key
    cannot be used, or a signed model is verified without a key; Outage if a service does not answer. The first, and
    the error for a missing key, have the same report.
    """
    public = read_public("--key", key) if key else None
    version: Version | None = None
    place: Place
    if is_folder(model):
        name, place = model, folder_at(with_home(model))
    else:
        version = open_version(_uri(model), mlflow_server_uri)
        name, place = version.uri, place_of(version.model, version.uri)
    found = Verified()
    signed = _compare(found, name, place, version, public)
    unsigned_with_key = bool(signed and public is None)
    verdict = "changed" if found.problems else "incomplete" if unsigned_with_key else "as registered"
    report = {"model": name, "place": masked(place.where), "verdict": verdict, "checks": found.rows}
    if found.problems:
        raise _with(report, SecurityRefusal(found.problems))
    if unsigned_with_key:
        raise _with(report, UserError(
            Problem("VERIFY-E0101", "--key", "no key, for a model that is signed", "the public key of the signer",
                    "name it with --key public.pem", why="anybody could have written files, provenance and tags")
        ))  # fmt: skip
    return report


def is_folder(model: str) -> bool:
    """Return whether a name means a folder of this machine."""
    return not model.startswith("models:/") and (with_home(model).is_dir() or model.startswith((".", "/", "~")))


def _uri(model: str) -> str:
    wanted = model.removeprefix("models:/")
    return f"models:/{wanted}" if "/" in wanted or "@" in wanted else f"models:/{wanted}/latest"


def _with(report: dict[str, Any], error: StepError) -> StepError:
    error.report = report
    return error


def _compare(found: Verified, name: str, place: Place, version: Version | None, key: Key | None) -> bool:
    """Add a row for each comparison; return whether the model says that it is signed."""
    if version is None and not place.names and not place.odd:
        raise UserError(Problem("VERIFY-E0102", name, "no files", "a model's folder", "correct the path"))
    if isinstance(place, Folder) and _is_note_of_mlflow(place, version):
        place = replace(place, names=place.names - {NOTE})
    tags = version.tags if version else {}
    signed = SIGNATURE in place.names or SIGNATURE_DIGEST in tags
    if version is None and PROVENANCE not in place.names and not signed:
        if MANIFEST not in place.names:
            raise UserError(
                Problem("VERIFY-E0103", name, f"neither {PROVENANCE} nor {MANIFEST}",
                        "the folder of a registered version, or of a run's result", "name that folder")
            )  # fmt: skip
        _compare_artifact(found, name, place, key)
        return False
    now = digests(place, place.names)
    listed, predicate = _provenance(found, name, place, tags, now)
    now |= _weights(found, name, place, version, listed, now)
    _files(found, name, place, listed, now)
    _tags(found, name, version, predicate)
    _signature(found, name, place, tags, key, now)
    return signed


def _is_note_of_mlflow(folder: Folder, version: Version | None) -> bool:
    """Return whether a folder has the note that MLflow writes into one that it downloads or loads, and nothing else."""
    if NOTE not in folder.names or (folder.path / NOTE).stat().st_size > MOST_BYTES_OF_NOTE:
        return False
    told = _NOTED.fullmatch(folder.read(NOTE).decode("utf-8", "replace"))
    return told is not None and (version is None or (told[1], told[2]) == (version.name, version.number))


def _provenance(
    found: Verified, name: str, place: Place, tags: Mapping[str, str], now: Mapping[str, str]
) -> tuple[dict[str, str], dict[str, Any]]:
    """Compare the statement with the version's tag; return files and predicate, empty if there is none to trust."""
    where = f"{name}: {PROVENANCE}"
    try:
        listed, predicate = read(_small(place, PROVENANCE)) if PROVENANCE in now else ({}, {})
        said = "nothing"
    except (ValueError, UserError) as error:
        listed, predicate, said = {}, {}, f"a file that cannot be read ({error})"
    told = tags.get(PROVENANCE_DIGEST)
    if not listed:
        found.tell("provenance", "not there" if said == "nothing" else "not readable", [
            Problem("VERIFY-E0301", where, said, "the provenance that is written when a model is registered", RESTORE)
        ])  # fmt: skip
    elif told is not None and told != now[PROVENANCE]:
        found.tell("provenance", "changed", [
            Problem("VERIFY-E0302", where, f"sha256 {now[PROVENANCE][:12]}…",
                    f"{told[:12]}…, which the version's tag {PROVENANCE_DIGEST} says", RESTORE)
        ])  # fmt: skip
    else:
        said = "as the version's tag says" if told else "readable; no tag to compare it with"
        found.tell("provenance", said, checked=told is not None)
    return listed, predicate


def _weights(
    found: Verified, name: str, place: Place, version: Version | None, listed: Mapping[str, str], now: Mapping[str, str]
) -> dict[str, str]:
    """Hash the weights that the model only refers to; return their digests by the path of a copy."""
    copied = f"{COPY_FOLDER}/"
    wanted = {one for one in listed if one.startswith(copied)}
    if any(one.startswith(copied) for one in now) or not wanted:
        return {}
    try:
        uri = str(any_json(_small(place, REFERENCE_FILE))["weights_uri"])
    except (ValueError, KeyError, TypeError, OSError, UserError):
        uri = ""
    tag = version.tags.get("weights_uri", "") if version else uri
    if not uri or uri != tag:
        found.tell("place of the weights", "not one place", [
            Problem("VERIFY-E0303", f"{name}: {REFERENCE_FILE}", f"the place {masked(uri) or 'of no weights'}",
                    f"{masked(tag) or 'a place'}, as in the version's tag weights_uri", RESTORE)
        ])  # fmt: skip
        return {}
    weights = place_at(uri)
    if not weights.names:
        found.tell("weights", f"nothing at {masked(uri)}", [
            Problem("VERIFY-E0304", f"{name}: weights", f"nothing at {masked(uri)}", f"{len(wanted)} files", RESTORE)
        ])  # fmt: skip
        return {}
    found.tell("place of the weights", str(masked(uri)))
    _unexpected(found, f"{name}: weights", weights, {one.removeprefix(copied) for one in wanted})
    there = {one for one in weights.names if copied + one in wanted}
    return {copied + one: digest for one, digest in digests(weights, there).items()}


def _files(found: Verified, name: str, place: Place, listed: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Compare every file with the provenance."""
    if not listed:
        found.tell("files", "not compared, without a provenance", checked=False)
        return
    problems = list(_differences(name, listed, now))
    same = sum(now.get(one) == digest for one, digest in listed.items())
    found.tell("files", f"{same} of {len(listed)} have the sha256 of the provenance", problems)
    _unexpected(found, name, place, {*listed, PROVENANCE, SIGNATURE})


def _differences(name: str, listed: Mapping[str, str], now: Mapping[str, str]) -> Iterator[Problem]:
    for one, digest in sorted(listed.items()):
        if one not in now:
            yield Problem("VERIFY-E0305", f"{name}: {one}", "no such file", "the file that was registered", RESTORE)
        elif now[one] != digest:
            yield Problem("VERIFY-E0306", f"{name}: {one}", f"sha256 {now[one][:12]}…", f"{digest[:12]}…", RESTORE)


def _unexpected(found: Verified, name: str, place: Place, expected: set[str]) -> None:
    extra = dict.fromkeys(place.names - expected, "a file that was not registered")
    if odd := {**extra, **place.odd}:
        found.tell("other files", some_of(sorted(odd), 3), [
            Problem("VERIFY-E0307", f"{name}: {one}", what, "only the files that were registered", RESTORE)
            for one, what in sorted(odd.items())
        ])  # fmt: skip


def _tags(found: Verified, name: str, version: Version | None, predicate: Mapping[str, Any]) -> None:
    """Compare name, run and tags of the version with its provenance."""
    if version is None:
        found.tell("tags", "not compared: a folder has none", checked=False)
        return
    if not predicate:
        found.tell("tags", "not compared, without a provenance", checked=False)
        return
    details, built = predicate["runDetails"], predicate.get("buildDefinition", {})
    pairs = {f"tag {tag}": (version.tags.get(tag), value) for tag, value in details[TAGS].items()}
    pairs["run"] = (version.run_id, details.get("metadata", {}).get("invocationId"))
    pairs["name"] = (version.name, built.get("externalParameters", {}).get("registered_model_name"))
    problems = [
        Problem("VERIFY-E0308", f"{name}: {what}", str(masked(str(there)))[:80] if there is not None else "nothing",
                f"{str(masked(str(told)))[:80]}, as in the provenance", RESTORE)
        for what, (there, told) in sorted(pairs.items()) if there != told
    ]  # fmt: skip
    found.tell("tags", f"{len(pairs) - len(problems)} of {len(pairs)} are those of the provenance", problems)


def _signature(
    found: Verified, name: str, place: Place, tags: Mapping[str, str], key: Key | None, now: Mapping[str, str]
) -> None:
    where = f"{name}: {SIGNATURE}"
    said = tags.get(SIGNATURE_DIGEST)
    if SIGNATURE not in now:
        if said or key:
            found.tell("signature", "not there", [
                Problem("VERIFY-E0309", where, "no signature",
                        "the one that the tags name" if said else "one, as a key was given", RESTORE)
            ])  # fmt: skip
            return
        found.tell("signature", "none: who wrote the files was not checked", checked=False)
        return
    if said is not None and said != now[SIGNATURE]:
        found.tell("signature", "changed", [
            Problem("VERIFY-E0310", where, f"sha256 {now[SIGNATURE][:12]}…",
                    f"{said[:12]}…, which the version's tag {SIGNATURE_DIGEST} says", RESTORE)
        ])  # fmt: skip
    if key is None:
        found.tell(
            "signature", "not checked: no key was given, so anybody could have written all of this", checked=False
        )
        return
    _signed(found, where, place, tags, key, now)


def _signed(
    found: Verified, where: str, place: Place, tags: Mapping[str, str], key: Key, now: Mapping[str, str]
) -> None:
    """Check the signature with the key, and every file with what was signed."""
    try:
        content = _small(place, SIGNATURE)
        with TemporaryDirectory() as scratch:
            signed = signed_digests(content, key, Path(scratch))
    except (NotSigned, UserError) as error:
        found.tell("signature", "not of this key", [
            Problem("VERIFY-E0311", where, str(error), "a signature of the key's owner", RESTORE)
        ])  # fmt: skip
        return
    own = {one: digest for one, digest in now.items() if one in place.names and one != SIGNATURE}
    here = {**{one: now[one] for one in signed if one in now}, **own}
    wrong = sorted(one for one in {*here, *signed} if here.get(one) != signed.get(one))
    if tags and tags.get(SIGNED_WITH) != hint_of(content):
        wrong.append(f"the tag {SIGNED_WITH}")
    problems = [
        Problem("VERIFY-E0312", where, f"a signature of other content: {some_of(wrong, 5)}",
                "one of the files that are there", RESTORE)
    ] if wrong else []  # fmt: skip
    found.tell("signature", f"of {len(signed)} files, with the key {key.fingerprint[:12]}…", problems)


def _compare_artifact(found: Verified, name: str, place: Place, key: Key | None) -> None:
    """Compare the folder of a step's result with its manifest."""
    assert isinstance(place, Folder)
    try:
        manifest = parse_manifest(place.read(MANIFEST), place.path)
    except StepError as error:
        found.tell("manifest", "damaged", [
            Problem("VERIFY-E0313", f"{name}: {MANIFEST}", error.problems[0].found, "the manifest of a folder", RESTORE)
        ])  # fmt: skip
        return
    listed = {one: str(entry["sha256"]) for one, entry in manifest.files.items()}
    now = digests(place, place.names & set(listed))
    same = sum(now.get(one) == digest for one, digest in listed.items())
    found.tell("files", f"{same} of {len(listed)} have the sha256 of {MANIFEST}", list(_differences(name, listed, now)))
    _unexpected(found, name, place, {*listed, MANIFEST})
    for what in ("provenance", "tags"):
        found.tell(what, "not compared: a result of a run has none before it is registered", checked=False)
    _signature(found, name, place, {}, key, now)


def _small(place: Place, name: str) -> bytes:
    """Read one of the small files. Raises UserError if it is large."""
    content = place.read(name)
    if len(content) > MOST_BYTES:
        raise UserError(
            Problem("VERIFY-E0104", f"{place.where}: {name}", f"{len(content):,} bytes", f"at most {MOST_BYTES:,}",
                    "verify a version that this project registered")
        )  # fmt: skip
    return content
