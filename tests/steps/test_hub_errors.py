"""The Hub, when it does not answer or refuses: one message, with the code that says who must act."""

import errno
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from grids import long_but

from steps.errors import Outage, OutOfResources, StepError, UserError

ROOT = Path(__file__).parents[2]

# What is asked of the Hub, with ID as the repository.
CALLS = {
    "model": "hub.resolve('ID', 'main')",
    "file": "hub.HubModel('ID', 'a' * 40, {}).read('config.json')",
    "weights": "hub.HubModel('ID', 'a' * 40, {}).download(['config.json'])",
    "data set": "hub.resolve_dataset('dataset_name', 'ID', 'main')",
    "listing": "storage.find_files('train_file_path', 'hf://datasets/ID/x.jsonl')",
    "reading": "storage.read_bytes('train_file_path', 'hf://datasets/ID/x.jsonl')",
    "digest": "storage.digest_of('pytorch_model_path', 'hf://ID')",
    "rows": "dataset_rows.write_rows(Dataset('dataset_name', 'ID', 'train'), Path('x'))",
}
SCRIPT = """
import json, logging, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import datasets, huggingface_hub  # before the threads: two that import at once can meet half of a package
from steps.errors import StepError
from steps.prepare_data.read import dataset_rows
from steps.sources import hub, storage
from steps.sources.data_sources import Dataset
logging.disable(logging.CRITICAL)
def told(call):
    started = time.monotonic()
    try:
        eval(call)
        found = [0, "no error"]
    except StepError as error:
        found = [error.exit_code, str(error)]
    except Exception as error:
        found = [70, f"{type(error).__name__}: {error}"]
    return [*found, time.monotonic() - started]
calls = json.loads(sys.argv[1])
with ThreadPoolExecutor(len(calls)) as pool:  # most of the time goes by between their attempts
    print(json.dumps(dict(zip(calls, pool.map(told, calls.values())))))
"""


def asked(folder: Path, calls: dict[str, str], endpoint: str, **more: str) -> dict[str, list]:
    """Return exit code, message and seconds of each call, in a process of its own: the endpoint is read at import."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(folder), "PYTHONPATH": str(ROOT), **more}
    done = subprocess.run([sys.executable, "-c", SCRIPT, json.dumps(calls)], capture_output=True, text=True,
                          cwd=folder, env=environment)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@contextmanager
def hub_server() -> Iterator[str]:
    """A Hub whose answer is in the name of the repository: org/429 answers 429, org/401.GatedRepo is gated."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            status, code = _answer(self.path)
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "2")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(b"{}")

        do_HEAD = do_POST = do_GET

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}"
    made.shutdown()


def _answer(path: str) -> tuple[int, str]:
    found = re.search(r"org(?:/|%2F)(\d+)\.?([A-Za-z]*)", path)
    return (int(found[1]), found[2]) if found else (404, "")


ANSWERS = {
    "401.GatedRepo": (2, "gated"),
    "403.GatedRepo": (2, "gated"),
    "401.RepoNotFound": (2, ""),
    "404.RepoNotFound": (2, ""),
    "404.RevisionNotFound": (2, ""),
    "404.EntryNotFound": (2, ""),
    "403": (2, ""),
    "410": (2, ""),
    "429": (4, ""),
    "500": (4, ""),
    "502": (4, ""),
    "503": (4, ""),
    "504": (4, ""),
}


@pytest.fixture(scope="session")
def told_of_answers(shared):
    """Return what every call tells of the answers that have a code of exit; asked once in a session, all at once."""

    def of(code: int) -> dict[str, list]:
        def ask(folder: Path) -> None:
            folder.mkdir()
            calls = {f"{answer} {name}": call.replace("ID", f"org/{answer}")
                     for answer in ANSWERS if ANSWERS[answer][0] == code for name, call in CALLS.items()}  # fmt: skip
            with hub_server() as server:
                told = asked(folder, calls, server, HF_HUB_DISABLE_XET="1")
            (folder / "told.json").write_text(json.dumps(told))

        return json.loads((shared.made(f"answers of the Hub with code {code}", ask) / "told.json").read_text())

    return of


# The libraries attempt several times, for half a minute, what a service may answer later.
REPEATED = [pytest.param(name, marks=pytest.mark.slow) if code == 4 else name for name, (code, _) in ANSWERS.items()]


@pytest.mark.parametrize("answer", REPEATED)
def test_the_answer_of_the_hub_says_who_must_act(told_of_answers, answer):
    code, word = ANSWERS[answer]
    told = {name: told_of_answers(code)[f"{answer} {name}"] for name in CALLS}
    assert {name: found[0] for name, found in told.items()} == dict.fromkeys(CALLS, code), told
    for name, (_, said, _) in told.items():
        assert "\n" not in said
        assert "Fix: " in said
        assert word in said or name in ("listing", "reading", "digest")  # HfFileSystem tells no reason


NOBODY = ("http://127.0.0.1:9", "http://no-such-host.invalid", "https://127.0.0.1:9")


@pytest.mark.slow  # as above
@pytest.mark.parametrize("endpoint", long_but(["http://no-such-host.invalid"], NOBODY))
def test_a_hub_that_does_not_answer_is_an_outage(tmp_path, endpoint):
    calls = {name: call.replace("ID", "org/name") for name, call in CALLS.items()}
    told = asked(tmp_path, calls, endpoint)
    assert {name: found[0] for name, found in told.items()} == dict.fromkeys(CALLS, 4), told
    for _, said, seconds in told.values():
        assert said.count("Fix: run again") == 1
        assert seconds < 120  # half a minute of attempts, on a machine that may be busy


def test_what_is_not_in_the_cache_is_the_users_to_fetch_only_if_the_hub_is_switched_off(tmp_path):
    calls = {name: CALLS[name].replace("ID", "org/name") for name in ("model", "file", "weights", "data set")}
    told = asked(tmp_path, calls, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert {name: found[0] for name, found in told.items()} == dict.fromkeys(calls, 2), told
    assert all("unset HF_HUB_OFFLINE" in said for _, said, _ in told.values())


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutOfResources),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), OutOfResources),
        (RuntimeError("Data processing error: No space left on device (os error 28)"), OutOfResources),
        (TimeoutError("timed out"), Outage),
        (ConnectionResetError(errno.ECONNRESET, "reset"), Outage),
        (OSError("Consistency check failed: file should be of size 5 but has size 3"), Outage),
        (ValueError("a bug"), ValueError),
    ],
)
def test_an_error_while_fetching_is_told_from_a_full_disk(monkeypatch, error, expected):
    import huggingface_hub

    from steps.sources import hub

    def fails(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fails)
    with pytest.raises(expected):
        hub.HubModel("a/b", "c" * 40, {}).download(["x"])


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), OutOfResources),
        (ConnectionError("Couldn't reach 'a/b' on the Hub (ConnectTimeout)"), Outage),
        (TimeoutError(), Outage),
        (ValueError("Column x is missing"), UserError),
    ],
)
def test_an_error_of_the_library_datasets_is_told_by_its_cause(monkeypatch, tmp_path, cause, expected):
    import datasets
    from datasets.exceptions import DatasetGenerationError

    from steps.prepare_data.read.dataset_rows import write_rows
    from steps.sources import hub
    from steps.sources.data_sources import Dataset

    def fails(*_: object, **__: object) -> None:
        raise DatasetGenerationError("An error occurred while generating the dataset") from cause

    monkeypatch.setattr(datasets, "load_dataset", fails)
    monkeypatch.setattr(hub, "resolve_dataset", lambda *_: "main")
    with pytest.raises(expected) as caught:
        write_rows(Dataset("dataset_name", "a/b", "train"), tmp_path / "x")
    assert isinstance(caught.value, StepError)


@pytest.mark.parametrize("arrives", [False, True])
def test_a_data_set_that_stops_arriving_is_an_outage_and_one_that_goes_on_is_waited_for(monkeypatch, tmp_path, arrives):
    import datasets

    from steps.prepare_data.read.dataset_rows import write_rows
    from steps.sources import bounded, hub
    from steps.sources.data_sources import Dataset

    rows = datasets.Dataset.from_dict({"text": ["a", "b"]})

    def slow(*_: object, cache_dir: str, **__: object) -> object:
        Path(cache_dir).mkdir()
        for number in range(12):
            time.sleep(0.1)
            content = b"x" * (bounded.LEAST if arrives else 1)
            (Path(cache_dir) / f"{number}.incomplete").write_bytes(content)
        return rows

    monkeypatch.setattr(bounded, "SILENCE", 0.5)
    monkeypatch.setattr(datasets, "load_dataset", slow)
    monkeypatch.setattr(hub, "resolve_dataset", lambda *_: "main")
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    one = Dataset("dataset_name", "a/b", "train")
    if arrives:
        assert write_rows(one, tmp_path / "x").stat().st_size > 0
        return
    with pytest.raises(Outage, match=r"DATA-E2104 dataset_name: .*bytes arrived"):
        write_rows(one, tmp_path / "x")
