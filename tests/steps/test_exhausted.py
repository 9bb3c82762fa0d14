"""Full disks and a lack of memory, files or processes are known in every form in which libraries tell them."""

import errno
import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from client_errors import like
from command_line import with_our_code
from conftest import chat_rows, write_jsonl

from steps import exhausted, limited, volumes
from steps.artifacts import Manifest, new_artifact, read_manifest, write_durably
from steps.errors import Outage, OutOfResources, Problem, UserError
from steps.faults import known
from steps.models import template_trial
from steps.outcome import failure
from steps.params import patterns
from steps.tracking.database import make_place


def system(number: int, path: str | None = None, other: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), path, None, other)


def raised_from(outer: Exception, inner: BaseException) -> Exception:
    outer.__cause__ = inner
    return outer


def met(outer: Exception, inner: BaseException) -> Exception:
    outer.__context__ = inner
    return outer


def ours(kind: type) -> Exception:
    return kind(Problem("X-E0001", "a", "b", "c", "d"))


FULL = system(errno.ENOSPC)
SQLITE = like("sqlalchemy.exc", "OperationalError", "(sqlite3.OperationalError) database or disk is full")
# Name → exception, code of the problem.
ERRORS = {
    "a list of files": (shutil.Error([("a", "/x/b", "[Errno 28] No space left on device: '/x/b'")]), "DISK-E0102"),
    "a list of files without one": (shutil.Error([("a", "/x/b", "[Errno 122] Disk quota exceeded")]), "DISK-E0102"),
    "pyarrow": (OSError(errno.ENOSPC, "Error writing bytes to file. Detail: No space left on device"), "DISK-E0102"),
    "pyarrow, in words": (like("pyarrow.lib", "ArrowInvalid", "x No space left on device"), "DISK-E0102"),
    "numpy": (OSError("2000000 requested and 131056 written"), "DISK-E0102"),
    "MLflow": (raised_from(like("mlflow.exceptions", "MlflowException", "(in autoflush)"), SQLITE), "DISK-E0102"),
    "an outage of ours": (raised_from(ours(Outage), raised_from(ValueError("x"), SQLITE)), "DISK-E0102"),
    "a user's error of ours": (raised_from(ours(UserError), FULL), "DISK-E0102"),
    "a user's error, without its cause": (met(ours(UserError), MemoryError()), "MEMORY-E0101"),
    "three deep": (raised_from(KeyError("x"), met(TypeError("y"), raised_from(ValueError("z"), FULL))), "DISK-E0102"),
    "in a group of groups": (ExceptionGroup("a", [ExceptionGroup("b", [KeyError("x"), FULL])]), "DISK-E0102"),
    "shared memory": (RuntimeError("DataLoader worker is out of shared memory: insufficient shared memory (shm)"),
                      "DISK-E0102"),
    "numpy's memory": (like("numpy._core._exceptions", "_ArrayMemoryError", "Unable to allocate 8. GiB for an array"),
                       "MEMORY-E0101"),
    "torch on a CPU": (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
                       "MEMORY-E0101"),
    "torch on a GPU": (like("torch", "OutOfMemoryError", "CUDA out of memory. Tried to"), "MEMORY-E0101"),
    "C++": (RuntimeError("std::bad_alloc"), "MEMORY-E0101"),
    "pyarrow's memory": (like("pyarrow.lib", "ArrowMemoryError", "malloc of size 64 failed"), "MEMORY-E0101"),
    "a library that cannot be mapped": (ImportError("x.so: failed to map segment from shared object"), "MEMORY-E0101"),
    "an import that hides it": (met(ImportError("cannot import name x"), MemoryError()), "MEMORY-E0101"),
    "Rust": (Exception("Cannot allocate memory (os error 12)"), "MEMORY-E0101"),
    "sqlite's memory": (sqlite3.OperationalError("out of memory"), "MEMORY-E0101"),
    "files": (system(errno.EMFILE, "/x"), "MEMORY-E0102"),
    "files, in words": (RuntimeError("received 0 items of ancdata: Too many open files"), "MEMORY-E0102"),
    "a thread": (RuntimeError("can't start new thread"), "MEMORY-E0103"),
    "threads of Rust": (RuntimeError('ThreadPoolBuildError { kind: IOError(Os { code: 11, kind: WouldBlock }) }'),
                        "MEMORY-E0103"),
    "a process": (system(errno.EAGAIN), "MEMORY-E0103"),
    # Not exhausted.
    "a broken disk": (system(errno.EIO), "DISK-E0401"),
    "a broken disk, in words": (like("safetensors_rust", "SafetensorError", "Input/output error (os error 5)"),
                                "DISK-E0401"),
    "a read-only volume": (system(errno.EROFS, "/x/y"), "FILE-E0101"),
    "a read-only volume, in words": (like("safetensors_rust", "SafetensorError", "Read-only file system (os error 30)"),
                                     "FILE-E0101"),
    "no folder for temporary files": (OSError(errno.ENOENT, "No usable temporary directory found in ['/proc']"),
                                      "FILE-E0101"),
    "a read-only database": (raised_from(ours(Outage), sqlite3.OperationalError("write a readonly database")),
                             "FILE-E0101"),
    "an outage, while silence was handled": (met(ours(Outage), system(errno.ECONNREFUSED)), "X-E0001"),
    "a missing file with such a name": (system(errno.ENOENT, "/x/disk is full/out of memory"), None),
    "a value with such words": (ValueError("row 3: 'we ran out of memory' is no label"), None),
    "a busy lock that was handled": (met(KeyError("x"), system(errno.EAGAIN)), None),
    "a block of thread-local storage": (ImportError("x.so: cannot allocate memory in static TLS block"), None),
}  # fmt: skip


@pytest.mark.parametrize("name", ERRORS)
def test_what_ran_out_is_known_whatever_library_tells_it(name):
    error, code = ERRORS[name]
    found = known(error, "finetune")
    assert (found.problems[0].code if found else None) == code
    if code and not code.startswith("X"):
        assert found.exit_code == {"DISK-E0401": 4, "FILE-E0101": 2}.get(code, 5)
        assert len(str(found)) < 600
        assert "\n" not in str(found)


def test_a_registration_that_could_not_write_can_be_repeated_by_its_command():
    error = Outage(Problem("X-E0001", "a", "b", "c", "d"), resume_from="python -m steps register-model")
    found = known(raised_from(error, SQLITE), "register-model")
    assert (found.exit_code, found.resume_from) == (5, "python -m steps register-model")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (system(errno.ENOSPC, "/proc/x"), "the volume /proc ("),
        (system(errno.ENOSPC, "/x/from", "/proc/to"), "the volume /proc ("),
        (shutil.Error([("/x/a", "/proc/b", "[Errno 28] No space left on device")]), "the volume /proc ("),
        (system(errno.EDQUOT, "/proc/x"), "the disk quota of the volume /proc"),
        (system(errno.EMFILE), f"a limit of {resource.getrlimit(resource.RLIMIT_NOFILE)[0]:,} (ulimit -n)"),
    ],
)
def test_the_volume_or_the_limit_is_named(error, words):
    assert words in str(known(error, "finetune"))


def test_a_limit_of_file_sizes_is_named_with_its_number(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(OutOfResources) as raised:
            made(tmp_path, rows=600_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    told = "a file larger than the limit of 0.5 MB (ulimit -f), after 0.5 MB of this folder were written"
    assert told in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def made(folder: Path, **sizes: int) -> Manifest:
    """Write an artifact of files with these sizes."""
    with new_artifact(folder / "made", "data") as draft:
        for name, size in sizes.items():
            (draft / name).write_bytes(b"x" * size)
    return read_manifest(folder / "made")


@pytest.fixture
def volume(tmp_path, request) -> Iterator[Path]:
    """A volume of one megabyte and twenty files, or with the room that a parameter gives."""
    place = tmp_path / "volume"
    place.mkdir()
    room = getattr(request, "param", "size=1m,nr_inodes=20")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", room, "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("this user may not mount a volume")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_volume_is_named_with_need_and_free_and_the_folder_before_is_kept(volume):
    before = made(volume, rows=200_000)
    with pytest.raises(OutOfResources) as raised:
        made(volume, first=400_000, rows=900_000)
    told = str(raised.value)
    assert told.startswith(f"DISK-E0101 {volume}/made: found no space left on the volume {volume} (0.0 MB of 1.0 MB ")
    assert "expected more than 0." in told
    assert f"Fix: free disk space in {volume}" in told
    assert read_manifest(volume / "made") == before
    assert [path.name for path in volume.iterdir()] == ["made"]


def test_a_folder_that_was_there_tells_how_much_is_needed(volume):
    made(volume, rows=600_000)
    with pytest.raises(
        OutOfResources, match=r"after 0\.4 MB of this folder were written; expected about 0\.6 MB of space, as b"
    ):
        made(volume, rows=900_000)


def test_a_volume_without_files_is_told_as_that(volume):
    with pytest.raises(OutOfResources, match=rf"the volume {volume} \(0 of 20 files free"):
        made(volume, **{f"file-{number}": 1 for number in range(30)})
    assert list(volume.iterdir()) == []


# In each of these the creation of another file fails, or the write of another page; a plan needs five files.
ROOMS = [*(f"size=1m,nr_inodes={number}" for number in range(1, 5)), *(f"size={4 * pages}k" for pages in range(1, 7))]


@pytest.mark.parametrize("volume", ROOMS, indirect=True)
def test_a_plan_without_room_at_any_write_ends_with_5_and_leaves_whole_files_only(
    volume, tiny_model, tmp_path, monkeypatch
):
    from steps.plan.step import plan

    monkeypatch.setenv("FINETUNE_ROOT", str(tmp_path))
    rows = write_jsonl(tmp_path / "train.jsonl", chat_rows(20))
    given = {"pytorch_model_path": str(tiny_model), "train_file_path": str(rows), "number_of_gpu_to_use_finetuning": 0}
    with pytest.raises((OSError, OutOfResources)) as raised:
        plan("chat_completion", given, volume / "plan", volume / "plan.html")
    found = failure(raised.value, "plan")
    assert found.exit_code == 5
    assert f"the volume {volume} (" in str(found)
    assert {path.name for path in volume.iterdir()} <= {"plan"}
    if (volume / "plan").exists():
        assert read_manifest(volume / "plan", "plan").files.keys() == {"plan.json"}


def test_a_write_that_names_no_file_is_told_with_the_volume_that_is_full(volume, monkeypatch):
    (volume / "fills").write_bytes(b"x" * 1_000_000)
    monkeypatch.setattr(volumes, "_places", [])
    assert f"the volume {volume}" not in str(known(FULL, "finetune"))
    volumes.note_places(Path("/proc/x"), volume / "out" / "tuned")
    assert f"no space left on the volume {volume} (0.0 MB of 1.0 MB free)" in str(known(FULL, "finetune"))


DROPPED = [RuntimeError("[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed writing file data/3"),
           sqlite3.OperationalError("disk I/O error"), OSError("2000000 requested and 131056 written")]  # fmt: skip


@pytest.mark.parametrize(
    ("number", "code", "words"),
    [
        (errno.EDQUOT, 5, "the disk quota of the volume"),
        (errno.ENOSPC, 5, "left on the volume"),
        (errno.EIO, 4, "on the volume"),
    ],
)
@pytest.mark.parametrize("volume", ["size=32m"], indirect=True)
@pytest.mark.parametrize("dropped", [None, *DROPPED], ids=["no file", "torch", "sqlite", "numpy"])
def test_the_volume_that_refuses_a_write_is_found_where_an_error_names_none(
    volume, monkeypatch, number, code, words, dropped
):
    opened = tempfile.TemporaryFile

    def refused(*, dir: Path):
        if dir == volume:
            raise system(number, str(dir))
        return opened(dir=dir)

    monkeypatch.setattr(volumes, "_places", [Path("/proc/x"), volume / "out" / "tuned"])
    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    found = failure(dropped or system(number), "finetune")
    assert found.exit_code == code
    assert f"{words} {volume}" in str(found)


def test_of_a_limit_of_file_sizes_sqlite_tells_a_failed_write(monkeypatch):
    monkeypatch.setattr(exhausted, "_most_of_a_file", lambda: 3_000_000)
    told = str(known(raised_from(ours(Outage), DROPPED[1]), "register-model"))
    assert "a file larger than the limit of 3.0 MB (ulimit -f)" in told


def test_one_read_only_volume_is_named_and_of_several_none(volume, monkeypatch):
    def refused(*, dir: Path):
        raise system(errno.EROFS, str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    monkeypatch.setattr(volumes, "_written", lambda: [volume / "out"])
    assert f"a read-only file system: {volume};" in str(failure(system(errno.EROFS), "finetune"))
    monkeypatch.setattr(volumes, "_written", lambda: [volume / "out", Path("/proc")])
    assert "a read-only file system: a volume of this step" in str(failure(system(errno.EROFS), "finetune"))


@pytest.mark.parametrize("volume", ["size=32m"], indirect=True)
def test_a_failed_write_is_no_bug_where_every_volume_takes_files_again(volume, monkeypatch):
    monkeypatch.setattr(volumes, "_places", [volume / "out"])
    assert failure(DROPPED[0], "finetune").exit_code == 5
    assert failure(DROPPED[1], "register-model").exit_code == 4
    assert "a volume of this step" in str(failure(system(errno.EROFS), "finetune"))
    assert volumes.refusals((volume,)) == {}
    assert list(volume.iterdir()) == []


def test_no_folder_for_temporary_files_is_a_full_disk_if_its_volume_is(volume, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(volume))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(volume)])
    (volume / "fills").write_bytes(b"x" * 900_000)
    with suppress(OSError), open(volume / "fills", "ab", buffering=0) as last:
        while last.write(b"x" * 4096):
            pass
    with pytest.raises(FileNotFoundError, match="No usable temporary directory") as raised:
        tempfile.gettempdir()
    found = failure(raised.value, "evaluate")
    assert found.exit_code == 5
    assert f"no space left on the volume {volume} (0.0 MB of 1.0 MB free)" in str(found)


def test_the_volume_of_a_database_is_one_of_those_that_may_be_full(volume, monkeypatch):
    monkeypatch.setattr(volumes, "_places", [])
    (volume / "mlflow.db").write_bytes(b"x" * 1_000_000)
    make_place(f"sqlite:///{volume}/mlflow.db")
    told = str(known(raised_from(ours(Outage), SQLITE), "register-model"))
    assert f"no space left on the volume {volume} (" in told


@pytest.mark.parametrize("name", ["HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "XDG_CACHE_HOME"])
def test_the_volume_of_a_cache_is_one_of_those_that_may_be_full(volume, monkeypatch, name):
    (volume / "fills").write_bytes(b"x" * 1_000_000)
    monkeypatch.setenv(name, str(volume / "cache"))
    assert f"no space left on the volume {volume} (" in str(known(FULL, "prepare-data"))


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
def test_a_small_file_is_whole_or_as_before_when_the_disk_is_full(tmp_path, monkeypatch, step):
    write_durably(tmp_path / "page", "before")

    def fails(*_: object, **__: object) -> None:
        raise system(errno.ENOSPC)

    if step == "open":
        monkeypatch.setattr("builtins.open", fails)
    else:
        monkeypatch.setattr(os, step, fails)
    with pytest.raises(OSError) as raised:
        write_durably(tmp_path / "page", "after")
    monkeypatch.undo()
    assert raised.value.filename == str(tmp_path / "page")
    assert [path.name for path in tmp_path.iterdir()] == ["page"]
    assert (tmp_path / "page").read_text() == "before"


WATCHED = (
    "import os, sys\n"
    "from steps.limited import watch_memory\n"
    "from steps.outcome import leave\n"
    "watch_memory('finetune', leave)\n"
)
ENDS = {"os.abort()": 5, "os._exit(1)": 5, "os.kill(os.getpid(), 11)": 5, "sys.exit(3)": 3, "pass": 0,
        "os.kill(os.getpid(), 15)": 143, "os.kill(os.getpid(), 9)": 5}  # fmt: skip


@pytest.mark.parametrize("end", ENDS)
def test_a_process_with_limited_memory_that_ends_without_a_word_is_told(end):
    limits = "ulimit -c 0; ulimit -v 1000000"
    told = subprocess.run(["bash", "-c", f'{limits}; exec {sys.executable} -c "$0"', WATCHED + end],
                          capture_output=True, text=True, env=with_our_code())  # fmt: skip
    assert told.returncode == ENDS[end], told.stderr
    if ENDS[end] == 5:
        outcome = json.loads(told.stderr.splitlines()[-1])
        assert outcome["code"] == 5
        told = "ended by signal 9 (SIGKILL)" if "9)" in end else "with a limit of 1.0 GB (ulimit -v)"
        assert told in outcome["found"]


def test_without_a_limit_no_process_is_started(monkeypatch):
    monkeypatch.setattr(limited, "memory_limit", lambda: 0)
    monkeypatch.setattr(os, "fork", lambda: pytest.fail("forked"))
    limited.watch_memory("finetune", pytest.fail)


@pytest.mark.parametrize(("torch", "limit", "refused"), [(True, 1e9, True), (False, 1e9, False), (False, 3e8, True),
                                                         (True, 0, False)])  # fmt: skip
def test_a_limit_below_what_libraries_take_is_refused_before_they_load(monkeypatch, torch, limit, refused):
    monkeypatch.setattr(limited, "memory_limit", lambda: int(limit))
    monkeypatch.setattr(exhausted, "memory_limit", lambda: int(limit))
    if not refused:
        limited.refuse_tight("finetune", torch)
        return
    with pytest.raises(OutOfResources, match=r"MEMORY-E0101 finetune: .* \(ulimit -v\).* Fix: raise the limit"):
        limited.refuse_tight("finetune", torch)


LARGE = "{{ ('x' * 10 ** 9) * 10 }}"


def test_a_thread_that_gets_no_memory_to_begin_is_not_waited_for_without_end(monkeypatch):
    monkeypatch.setattr(threading.Thread, "start", threading.Thread.start)  # to be as it was afterwards
    monkeypatch.setattr(limited, "STARTING", 0.2)
    limited.bound_starts()
    done = []
    with ThreadPoolExecutor(1) as pool:
        assert list(pool.map(done.append, [1])) == [None]
    thread = threading.Thread(target=list)
    thread.start()
    thread.join()
    with pytest.raises(RuntimeError, match="once"):
        thread.start()
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "_bootstrap", lambda _: None)
        with pytest.raises(MemoryError, match="a thread did not begin"):
            threading.Thread(target=list, daemon=True).start()
    assert done == [1]


def test_a_template_is_tried_in_a_process_with_limited_memory_too():
    text = f"from steps.models.template_trial import endless\nprint(endless({LARGE!r}))"
    limited_python = ["bash", "-c", f'ulimit -v 800000; exec {sys.executable} -c "$0"', text]
    done = subprocess.run(limited_python, capture_output=True, text=True, env=with_our_code())
    assert done.stdout == "a conversation takes more than 1 GiB of memory\n", done.stderr


def test_a_trial_that_could_not_begin_tells_nothing_of_a_template(monkeypatch):
    monkeypatch.setattr(template_trial, "TRIAL", "raise MemoryError")
    with pytest.raises(RuntimeError) as raised:
        template_trial.endless(f"{LARGE} that was not tried before")
    assert known(raised.value, "plan").problems[0].code == "MEMORY-E0101"


def test_a_comparison_without_memory_is_not_the_fault_of_the_expression(monkeypatch):
    monkeypatch.setattr(patterns, "MATCHER", "raise MemoryError")
    with pytest.raises(MemoryError):
        patterns.matched("(ab+)+c", ("abbbc",))


@pytest.mark.parametrize(("reserved", "code"), [(3.9e9, 5), (1e9, 70)])
def test_an_odd_exception_with_all_memory_reserved_is_a_lack_of_memory(monkeypatch, capsys, reserved, code):
    monkeypatch.setattr(limited, "memory_limit", lambda: 4_000_000_000)
    monkeypatch.setattr(limited, "_most_reserved", lambda: int(reserved))
    assert failure(SystemError("error return without exception set"), "evaluate").exit_code == code
    assert "SystemError" in capsys.readouterr().err  # the traceback is there in any case


def test_a_panic_of_a_library_in_rust_is_told_by_its_reason(monkeypatch):
    from steps import running

    class PanicException(BaseException):
        """As pyo3 raises it, which no `except Exception` catches."""

    def step() -> None:
        raise PanicException("ThreadPoolBuildError { kind: IOError(Os { code: 11, kind: WouldBlock }) }")

    monkeypatch.setattr(running, "load", lambda _: step)
    with pytest.raises(RuntimeError) as raised:
        running.attempt("prepare-data")
    assert known(raised.value, "prepare-data").problems[0].code == "MEMORY-E0103"
