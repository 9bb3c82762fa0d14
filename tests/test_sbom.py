"""containers/*/sbom.cdx.json list what the images are locked to, in the form of CycloneDX 1.6.

tests/cyclonedx/ has the schema, as published at github.com/CycloneDX/specification (Apache-2.0).
"""

import json
import re
from pathlib import Path

import pytest
from jsonschema import Draft7Validator
from referencing import Registry, Resource

ROOT = Path(__file__).parents[1]
SCHEMAS = {file.name: json.loads(file.read_text("utf-8")) for file in (ROOT / "tests/cyclonedx").glob("*.json")}
LOCKS = {"core": "requirements.txt", "train": "requirements.txt", "verl": "requirements-verl-image.txt"}


def told(image: str) -> dict:
    return json.loads((ROOT / "containers" / image / "sbom.cdx.json").read_text("utf-8"))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(image: str) -> dict[str, str]:
    """The packages that an image is locked to, with their versions."""
    lines = [line for line in (ROOT / LOCKS[image]).read_text().splitlines() if line and line[0] != "#"]
    left_out = (ROOT / "containers/core/left-out.txt").read_text().split() if image == "core" else []
    pairs = [line.split("==") for line in lines]
    return {canonical(name): version for name, version in pairs if name not in left_out}


def validator() -> Draft7Validator:
    base = SCHEMAS["bom-1.6.schema.json"]["$id"].rpartition("/")[0]
    named = {f"{base}/{name.replace('.schema', '.SNAPSHOT.schema')}": schema for name, schema in SCHEMAS.items()}
    registry = Registry().with_resources((uri, Resource.from_contents(schema)) for uri, schema in named.items())
    return Draft7Validator(SCHEMAS["bom-1.6.schema.json"], registry=registry)


@pytest.mark.parametrize("image", LOCKS)
def test_an_image_has_the_packages_of_its_lock_each_with_a_digest(image):
    sbom = told(image)
    listed = {canonical(one["name"]): one["version"] for one in sbom["components"]}
    wanted = locked(image)
    assert {name: listed.get(name) for name in wanted} == wanted, "run `make sbom`"
    # What torch brings into the train image is no part of its lock.
    more = set(listed) - set(wanted)
    assert (
        not more if image != "train" else all(re.match("nvidia-|cuda-|(triton|setuptools)$", name) for name in more)
    ), more
    assert sbom["metadata"]["component"]["name"] == f"finetune-pipelines-{image}"
    for one in sbom["components"]:
        [digest] = one["hashes"]
        assert (digest["alg"], len(digest["content"])) == ("SHA-256", 64)
        assert one["purl"] == f"pkg:pypi/{canonical(one['name'])}@{one['version']}"
        [file] = one["externalReferences"]
        assert file["url"].startswith("https://")
    without = [one["name"] for one in sbom["components"] if not one.get("licenses")]
    assert len(without) <= len(listed) // 20, without


@pytest.mark.parametrize("image", LOCKS)
def test_the_files_are_valid_cyclonedx(image):
    assert [error.message for error in validator().iter_errors(told(image))] == []


def test_the_schema_would_refuse_a_wrong_file():
    wrong = told("core")
    wrong["components"][0]["hashes"][0]["content"] = "none"
    wrong["components"][1]["licenses"] = [{"license": {"id": "No-Such-Licence"}}]
    del wrong["components"][2]["name"]
    assert len(list(validator().iter_errors(wrong))) >= 3


@pytest.mark.parametrize("image", LOCKS)
def test_the_image_has_its_own_file(image):
    dockerfile = (ROOT / "containers" / image / "Dockerfile").read_text()
    assert re.search(rf"^COPY .*containers/{image}/sbom\.cdx\.json", dockerfile, re.M)
    assert f"!containers/{image}/sbom.cdx.json" in (ROOT / ".dockerignore").read_text().splitlines()
