"""A folder that this user may not write is told with its owner, the user of the step, and what can be changed."""

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import with_our_code
from conftest import chat_rows, write_jsonl
from forking import ForkingPython

from steps.errors import UserError
from steps.writing import can_be_written, nearest_there, owners, write_error

AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
# Run as another user, as a container does: uid, gid, groups, code. What the code imports is loaded before,
# because that user may not be able to read the library of this Python.
DROPPED = (
    "import os, sys\n"
    "from steps.params.reading import read_parameters\n"
    "read_parameters('chat_completion', {'pytorch_model_path': 'm', 'train_file_path': 't'})\n"
    "uid, gid, groups, code = sys.argv[1:]\n"
    "os.setgroups([int(one) for one in groups.split(',') if one])\n"
    "os.setgid(int(gid))\n"
    "os.setuid(int(uid))\n"
    "exec(code)\n"
)
PRELOADED = ["steps.__main__", "steps.faults", "steps.writing", "steps.running", "steps.finetune.step",
             "steps.plan.place", "steps.params.reading", "steps.params.pipelines"]  # fmt: skip
ASKS = (
    "from pathlib import Path\n"
    "from steps.writing import write_error\n"
    "error = write_error('CODE-E0001', 'checkpoint_dir', Path({path!r}))\n"
    "print(error.exit_code if error else 0, error or '')\n"
)


@pytest.fixture(scope="module")
def as_user() -> Iterator[Callable[..., subprocess.CompletedProcess]]:
    python = ForkingPython(PRELOADED, with_our_code())

    def ended(code: str, uid: int = 1000, gid: int = 1000, groups: str = "", **environment):
        given = {name: value for name, value in with_our_code().items() if name != "FINETUNE_ROOT"}
        words = [str(uid), str(gid), groups, code]
        return python.ended(DROPPED, *words, cwd=Path("/"), environment={**given, **environment})

    yield ended
    python.close()


@pytest.fixture
def volume(tmp_path) -> Path:
    """A folder that every user can reach."""
    for place in (tmp_path, *tmp_path.parents[:3]):
        if place.stat().st_uid == os.geteuid():
            place.chmod(0o755)
    made = tmp_path / "volume"
    made.mkdir()
    return made


def owned(folder: Path, user: int, group: int, mode: int) -> Path:
    os.chown(folder, user, group)
    folder.chmod(mode)
    return folder


# Owner, group and mode of the volume; user, group and groups of the step → words of the fix; "" if it can write.
FOLDERS = {
    "of root": ((0, 0, 0o755), (1000, 1000, ""), "let a group write there"),
    "of root, for its group": ((0, 0, 0o775), (1000, 1000, ""), "run_as_group of the cluster profile to 0,"),
    "of a group": ((0, 5000, 0o2775), (1000, 1000, ""), "run_as_group of the cluster profile to 5000,"),
    "of another user": ((2000, 2000, 0o755), (1000, 1000, ""), "run_as_user of the cluster profile to 2000,"),
    "of another user, as on OpenShift": ((0, 0, 0o755), (1000650000, 0, "1000650000"), "let a group write there"),
    "its own": ((1000, 1000, 0o755), (1000, 1000, ""), ""),
    "of its group": ((0, 0, 0o2775), (1000650000, 0, "1000650000"), ""),
    "of a group that the pod also has": ((0, 5000, 0o775), (1000, 1000, "5000"), ""),
    "of everybody": ((0, 0, 0o777), (1000, 1000, ""), ""),
    "its own, without the right to write": ((1000, 1000, 0o555), (1000, 1000, ""), "let a group write there"),
}  # fmt: skip


@AS_ROOT
@pytest.mark.parametrize("case", FOLDERS)
@pytest.mark.parametrize("below", ["", "checkpoints/of/runs"])
def test_who_owns_it_who_asks_and_what_can_be_changed(as_user, volume, case, below):
    (owner, owning, mode), (user, group, groups), words = FOLDERS[case]
    owned(volume, owner, owning, mode)
    told = as_user(ASKS.format(path=str(volume / below)), user, group, groups)
    assert told.returncode == 0, told.stderr
    code, text = told.stdout.split(" ", 1)
    assert code == ("2" if words else "0")
    if words:
        assert f"{volume} cannot be written: it belongs to user {owner} and group {owning}" in text
        assert f"this step runs as user {user}, group" in text
        assert f"chown -R {user}:{group} {volume}" in text
        assert "a storage class whose volumes every user can write" in text
        assert words in text
    assert list(volume.iterdir()) == []


@AS_ROOT
def test_a_local_run_is_not_told_of_clusters(as_user, volume):
    told = as_user(ASKS.format(path=str(volume)), FINETUNE_ROOT="/somewhere").stdout
    assert f"Fix: change the owner (chown -R 1000:1000 {volume}), or name another place." in told


@AS_ROOT
@pytest.mark.parametrize("name", ["hub/model.safetensors", "new/folder"])
def test_any_other_file_that_may_not_be_written_is_told_so_too(as_user, volume, name):
    code = (
        "from steps.faults import known\n"
        "from pathlib import Path\n"
        f"path = Path({str(volume / name)!r})\n"
        "try:\n"
        "    path.write_text('') if path.parent.is_dir() else path.mkdir(parents=True)\n"
        "except OSError as error:\n"
        "    print(known(error, 'import-model'))\n"
    )
    (volume / "hub").mkdir()
    told = as_user(code).stdout
    assert told.startswith(f"FILE-E0101 {volume}")
    assert "belongs to user 0 and group 0 (drwxr-xr-x), and this step runs as user 1000, group 1000" in told
    assert "pod_security.run_as_group" in told


@AS_ROOT
@pytest.mark.slow
def test_a_training_on_a_volume_of_root_ends_with_2_before_it_begins(as_user, volume, model, data):
    """As in a pod: user 1000, and a claim that root made."""
    settings = {"pipeline": "chat_completion", "checkpoints": {"checkpoint_dir": str(volume / "checkpoints")}}
    out = owned(volume.parent / "out", 1000, 1000, 0o755) if (volume.parent / "out").mkdir() is None else volume
    paths = {"model": model, "data": data, "tuned": out / "tuned", "checkpoints": out / "c", "report": out / "r.html"}
    code = (
        "from steps.running import run_step\n"
        f"run_step('finetune', {json.dumps(settings)!r}, **{ {name: str(path) for name, path in paths.items()}!r})\n"
    )
    done = as_user(code, HOME=str(out))
    assert done.returncode == 2, done.stderr
    told = json.loads(done.stderr.strip().splitlines()[-1])
    assert told["problems"][0].startswith(
        f"CHECKPOINT-E0103 checkpoint_dir: found {volume}/checkpoints/chat_completion"
    )
    assert f"where {volume} cannot be written: it belongs to user 0 and group 0" in told["found"]
    assert "Traceback" not in done.stderr


@AS_ROOT
def test_the_plan_tells_it_too_where_the_volume_is_mounted(as_user, volume, tiny_model, tmp_path):
    rows = write_jsonl(tmp_path / "rows.jsonl", chat_rows(60))
    given = {"pytorch_model_path": str(tiny_model), "train_file_path": str(rows), "mlflow_server_uri": "http://m",
             "number_of_gpu_to_use_finetuning": 0, "checkpoint_dir": str(volume / "checkpoints")}  # fmt: skip
    code = (
        "import os\n"
        f"is_mount = os.path.ismount\nos.path.ismount = lambda path: str(path) == {str(volume)!r} or is_mount(path)\n"
        "from steps.plan.place import place_problems\n"
        "from steps.params.reading import read_parameters\n"
        "from types import SimpleNamespace\n"
        f"parameters = read_parameters('chat_completion', {given!r}).parameters\n"
        "print(*place_problems(SimpleNamespace(parameters=parameters)), sep='\\n')\n"
    )
    told = as_user(code)
    assert told.stdout.startswith("PLAN-E0363 checkpoint_dir: found "), told.stderr
    assert f"where {volume} cannot be written: it belongs to user 0" in told.stdout
    unmounted = as_user(code.replace("str(path) ==", "'' =="))
    assert unmounted.stdout == "\n", unmounted.stderr  # the volume may be mounted into finetune alone


def test_a_folder_that_can_be_made_is_no_error(tmp_path):
    assert write_error("CODE-E0001", "checkpoint_dir", tmp_path / "new/folder") is None
    assert can_be_written(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_told(tmp_path):
    (tmp_path / "file").touch()
    error = write_error("CODE-E0001", "checkpoint_dir", tmp_path / "file/below")
    assert isinstance(error, UserError)
    assert f"where {tmp_path}/file is a file" in str(error)


@pytest.mark.parametrize(
    ("number", "code", "words"), [(28, 5, "its disk is full"), (30, 2, "read-only"), (122, 5, "its disk is full")]
)
def test_a_full_or_read_only_volume_is_told(tmp_path, monkeypatch, number, code, words):
    def refuse(**_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    error = write_error("CODE-E0001", "checkpoint_dir", tmp_path / "new")
    assert error
    assert (error.exit_code, words in str(error)) == (code, True)


def test_what_is_said_of_an_owner(tmp_path):
    assert f"belongs to user {os.geteuid()}" in owners(tmp_path)
    assert nearest_there(tmp_path / "a/b/c") == tmp_path
