"""Write what is in each image as CycloneDX: containers/<image>/sbom.cdx.json, from the locked requirements.

`make sbom` runs this in an environment of its own. pip says which file of an index each locked package is (`--dry-run
--report`, which downloads descriptions and few files), with the file's sha256 and its licence; CUDA's packages come
with torch, as in the image. The same locks and index give the same bytes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

ROOT = Path(__file__).parents[1]
LONGEST_LICENCE = 100  # characters; some packages have the whole text there
VERSION = (ROOT / "steps/__init__.py").read_text("utf-8").partition('__version__ = "')[2].partition('"')[0]


def main() -> None:
    """Write the three files."""
    locked = lines(ROOT / "requirements.txt")
    left_out = set(lines(ROOT / "containers/core/left-out.txt"))
    core = [line for line in locked if line.partition("==")[0] not in left_out]
    of_core = described(["--no-deps", *core])
    with_torch = described(["--constraint", str(ROOT / "requirements.txt"), *sorted(left_out)])
    named = {one["metadata"]["name"].lower() for one in of_core}
    more = [one for one in with_torch if one["metadata"]["name"].lower() not in named]
    write("core", of_core)
    write("train", [*of_core, *more])
    write("verl", described(["--no-deps", *lines(ROOT / "requirements-verl-image.txt")]))


def lines(file: Path) -> list[str]:
    """Return the lines of a list without its comments."""
    return [line for line in file.read_text("utf-8").splitlines() if line and not line.startswith("#")]


def described(words: list[str]) -> list[dict[str, Any]]:
    """Return what pip would install, each with its file, digest and metadata."""
    with TemporaryDirectory() as scratch:
        report = Path(scratch, "report.json")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed",
                   "--disable-pip-version-check", "--report", str(report), *words]  # fmt: skip
        # The settings of this machine, such as other indexes, are none of the image's; its certificates are needed.
        own = {name: value for name, value in os.environ.items() if not name.startswith("PIP_") or name == "PIP_CERT"}
        subprocess.run(command, env={**own, "PIP_CONFIG_FILE": os.devnull}, check=True)
        return list(json.loads(report.read_text("utf-8"))["install"])


def write(image: str, packages: Iterable[dict[str, Any]]) -> None:
    """Write one file; tests/test_sbom.py checks it with CycloneDX's schema."""
    name = f"finetune-pipelines-{image}"
    whole = Component(type=ComponentType.CONTAINER, name=name, version=VERSION, bom_ref=name)
    bom = Bom(components=[component(one) for one in packages])
    bom.metadata.component = whole
    bom.register_dependency(whole, bom.components)
    told = json.loads(JsonV1Dot6(bom).output_as_string())
    # A time and a random number would change with every writing.
    del told["metadata"]["timestamp"]
    told["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, json.dumps(told["components"])).urn
    text = json.dumps(told, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    (ROOT / "containers" / image / "sbom.cdx.json").write_text(text, encoding="utf-8")
    print(f"containers/{image}/sbom.cdx.json: {len(told['components'])} packages")


def component(package: dict[str, Any]) -> Component:
    """Describe one package of pip's report."""
    metadata, file = package["metadata"], package["download_info"]
    name, version = metadata["name"], metadata["version"]
    purl = PackageURL("pypi", None, name.lower().replace("_", "-").replace(".", "-"), version)
    digest = HashType(alg=HashAlgorithm.SHA_256, content=file["archive_info"]["hashes"]["sha256"])
    return Component(
        type=ComponentType.LIBRARY, name=name, version=version, purl=purl, bom_ref=str(purl), hashes=[digest],
        licenses=list(licences(metadata)),
        external_references=[ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=XsUri(file["url"]))],
    )  # fmt: skip


def licences(metadata: dict[str, Any]) -> Iterator[Any]:
    """Yield the licence that a package declares: an SPDX expression, else its own short words, else its classifiers."""
    make = LicenseFactory().make_from_string
    text = metadata.get("license_expression") or " ".join(str(metadata.get("license") or "").split())
    own = [one.rpartition(" :: ")[2] for one in metadata.get("classifier", ()) if one.startswith("License :: ")]
    named = [text] if text and len(text) <= LONGEST_LICENCE else own
    for one in named[:1] if text in named else named:
        yield make(one, license_acknowledgement=LicenseAcknowledgement.DECLARED)


if __name__ == "__main__":
    main()
