"""A Python process with the training libraries already loaded, for the steps of one local run.

Every task of a local run is a separate process, and each that needs torch, transformers and TRL takes five seconds to
load them. A server process loads them once, while the first steps run on another core, and forks a child for each later
task. It starts loading when a step before the training runs, because a run whose steps are all reused needs nothing of
it. A client script replaces `python3` on the PATH: it sends its arguments, environment, working directory and file
descriptors to the server, waits, and exits with the child's exit code. Without a server, or if it is lost before the
task has ended, it starts a new Python process: that costs time, and not the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

# 0: every task starts a new Python process. A folder that `warm_python` returned: its server runs this run's tasks.
SWITCH = "FINETUNE_WARM"
# The modules that these tasks load, after steps.running, which defers some of what they load themselves. None of them
# may start a Python thread, which a forked child would not have.
PRELOADED = ("kfp.dsl.executor", "steps.running", "trl.trainer.sft_trainer", "peft", "datasets", "steps.finetune.step",
             "steps.evaluate.step")  # fmt: skip
# What only the steps after the training load; the server loads it while the training runs.
PRELOADED_NEXT = (
    "rouge_score.rouge_scorer",
    "sacrebleu",
    "matplotlib.backends.backend_svg",
    "mlflow.store.tracking.sqlalchemy_store",
)
# Steps that tell the server to load, and do not wait for it.
WAKING = ("import_model", "prepare_data", "import_models", "prepare_all")
# Steps that wait for the server. The earlier steps need none of these modules, so they do not wait.
WAITING = ("finetune", "evaluate", "trial", "evaluate_best", "generate")
# Steps that use the server only if it is ready: if every other step was reused, they must not wait.
WELCOME = ("merge_adapter", "report", "register_model", "score")
READY = "ready"
VERSION = "version"  # file with the code that a server has loaded: a task must not run with other code
SERVER = ("-W", "ignore", "-m", "pipelines.warm")
DEATH_SIGNAL = 1  # of prctl: what this process gets when the one that started it has ended
STOPPING = (signal.SIGTERM, signal.SIGINT)

SHIM = """\
#!/bin/sh
exec {python} -IS {client} "$@"
"""

CLIENT = """\
import json, os, signal, socket, sys
function = sys.argv[sys.argv.index("--function_to_execute") + 1] if "--function_to_execute" in sys.argv else ""
if sys.argv[1:3] == ["-m", "steps"]:
    function = sys.argv[3].replace("-", "_")
def connected():
    server = socket.socket(socket.AF_UNIX)
    folder = os.open({folder!r}, os.O_RDONLY)  # a socket's own path may have about 100 characters at most
    server.connect(f"/proc/self/fd/{{folder}}/server")
    return server
def asked(number, frame):
    signals.append(number)
def served():
    server = connected()
    # The child gets the signals too and may be saving a checkpoint: only note them here and wait for it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, asked)
    task = json.dumps({{"argv": sys.argv[1:], "env": dict(os.environ), "cwd": os.getcwd()}}).encode()
    socket.send_fds(server, [len(task).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(task)
    return server.recv(8)
signals = []
if function in {waiting!r} or (function in {welcome!r} and os.path.exists({ready!r})):
    try:
        code = served()
    except OSError:
        code = b""
    if code:
        sys.exit(int.from_bytes(code, "big"))
    # There is no server, or it was lost, and with it the child: a process of its own does the task.
    if signals:
        sys.exit(128 + signals[0])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
elif function in {waking!r}:
    try:
        connected()
    except OSError:
        pass
os.execv({python!r}, [{python!r}, *sys.argv[1:]])
"""


@contextlib.contextmanager
def warm_python(at_once: bool = True, waiting: tuple[str, ...] = WAITING) -> Iterator[Path | None]:
    """Start the server; yields the folder whose `python3` is the client, or None if switched off or unsupported.

    The server loads the libraries `at_once`, or when a step of WAKING or `waiting` runs; the latter run in the server.
    """
    if os.environ.get(SWITCH) == "0" or not hasattr(socket, "send_fds") or sys.platform != "linux":
        yield None
        return
    version = _version()
    if (running := Path(os.environ.get(SWITCH, ""))).is_absolute() and _text(running / VERSION) == version:
        yield running
        return
    with tempfile.TemporaryDirectory(prefix="finetune-", dir=os.environ.get("TMPDIR")) as scratch:
        folder = Path(scratch)
        client, shim = folder / "client.py", folder / "python3"
        client.write_text(CLIENT.format(python=sys.executable, waking=WAKING, waiting=waiting, welcome=WELCOME,
                                        ready=str(folder / READY), folder=scratch))  # fmt: skip
        shim.write_text(SHIM.format(python=shlex.quote(sys.executable), client=shlex.quote(str(client))))
        shim.chmod(0o755)
        (folder / VERSION).write_text(version)
        listener = socket.socket(socket.AF_UNIX)
        place = os.open(folder, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{place}/server")
        os.close(place)
        listener.listen()  # a client that connects before the libraries are loaded waits in the queue
        command = [sys.executable, *SERVER, str(listener.fileno()), str(folder / READY), str(os.getpid())]
        command += ["at once"] if at_once else []
        server = subprocess.Popen(
            command, pass_fds=[listener.fileno()], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        listener.close()
        try:
            yield folder
        finally:
            server.kill()
            server.wait()


def _version() -> str:
    """Return what tells one server from another: its code, and the Python with its libraries."""
    from steps.running import code_digest

    return f"{code_digest(Path(__file__))} {sys.executable}"


def _text(file: Path) -> str:
    with contextlib.suppress(OSError):
        return file.read_text()
    return ""


def serve(listener: socket.socket, ready: Path, parent: int, at_once: bool) -> None:
    """Load the libraries, create the file `ready`, then fork a child for every task until the process `parent` ends.

    It may have ended already: a run that is killed while its server begins.
    """
    os.environ["_KFP_RUNTIME"] = "true"
    for name in STOPPING:
        signal.signal(name, signal.SIG_IGN)  # the task's own process gets them too and handles them
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    if at_once:
        _load(PRELOADED)
        ready.touch()
    while True:
        connection, _ = listener.accept()
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # those that waited for earlier tasks
                pass
        _load(PRELOADED)
        ready.touch()
        with connection:
            _serve_one(listener, connection)


def _serve_one(listener: socket.socket, connection: socket.socket) -> None:
    """Run the task that a client sends, and send back its exit code; a client that only wakes the server sends none.

    A process of its own waits for the task: a sweep runs several at the same time.
    """
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    if not size:
        return
    task = b""
    while len(task) < int.from_bytes(size, "big"):
        task += connection.recv(1 << 20)
    # Held back, not ignored: a signal that the task's process gets before it handles signals ends it.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    if os.fork() == 0:
        listener.close()
        _wait_for(json.loads(task), files, connection)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    for file in files:
        os.close(file)
    _load(PRELOADED_NEXT)


def _wait_for(task: dict, files: list[int], connection: socket.socket) -> None:
    """Start the task in this forked process' child, wait for it, send its exit code and end."""
    waiting = os.getpid()
    child = os.fork()
    if child == 0:
        connection.close()
        _end_with_parent(waiting)
        _become(task, files)
    for file in files:
        os.close(file)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    with contextlib.suppress(OSError):
        connection.sendall((code if code >= 0 else 128 - code).to_bytes(8, "big"))
    os._exit(0)


def _end_with_parent(parent: int) -> None:
    """Let this process be killed when the one that waits for it is: its client then does the task anew."""
    import ctypes

    ctypes.CDLL(None).prctl(DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGKILL)


def _load(modules: tuple[str, ...]) -> None:
    import gc
    import importlib

    if set(modules) <= sys.modules.keys():
        return

    from steps.redaction import mask_output

    mask_output()  # before libraries keep the streams that they find
    for module in modules:
        importlib.import_module(module)
    # Every trainer ends with a full collection, which takes half a second over a million objects of the libraries.
    gc.collect()
    gc.freeze()


def _become(task: dict, files: list[int]) -> None:
    """Run the task in this forked process, as a new Python process with its arguments would."""
    import runpy

    code = 70
    try:
        for target, file in enumerate(files):
            os.dup2(file, target)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        os.environ.clear()
        os.environ.update(task["env"])
        tempfile.tempdir = None  # the task has a folder of its own for temporary files
        os.chdir(task["cwd"])
        arguments = task["argv"]
        module = arguments[arguments.index("-m") + 1]
        sys.argv = [module, *arguments[arguments.index("-m") + 2 :]]
        sys.path[0] = task["cwd"]
        sys.stdout = os.fdopen(1, "w", buffering=1)
        sys.stderr = os.fdopen(2, "w", buffering=1)
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _end_with(parent: int) -> None:
    import time

    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3]), at_once=len(sys.argv) > 4)
