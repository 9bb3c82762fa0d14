"""`finetune upload`: a pipeline of its name, with versions that are named after their content."""

from pathlib import Path

import pytest
import yaml
from kfp_server import KfpServer

pytestmark = pytest.mark.usefixtures("kfp_server")


def test_a_pipeline_is_uploaded_in_both_forms_and_once(kfp_server: KfpServer, finetune):
    done = finetune("upload", "chat_completion")
    assert done.code == 0, done.err
    assert {one["name"] for one in kfp_server.pipelines.values()} == {"chat-completion", "chat-completion-short"}
    (whole,) = [one for one in kfp_server.pipelines.values() if one["name"] == "chat-completion"]
    assert whole["display_name"] == "Chat completion"
    assert whole["description"].startswith("Tune a chat model on conversations.")
    assert "finetune describe chat_completion" in whole["description"]
    assert "http" not in whole["description"]
    versions = [one for one in kfp_server.versions.values() if one["pipeline_id"] == whole["pipeline_id"]]
    assert len(versions) == 1
    assert versions[0]["name"].startswith("0.1.0-")
    assert versions[0]["description"] == whole["description"]
    assert f"/#/pipelines/details/{whole['pipeline_id']}/version/" in done.out

    before = len(kfp_server.versions)
    again = finetune("upload", "chat-completion")
    assert again.code == 0
    assert again.out.count("unchanged") == 2
    assert len(kfp_server.versions) == before
    assert len(kfp_server.asked("POST pipelines/upload_version")) == 2


def test_a_profile_makes_another_version(kfp_server: KfpServer, finetune, tmp_path):
    profile = tmp_path / "cluster.yaml"
    profile.write_text("images: {registry: registry.example.com/team}\n")
    assert finetune("upload", "adapter_tools").code == 0
    assert finetune("upload", "adapter_tools", "--profile", profile).code == 0
    (one,) = {version["pipeline_id"] for version in kfp_server.versions.values()}
    assert len(kfp_server.versions) == 2
    last = list(kfp_server.specs.values())[-1]
    images = {made["container"]["image"] for made in last["deploymentSpec"]["executors"].values()}
    assert all(image.startswith("registry.example.com/team/") for image in images)
    assert one


def test_a_file_that_was_compiled_is_uploaded(kfp_server: KfpServer, finetune, tmp_path):
    words = ["--name", "dates", "--inputs", "learning_rate", "-o", tmp_path]
    assert finetune("compile", "chat_completion", *words).code == 0
    done = finetune("upload", tmp_path / "dates_pipeline.yaml")
    assert done.code == 0, done.err
    assert [one["name"] for one in kfp_server.pipelines.values()] == ["dates"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("none.yaml", None), ("a.yaml", "a: 1"), ("b.yaml", "[1"), ("c.yml", "- 1"), ("d.yaml", ""), ("chat", None)],
)
def test_what_is_no_pipeline_is_refused_before_anything_is_sent(
    kfp_server: KfpServer, finetune, tmp_path, name, content
):
    if content is not None:
        Path(tmp_path, name).write_text(content)
    done = finetune("upload", tmp_path / name if "." in name else name)
    assert done.code == 2
    assert kfp_server.requests == []


def test_the_version_does_not_depend_on_the_order_of_keys():
    from pipelines.client.packages import Package, package_of

    package = package_of("adapter_tools")
    other = "---\n".join(yaml.safe_dump(made, sort_keys=False) for made in reversed(package.documents[:1]))
    rest = "".join(f"---\n{yaml.safe_dump(made)}" for made in package.documents[1:])
    assert Package(f"# a comment\n{other}{rest}").version == package.version


@pytest.mark.parametrize(("where", "code"), [("POST pipelines/upload_version", 4), ("POST pipelines", 4)])
def test_an_upload_that_fails_can_be_repeated(kfp_server: KfpServer, finetune, where, code):
    kfp_server.fail[where] = (500, "no database", {})
    assert finetune("upload", "adapter_tools").code == code
    kfp_server.fail.clear()
    assert finetune("upload", "adapter_tools").code == 0
    assert len(kfp_server.versions) == 1


def test_in_a_namespace_the_pipeline_is_the_users_own(kfp_server: KfpServer, finetune):
    kfp_server.multi_user = True
    for _ in range(2):
        assert finetune("upload", "adapter_tools", "--namespace", "team").code == 0
    (made,) = kfp_server.pipelines.values()
    assert made["namespace"] == "team"


def test_python_shows_what_was_uploaded(kfp_server: KfpServer):
    from pipelines.client import connect, upload

    done = upload("adapter_tools", server=connect())
    assert "adapter-tools" in str(done)
    assert "<table>" in done._repr_html_()
    assert f'href="{done[0].address}"' in done._repr_html_()
    assert "uploaded" in done[0]._repr_html_()
