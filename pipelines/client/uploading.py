"""Upload pipelines: each as a pipeline of its name, or as a new version of it."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kfp_server_api

from pipelines.catalog import PIPELINES
from pipelines.client.connection import Connection, Server, connected, quiet
from pipelines.client.display import Shown, ShownList
from pipelines.client.packages import Package, packages

if TYPE_CHECKING:
    from pipelines.profile import Profile

EQUALS = "EQUALS"


@dataclass(frozen=True, repr=False)
class Uploaded(Shown):
    """A version of a pipeline in KFP."""

    pipeline: str
    """Name of the pipeline."""
    version: str
    """Name of the version."""
    pipeline_id: str
    version_id: str
    new: bool
    """Whether this call uploaded it; else KFP had it."""
    address: str

    def rows(self) -> list[tuple[str, Any]]:
        """Names and values."""
        state = "uploaded" if self.new else "unchanged: KFP has this version"
        return [("pipeline", self.pipeline), ("version", self.version), ("upload", state), ("address", self.address)]


class UploadedList(ShownList):
    """Versions of pipelines."""

    heads = ("pipeline", "version", "upload", "address")


def upload(
    *names: str,
    profile: Profile | None = None,
    image_prefix: str = "",
    images: dict[str, str] | None = None,
    choices: bool = True,
    server: Server | Connection | None = None,
    show: Callable[[Uploaded], Any] = lambda done: None,
) -> UploadedList:
    """Upload pipelines (default: all), each in full and in its short form; a name may be a compiled YAML file.

    A version that KFP has already is not uploaded again. Raises UserError or Outage.
    """
    made = packages(names or tuple(PIPELINES), profile, image_prefix, images, choices)
    there = connected(server)
    done = UploadedList()
    for package in made:
        done.append(upload_package(there, package))
        show(done[-1])
    return done


def upload_package(server: Server, package: Package) -> Uploaded:
    """Upload one compiled pipeline, unless KFP has a version with the same content."""
    pipeline_id = pipeline_of(server, package.name) or _create(server, package)
    found = _version_of(server, pipeline_id, package.version)
    version_id = found or _upload(server, package, pipeline_id)
    address = server.page(f"pipelines/details/{pipeline_id}/version/{version_id}")
    return Uploaded(package.name, package.version, pipeline_id, version_id, not found, address)


def pipeline_of(server: Server, name: str) -> str:
    """Return the id of the pipeline of this name in the user's namespace; empty if there is none."""
    answer = server.client.list_pipelines(filter=where("name", name), namespace=server.namespace, page_size=50)
    return next((one.pipeline_id for one in answer.pipelines or () if name in (one.name, one.display_name)), "")


def where(key: str, value: str) -> str:
    """Return a filter for KFP's lists."""
    return json.dumps({"predicates": [{"operation": EQUALS, "key": key, "stringValue": value}]})


def _version_of(server: Server, pipeline_id: str, name: str) -> str:
    answer = server.client.list_pipeline_versions(pipeline_id=pipeline_id, filter=where("name", name), page_size=50)
    versions = answer.pipeline_versions or ()
    return next((one.pipeline_version_id for one in versions if name in (one.name, one.display_name)), "")


def _create(server: Server, package: Package) -> str:
    """Create the pipeline without a version: KFP's upload would give the first version the pipeline's name."""
    body = kfp_server_api.V2beta1Pipeline(
        name=package.name,
        display_name=package.display_name,
        description=package.description,
        namespace=server.namespace,
    )
    made = server.client.pipelines.pipeline_service_create_pipeline(pipeline=body)
    return str(made.pipeline_id)


def _upload(server: Server, package: Package, pipeline_id: str) -> str:
    with as_file(package) as file, quiet():
        made = server.client.pipeline_uploads.upload_pipeline_version(
            str(file),
            name=package.version,
            display_name=package.version,
            description=package.description,
            pipelineid=pipeline_id,
        )
    return str(made.pipeline_version_id)


@contextlib.contextmanager
def as_file(package: Package) -> Any:
    """Yield a file with the package."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"{package.name}.yaml")
        file.write_text(package.text, encoding="utf-8")
        yield file
