"""A registered version has a provenance and a signature, and `finetune verify` notices every change of it."""

import base64
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import fsspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from planning import planned
from registering import as_artifact, client, content, settings, write_evaluation

from steps.artifacts import MANIFEST, sha256_of
from steps.errors import Outage, StepError, UserError
from steps.models.layout import COPY_FOLDER
from steps.params.registration import COMPILED_AS, SIGNING_KEY
from steps.register_model import registry, verifying
from steps.register_model.provenance import PROVENANCE_DIGEST, SIGNATURE_DIGEST, SIGNED_WITH
from steps.register_model.step import register_model
from steps.register_model.verifying import verify_model
from steps.signing.keys import read_private
from steps.signing.places import digests, place_at, place_of
from steps.tracking.registered import StoredModel, Version, open_version

MODEL = "normaliser"


def pem(key, encryption=None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def public_pem(key) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def keys(tmp_path, monkeypatch) -> SimpleNamespace:
    """A pair of keys, the private one given to registrations, and the public key of somebody else."""
    folder = tmp_path / "keys"
    folder.mkdir()
    own, other = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())
    files = {"private": pem(own), "public": public_pem(own), "other": public_pem(other), "other_private": pem(other)}
    for name, text in files.items():
        (folder / f"{name}.pem").write_bytes(text)
    monkeypatch.setenv(SIGNING_KEY, str(folder / "private.pem"))
    return SimpleNamespace(**{name: folder / f"{name}.pem" for name in files})


def stored(version) -> Path:
    """The folder of a version in this test's store."""
    return Path(client().get_run(version.run_id).info.artifact_uri.removeprefix("file://")) / registry.place_of(version)


def the_version(number: str = "1"):
    return client().get_model_version(MODEL, number)


def read_once(monkeypatch) -> Version:
    """Let verify find the version as the registry tells it now, without asking it each time; return it."""
    opened = open_version("models:/normaliser/1", os.environ["MLFLOW_TRACKING_URI"])
    monkeypatch.setattr(verifying, "open_version", lambda *_: opened)
    return opened


def told(model: str = MODEL, key: Path | None = None) -> tuple[int, str]:
    """The code that `finetune verify` ends with, and its problems."""
    try:
        verify_model(model, key)
    except StepError as error:
        return error.exit_code, str(error)
    return 0, ""


@contextmanager
def changed(file: Path, new: bytes) -> Iterator[None]:
    before = file.read_bytes()
    file.write_bytes(new)
    yield
    file.write_bytes(before)


@contextmanager
def flipped(file: Path) -> Iterator[None]:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    with changed(file, bytes(content)):
        yield


@contextmanager
def added(file: Path, make: Callable[[Path], None]) -> Iterator[None]:
    make(file)
    yield
    file.unlink()


@contextmanager
def moved(file: Path, put: Path | None = None) -> Iterator[None]:
    """Without the file, or with a link to another one in its place."""
    aside = file.parent.parent / "aside"
    file.rename(aside)
    if put:
        file.symlink_to(put)
    yield
    file.unlink(missing_ok=True)
    aside.rename(file)


@contextmanager
def swapped(one: Path, two: Path) -> Iterator[None]:
    first, second = one.read_bytes(), two.read_bytes()
    with changed(one, second), changed(two, first):
        yield


@contextmanager
def tagged(name: str, value: str) -> Iterator[None]:
    before = the_version().tags[name]
    client().set_model_version_tag(MODEL, "1", name, value)
    yield
    client().set_model_version_tag(MODEL, "1", name, before)


def files_in(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def changes(place: Path, some: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    """Every way to change a folder's files, one at a time; the dearer half only for the files that are named."""
    every = files_in(place)
    for file in every:
        yield f"one bit of {file.name}", flipped(file)
    for file in (place / name for name in some):
        yield f"without {file.name}", moved(file)
        yield f"a link in place of {file.name}", moved(file, file.parent.parent / "aside")
        yield f"an empty {file.name}", changed(file, b"")
        yield f"a byte more in {file.name}", changed(file, file.read_bytes() + b"\n")
    yield "one more file", added(place / "extra.py", lambda file: file.write_text("1"))
    yield "a hidden file", added(place / ".gitignore", lambda file: file.write_text("*"))
    yield "a file of the system", added(place / "_SUCCESS", Path.touch)
    yield "a link to nothing", added(place / "nowhere", lambda file: file.symlink_to("nothing"))
    yield "a link to a folder", added(place / "linked", lambda file: file.symlink_to(place.parent))
    yield "a pipe", added(place / "pipe", os.mkfifo)
    yield "two files swapped", swapped(*[place / name for name in some][-2:])


def unnoticed(place: Path, some: tuple[str, ...], model: str = MODEL, key: Path | None = None) -> list[object]:
    """The changes of a folder after which verify does not end with 3."""
    found = []
    for what, change in changes(place, some):
        with change:
            code, said = told(model, key)
        if code != 3 or "Fix: " not in said:
            found.append((what, code, said))
    return found


WEIGHTS = (MANIFEST, "config.json", "model.safetensors")


@pytest.mark.slow
def test_every_change_of_a_version_and_of_the_weights_that_it_refers_to_is_noticed(world, keys, monkeypatch):
    register_model(settings(), **world)
    package = stored(the_version())
    report = verify_model(MODEL, keys.public)
    assert report["verdict"] == "as registered"
    assert {row["what"]: row["ok"] for row in report["checks"]} == {
        "provenance": True, "place of the weights": True, "files": True, "tags": True, "signature": True,
    }  # fmt: skip
    read_once(monkeypatch)
    some = ("model.sig", "provenance.json", "MLmodel", "artifacts/reference/model_reference.json")
    assert unnoticed(package, some, key=keys.public) == []
    assert unnoticed(world["tuned"], WEIGHTS, key=keys.public) == []
    for file in (package / "MLmodel", package / "provenance.json", world["tuned"] / "model.safetensors"):
        with flipped(file):
            assert told()[0] == 3  # and also without a key
    assert told(key=keys.public) == (0, "")


@pytest.mark.slow
def test_every_change_of_weights_that_were_copied_is_noticed(world, keys, monkeypatch):
    register_model(settings(registration={"registered_model_name": MODEL, "copy_weights_to_mlflow": True}), **world)
    assert told(key=keys.public) == (0, "")
    read_once(monkeypatch)
    assert unnoticed(stored(the_version()) / COPY_FOLDER, WEIGHTS, key=keys.public) == []
    shutil.rmtree(world["tuned"])  # the copy is what is verified
    assert told(key=keys.public) == (0, "")


@pytest.mark.slow
def test_changes_of_tags_provenance_and_signature_are_noticed(world, keys, tmp_path, models, monkeypatch):
    register_model(settings(), **world)
    package = stored(the_version())
    repeated = json.loads((package / "provenance.json").read_text())["predicate"]["runDetails"]["finetune_tags"]
    assert set(repeated) >= {"weights_uri", "base_digest", "data_digest", "base_model", "pipeline", "tuned/loss"}
    with tagged("base_digest", "0" * 64):
        assert told(key=keys.public)[0] == 3
    opened = read_once(monkeypatch)
    tags = opened.tags
    others = [
        {"tags": {**tags, tag: "0" * 64}} for tag in (*repeated, PROVENANCE_DIGEST, SIGNATURE_DIGEST, SIGNED_WITH)
    ]
    others += [{"tags": {name: one for name, one in tags.items() if name != tag}} for tag in repeated]
    for other in (*others, {"run_id": "0" * 32}, {"name": "another"}):
        monkeypatch.setattr(verifying, "open_version", lambda *_, other=other: replace(opened, **other))
        assert told(key=keys.public)[0] == 3, other
    monkeypatch.setattr(verifying, "open_version", open_version)
    client().set_model_version_tag(MODEL, "1", "team", "search")  # tags of one's own are nobody's business
    assert told(key=keys.public)[0] == 0
    # Somebody who can write files and tags makes all of it agree again, but has no key.
    edited = json.loads((package / "provenance.json").read_text())
    edited["predicate"]["buildDefinition"]["externalParameters"]["parameters"]["learning_rate"] = 1
    with changed(package / "provenance.json", json.dumps(edited).encode()):
        assert told(key=keys.public)[0] == 3
        with tagged(PROVENANCE_DIGEST, sha256_of(package / "provenance.json")):
            assert told()[0] == 2
            code, said = told(key=keys.public)
            assert (code, "of other content: provenance.json" in said) == (3, True)
    # The signature of another version, by the same key.
    other = {**world, "registration": tmp_path / "second"}
    other["tuned"] = as_artifact(models["base"], tmp_path / "other")
    other["evaluation"] = write_evaluation(tmp_path / "other evaluation", other["tuned"])
    register_model(settings(), **other)
    second = stored(the_version("2"))
    assert told("normaliser/2", keys.public)[0] == told("normaliser@champion", keys.public)[0] == 0
    with changed(package / "model.sig", (second / "model.sig").read_bytes()), \
            tagged(SIGNATURE_DIGEST, sha256_of(second / "model.sig")):  # fmt: skip
        assert told("normaliser/1", keys.public)[0] == 3
    # A whole other version in the place of this one.
    shutil.copytree(second, package, dirs_exist_ok=True)
    assert "run" in told("normaliser/1", keys.public)[1]


@pytest.mark.slow
def test_a_version_can_be_verified_as_the_folder_that_mlflow_downloads(world, keys, tmp_path):
    from mlflow.artifacts import download_artifacts

    register_model(settings(), **world)
    uri, store = "models:/normaliser/1", os.environ["MLFLOW_TRACKING_URI"]
    (tmp_path / "copy").mkdir()
    downloaded = Path(download_artifacts(uri, dst_path=str(tmp_path / "copy"), tracking_uri=store, registry_uri=store))
    note = downloaded / "registered_model_meta"  # MLflow's own, also in the store, if that is a folder it loads from
    assert note.is_file()
    shutil.copyfile(note, stored(the_version()) / note.name)
    assert told(key=keys.public) == (0, "")
    for other in (b"x: 1\n", note.read_bytes() + b"code: evil\n", note.read_bytes().replace(b"normaliser", b"other")):
        (stored(the_version()) / note.name).write_bytes(other)
        assert told(key=keys.public)[0] == 3
    for folder in (world["registration"] / "mlflow_model", downloaded):
        code, problems = told(str(folder), keys.public)
        assert code == 0, problems
        assert told(str(folder))[0] == 2
        assert told(str(folder), keys.other)[0] == 3
        with flipped(folder / "MLmodel"):
            assert told(str(folder), keys.public)[0] == 3
        for name in ("model.sig", "provenance.json"):
            with moved(folder / name):
                assert told(str(folder), keys.public)[0] == 3, name
    # Weights alone, as a run leaves them: a manifest, which anybody can write.
    assert told(str(world["tuned"])) == (0, "")
    assert told(str(world["tuned"]), keys.public)[0] == 3
    with changed(world["tuned"] / MANIFEST, b"{}"):
        assert told(str(world["tuned"]))[0] == 3
    missed = unnoticed(world["tuned"], ("config.json", "model.safetensors"), str(world["tuned"]))
    assert [what for what, *_ in missed if MANIFEST not in what] == []  # a manifest alone says nothing about itself


@pytest.mark.slow
def test_model_signing_itself_accepts_the_downloaded_folder(world, keys, tmp_path):
    """The signature is that of the library: its own verifier hashes the files and finds the same."""
    from model_signing import hashing
    from model_signing.verifying import Config

    how = {"registered_model_name": MODEL, "copy_weights_to_mlflow": True}
    register_model(settings(registration=how), **world)
    package = stored(the_version())
    own = hashing.Config().set_ignored_paths(paths=["model.sig"], ignore_git_paths=False)
    config = Config().use_elliptic_key_verifier(public_key=keys.public).set_hashing_config(own)
    config.verify(package, package / "model.sig")
    with flipped(package / COPY_FOLDER / "model.safetensors"), pytest.raises(ValueError, match=r"model\.safetensors"):
        config.verify(package, package / "model.sig")


@pytest.mark.slow
def test_a_version_without_a_key_says_what_was_not_checked_and_is_signed_later(world, keys, monkeypatch):
    monkeypatch.delenv(SIGNING_KEY)
    register_model(settings(), **world)
    report = verify_model(MODEL)
    assert report["verdict"] == "as registered"
    last = report["checks"][-1]
    assert (last["what"], last["ok"]) == ("signature", None)
    assert "who wrote the files was not checked" in last["told"]
    assert told(key=keys.public)[0] == 3
    before = content()
    monkeypatch.setenv(SIGNING_KEY, str(keys.private))
    register_model(settings(), **world)
    assert content() == before
    assert told(key=keys.public) == (0, "")
    # A signed version gets its copy of the weights only with the key.
    how = settings(registration={"registered_model_name": MODEL, "copy_weights_to_mlflow": True})
    monkeypatch.delenv(SIGNING_KEY)
    with pytest.raises(UserError, match="REGISTER-E0211"):
        register_model(how, **world)
    assert told(key=keys.public) == (0, "")
    monkeypatch.setenv(SIGNING_KEY, str(keys.private))
    register_model(how, **world)
    assert (stored(the_version()) / COPY_FOLDER / "model.safetensors").is_file()
    assert told(key=keys.public) == (0, "")


@pytest.mark.slow
def test_the_provenance_names_sources_parameters_images_and_pipeline(world, monkeypatch):
    images = ["registry/core@sha256:" + "a" * 64, "finetune-pipelines-train:0.1.0"]
    monkeypatch.setenv(COMPILED_AS, json.dumps({"images": images, "spec": "f" * 64}))
    secret = "hf_" + "A" * 34
    given = settings()
    given.lineage["parameters"]["experiment_name"] = secret
    register_model(given, **world)
    text = (stored(the_version()) / "provenance.json").read_text()
    assert secret not in text
    told = json.loads(text)
    built, ran = told["predicate"]["buildDefinition"], told["predicate"]["runDetails"]
    assert built["externalParameters"]["parameters"]["learning_rate"] == 3e-3
    assert built["internalParameters"] == {"pipeline_spec_sha256": "f" * 64}
    named = {one["name"]: one for one in built["resolvedDependencies"]}
    assert named["model"] == {"name": "model", "uri": "org/base", "digest": {"other": "c0ffee"}}
    assert named["artifact data"]["digest"] == {"sha256": "d" * 64}
    assert ran["builder"]["builderDependencies"] == [
        {"name": "image", "uri": "registry/core", "digest": {"sha256": "a" * 64}},
        {"name": "image", "uri": "finetune-pipelines-train:0.1.0"},
    ]
    assert ran["metadata"]["invocationId"] == the_version().run_id
    subject = {one["name"]: one["digest"]["sha256"] for one in told["subject"]}
    assert subject["artifacts/weights/model.safetensors"] == sha256_of(world["tuned"] / "model.safetensors")
    assert the_version().tags[PROVENANCE_DIGEST] == sha256_of(stored(the_version()) / "provenance.json")


@pytest.mark.slow
def test_a_repeated_registration_writes_the_same_bytes(world, keys, tmp_path, monkeypatch):
    """A step that was killed before the version existed writes the same files again, and so does one beside it."""
    monkeypatch.setattr(registry, "create_version", lambda *_: (_ for _ in ()).throw(ConnectionError("killed")))
    found = []
    for _ in range(2):
        with pytest.raises(StepError, match="killed"):
            register_model(settings(), **world)
        [run] = client().search_runs([one.experiment_id for one in client().search_experiments()])
        folder = Path(run.info.artifact_uri.removeprefix("file://"))
        found.append({str(file.relative_to(folder)): file.read_bytes() for file in files_in(folder)})
    assert found[0] == found[1]
    assert any(name.endswith("model.sig") for name in found[0])


def _wrong_keys(folder: Path, keys) -> dict[str, Path]:
    """Every kind of file that cannot sign, by what the message says of it."""
    own = ec.generate_private_key(ec.SECP256R1())
    made = {
        "a private key with a password": pem(own, BestAvailableEncryption(b"secret")),
        "a public key": public_pem(own),
        "RSA": pem(rsa.generate_private_key(65537, 2048)),
        "secp256k1": pem(ec.generate_private_key(ec.SECP256K1())),
        "no private key": b"-----BEGIN PRIVATE KEY-----\nMIGH\n-----END PRIVATE KEY-----\n",
        "which is no private key": b"",
        "is no private key": base64.b64encode(pem(own)),
        "more than": b"x" * 100_000,
    }
    files = {}
    for number, (said, text) in enumerate(made.items()):
        files[said] = folder / f"wrong-{number}.pem"
        files[said].write_bytes(text)
    os.mkfifo(folder / "pipe")
    return files | {"no file at": folder / "absent.pem", "no plain file": folder, "plain file at": folder / "pipe"}


def test_every_key_that_cannot_sign_is_refused_without_a_word_of_it(tmp_path, keys):
    for said, file in _wrong_keys(tmp_path, keys).items():
        with pytest.raises(UserError) as caught:
            read_private(SIGNING_KEY, file)
        assert said in str(caught.value), said
        assert SIGNING_KEY in str(caught.value)
        if file.is_file():
            lines = [line for line in file.read_bytes().decode("utf-8", "replace").splitlines() if len(line) > 30]
            assert not any(line in str(caught.value) for line in lines)
    if os.geteuid():
        unreadable = tmp_path / "unreadable.pem"
        unreadable.write_bytes(keys.private.read_bytes())
        unreadable.chmod(0)
        with pytest.raises(UserError, match="cannot be read"):
            read_private(SIGNING_KEY, unreadable)


@pytest.mark.slow
def test_a_wrong_key_is_refused_before_anything_is_created(world, tmp_path, keys, monkeypatch):
    before = content()
    for file in _wrong_keys(tmp_path, keys).values():
        monkeypatch.setenv(SIGNING_KEY, str(file))
        with pytest.raises(UserError, match="SIGN-E01"):
            register_model(settings(), **world)
    assert content() == before
    assert not world["registration"].exists()


@pytest.mark.slow
def test_the_command_prints_a_table_and_ends_with_its_codes(world, keys, capsys, monkeypatch):
    from pipelines import cli

    register_model(settings(), **world)

    def ended(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["finetune", "verify", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code, out, err

    code, out, _ = ended("normaliser@champion", "--key", keys.public)
    assert code == 0
    assert out.startswith("models:/normaliser/1: as registered\n")
    assert re.search(r"^ok +signature +of \d+ files, with the key", out, re.M)
    assert ended("normaliser/7", "--key", keys.public)[0] == 2
    assert ended("nobody")[0] == 2
    assert ended("normaliser", "--key", "absent.pem")[0] == 2
    assert ended("normaliser", "--key", keys.private)[0] == 2
    code, out, err = ended("normaliser")
    assert (code, "not checked" in out, "VERIFY-E0101" in err) == (2, True, True)
    assert ended("normaliser", "--key", keys.other)[0] == 3
    with flipped(world["tuned"] / "model.safetensors"):
        code, out, err = ended("normaliser", "--key", keys.public)
        assert (code, "WRONG" in out) == (3, True)
        assert "model.safetensors" in err
        code, out, _ = ended("normaliser", "--key", keys.public, "--json")
        assert (code, json.loads(out)["verdict"], json.loads(out)["error"]["code"]) == (3, "changed", 3)
    code, out, _ = ended("normaliser", "--key", keys.public, "--json")
    assert (code, json.loads(out)["error"]) == (0, None)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert ended("normaliser", "--mlflow-server-uri", "http://127.0.0.1:9")[0] == 4


def test_files_in_stores_are_hashed_where_they_are_and_none_is_left_out(memory, tmp_path):
    files = {"config.json": b"{}", "sub/model.safetensors": b"1" * 100_000, "_SUCCESS": b"", "sub/.DS_Store": b"x"}
    wanted = {name: hashlib.sha256(text).hexdigest() for name, text in files.items()}
    for name, text in files.items():
        fsspec.filesystem("memory").pipe(f"/bucket/model/{name}", text)
    place = place_at("memory://bucket/model")
    assert digests(place, place.names) == wanted
    assert place.read("config.json") == b"{}"
    assert place_at("memory://bucket/nothing").names == set()

    def fetch(name: str, path: str) -> None:
        Path(path).write_bytes(files[name])

    repository = SimpleNamespace(artifact_uri="mlflow-artifacts:/1/model", _download_file=fetch)
    model = StoredModel({name: len(one) for name, one in files.items()}, repository, TemporaryDirectory(), "http://x")
    stored_there = place_of(model, "models:/normaliser/1")
    assert digests(stored_there, stored_there.names) == wanted
    assert files_in(model.scratch) == []
    cut = StoredModel({"config.json": 3}, repository, TemporaryDirectory(), "http://x")
    with pytest.raises(Outage):
        place_of(cut, "models:/normaliser/1").sha256("config.json")


@pytest.mark.slow
def test_the_plan_refuses_a_key_that_cannot_sign_if_a_version_will_be_registered(
    local_base, chat_file, tmp_path, keys, monkeypatch
):
    assert f"signed with the key {read_private('', keys.private).fingerprint[:12]}" in str(
        planned(local_base, chat_file).warnings
    )
    for said, file in _wrong_keys(tmp_path, keys).items():
        monkeypatch.setenv(SIGNING_KEY, str(file))
        with pytest.raises(UserError) as caught:
            planned(local_base, chat_file)
        [problem] = caught.value.problems
        assert (problem.where, said in problem.found) == (SIGNING_KEY, True), said
    planned(local_base, chat_file, register_tuned_model=False)
    monkeypatch.setenv(SIGNING_KEY, "")
    assert "signed with" not in str(planned(local_base, chat_file).warnings)
