"""Errors of the machine and of services that no step explains: their class, whatever library raised them."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from client_errors import like
from command_line import with_our_code

from steps.errors import NumericError, Outage, OutOfResources, Problem, UserError
from steps.faults import known, same_again
from steps.models.known_types import known_types
from steps.outcome import TERMINATION_LOG, failure


def caused(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


def met(outer: Exception, inner: Exception) -> Exception:
    outer.__context__ = inner
    return outer


def answer(status: int) -> object:
    return type("Response", (), {"status_code": status})()


def system(number: int, path: str | None = "/data/x") -> OSError:
    return OSError(number, os.strerror(number), path)


FULL = system(errno.ENOSPC)
OURS = NumericError(Problem("X-E0001", "a", "b", "c", "d"))
TABLE = {
    "disk": (FULL, OutOfResources),
    "disk without a path": (system(errno.ENOSPC, None), OutOfResources),
    "quota": (system(errno.EDQUOT), OutOfResources),
    "file size": (system(errno.EFBIG), OutOfResources),
    "disk as a cause": (caused(ValueError("An error occurred"), FULL), OutOfResources),
    "disk while another error was handled": (met(TypeError("x"), FULL), OutOfResources),
    "disk in an argument": (RuntimeError(FULL), OutOfResources),
    "disk in a group": (ExceptionGroup("all", [KeyError("x"), FULL]), OutOfResources),
    "safetensors": (like("safetensors_rust", "SafetensorError", 'Error while serializing: I/O error: No space left on '
                         'device (os error 28)'), OutOfResources),
    "tokenizers": (Exception("No space left on device (os error 28)"), OutOfResources),
    "torch": (RuntimeError("[enforce fail at inline_container.cc:863] . PytorchStreamWriter failed writing file "
                           "data/0: file write failed"), OutOfResources),
    "sqlite": (like("sqlite3", "OperationalError", "database or disk is full"), OutOfResources),
    "quota in words": (RuntimeError("Disk quota exceeded (os error 122)"), OutOfResources),
    "memory": (MemoryError(), OutOfResources),
    "memory of the system": (system(errno.ENOMEM, None), OutOfResources),
    "open files": (system(errno.EMFILE), OutOfResources),
    "processes": (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), OutOfResources),
    "no permission": (system(errno.EACCES), UserError),
    "read-only": (system(errno.EROFS), UserError),
    "not permitted": (system(errno.EPERM), UserError),
    "a long name": (system(errno.ENAMETOOLONG, "x" * 5000), UserError),
    "a file as a folder": (system(errno.ENOTDIR), UserError),
    "a file in its place": (system(errno.EEXIST), UserError),
    "a folder as a file": (system(errno.EISDIR), UserError),
    "a loop": (system(errno.ELOOP), UserError),
    "refused": (ConnectionRefusedError(errno.ECONNREFUSED, "x"), Outage),
    "reset": (ConnectionResetError("x"), Outage),
    "timeout": (TimeoutError("x"), Outage),
    "network file system": (system(errno.ESTALE), Outage),
    "disk error": (system(errno.EIO), Outage),
    "httpx": (like("httpx", "ConnectError"), Outage),
    "httpx read": (like("httpx", "ReadTimeout"), Outage),
    "requests": (like("requests.exceptions", "ConnectionError"), Outage),
    "requests chunk": (like("requests.exceptions", "ChunkedEncodingError"), Outage),
    "urllib3": (like("urllib3.exceptions", "MaxRetryError"), Outage),
    "dns": (like("socket", "gaierror", "Name or service not known"), Outage),
    "ssl": (like("ssl", "SSLError"), Outage),
    "aiohttp": (like("aiohttp.client_exceptions", "ServerDisconnectedError"), Outage),
    "botocore": (like("botocore.exceptions", "ConnectTimeoutError"), Outage),
    "hub 503": (like("huggingface_hub.errors", "HfHubHTTPError", response=answer(503)), Outage),
    "hub 429": (like("huggingface_hub.errors", "HfHubHTTPError", response=answer(429)), Outage),
    "hub 403": (like("huggingface_hub.errors", "HfHubHTTPError", response=answer(403)),
                UserError),
    "mlflow": (like("mlflow.exceptions", "MlflowException", "API request to http://x failed with exception"), Outage),
    "our own as a cause": (caused(RuntimeError("x"), OURS), NumericError),
    "a silent service as a cause": (caused(ValueError("x"), like("httpx", "ConnectError")), Outage),
    # Not theirs: these are bugs.
    "a bug": (KeyError("x"), None),
    "a missing file": (FileNotFoundError(errno.ENOENT, "No such file", "/data/x"), None),
    "a reader that ended": (BrokenPipeError(errno.EPIPE, "x"), None),
    "no permission without a file": (PermissionError(errno.EPERM, "Operation not permitted"), None),
    "a bug after a handled silence": (met(TypeError("x"), ConnectionRefusedError("x")), None),
    "a bug after a handled refusal": (met(TypeError("x"), system(errno.EACCES)), None),
    "mlflow says no": (like("mlflow.exceptions", "MlflowException", "Invalid parameter value"), None),
    "hub 404": (like("huggingface_hub.errors", "HfHubHTTPError", response=answer(404)), None),
}  # fmt: skip


@pytest.mark.parametrize("name", TABLE)
def test_an_error_is_known_by_its_cause(name):
    error, expected = TABLE[name]
    found = known(error, "finetune")
    assert type(found) is (type(None) if expected is None else expected)
    if found and found is not OURS:
        (problem,) = found.problems
        assert all((problem.where, problem.found, problem.expected, problem.fix))
        assert len(str(found)) < 500
        assert "\n" not in str(found)


PASSES = {
    "a gateway": (like("huggingface_hub.errors", "HfHubHTTPError", response=answer(503)), True),
    "too many requests": (like("huggingface_hub.errors", "HfHubHTTPError", response=answer(429)), True),
    "a refused connection": (ConnectionRefusedError("x"), True),
    "a name that DNS does not know now": (like("socket", "gaierror", "Name or service not known"), True),
    "nothing there": (like("huggingface_hub.errors", "HfHubHTTPError", response=answer(404)), False),
    "nothing there, as a cause": (caused(Outage(OURS.problems), like("httpx", "X", response=answer(404))), False),
    "another server": (like("mlflow.exceptions", "MlflowException", "API request to endpoint /api/2.0/mlflow failed "
                            "with error code 404 != 200."), False),
    "a server that is busy": (like("mlflow.exceptions", "MlflowException", "API request failed with error code 429"),
                              True),
    "a certificate": (like("ssl", "SSLError", "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"), False),
    "a certificate, as a cause": (caused(ValueError("x"), like("requests", "SSLError", "certificate verify failed")),
                                  False),
    "no network wanted": (like("huggingface_hub.errors", "OfflineModeIsEnabled"), False),
    "a file with such a name": (Outage(Problem("X-E0001", "s3://Offline-data", "a", "b", "c")), True),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSES)
def test_an_answer_that_another_request_would_get_as_well_is_known(name):
    error, passes = PASSES[name]
    assert same_again(error) is not passes


@pytest.mark.parametrize("change", [{"max_position_embeddings": None}, {"eos_token_id": "x"}, {"rms_norm_eps": "1"}])
def test_a_value_of_another_type_in_config_json_is_the_users_to_correct(change, tmp_path):
    from transformers import AutoConfig

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **change}))
    with pytest.raises(Exception) as raised:
        AutoConfig.from_pretrained(tmp_path, local_files_only=True)
    found = known(raised.value, "prepare-data")
    assert isinstance(found, UserError)
    assert "MODEL-E0125 config.json" in str(found)
    assert next(iter(change)) in str(found)


@pytest.mark.parametrize("content", [b"{", b'{"model": {"type": "none"}}', b'{"added_tokens": [3]}'])
def test_what_a_library_raises_of_a_models_files_is_the_users_to_correct(content, tmp_path):
    from transformers import AutoTokenizer

    (tmp_path / "tokenizer.json").write_bytes(content)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(Exception) as raised:
        AutoTokenizer.from_pretrained(tmp_path, local_files_only=True)
    found = known(raised.value, "prepare-data")
    assert isinstance(found, UserError)
    assert f"MODEL-E0127 {tmp_path}" in str(found)


def test_a_tokenizer_without_a_token_for_a_text_is_the_users_to_correct():
    from tokenizers import Tokenizer, models

    with pytest.raises(Exception) as raised:
        Tokenizer(models.WordLevel({"a": 0}, unk_token="none")).encode("b")
    assert "MODEL-E0135" in str(known(raised.value, "prepare-data"))


def test_a_fault_of_a_device_while_a_model_is_loaded_is_no_fault_of_its_files(monkeypatch, tmp_path):
    from transformers import AutoConfig, PreTrainedConfig

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(PreTrainedConfig, "get_config_dict", fail)
    with pytest.raises(RuntimeError) as raised:
        AutoConfig.from_pretrained(tmp_path)
    assert not isinstance(known(raised.value, "finetune"), UserError)


def test_the_architectures_that_a_plan_knows_are_those_of_transformers():
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    assert set(CONFIG_MAPPING_NAMES) <= known_types()


def test_a_cycle_of_causes_ends():
    first, second = ValueError("a"), ValueError("b")
    first.__cause__, second.__cause__ = second, first
    assert known(first, "plan") is None


def test_an_unknown_error_is_a_bug_with_its_traceback(capsys):
    assert failure(KeyError("x"), "plan").exit_code == 70
    assert "KeyError" in capsys.readouterr().err


WRITERS = {
    "open": "open(p, 'wb').write(b'x' * 9_000_000)",
    "pyarrow": "import pyarrow as a, pyarrow.parquet as q, os; "
               "q.write_table(a.table({'a': [os.urandom(9_000_000)]}), p)",
    "safetensors": "import numpy as n; from safetensors.numpy import save_file; save_file({'a': n.ones(2_000_000)}, p)",
    "torch": "import torch; torch.save({'a': torch.rand(3_000_000)}, p)",
    "numpy": "import numpy as n; n.save(p, n.ones(2_000_000))",
    "sqlite": "import sqlite3; c = sqlite3.connect(p); c.execute('create table t (a)'); "
              "c.executemany('insert into t values (?)', [('x' * 9000,)] * 1000); c.commit()",
    "tempfile": "import tempfile; tempfile.tempdir = None; tempfile.NamedTemporaryFile().write(b'x' * 9_000_000)",
}  # fmt: skip


TORCH = pytest.param("torch", marks=pytest.mark.slow)  # it takes seconds to load


def reported(library: str) -> str:
    """Return the script of a step that writes a file with a library."""
    write = WRITERS[library].replace("'", '"')
    return f'import sys; p = sys.argv[1]\nfrom steps.running import reported\nwith reported("step"):\n    {write}'


def full_disk(script: str, folder: Path) -> subprocess.CompletedProcess:
    """Run Python where `folder` is a volume of 1 MB."""
    inside = f"mount -t tmpfs -o size=1m tmpfs {folder} && exec {sys.executable} -W ignore -c '{script}' {folder}/file"
    return subprocess.run(["unshare", "-m", "sh", "-c", inside], capture_output=True, text=True,
                          env={**with_our_code(), "TMPDIR": str(folder)})  # fmt: skip


@pytest.mark.skipif(
    subprocess.run(["unshare", "-m", "sh", "-c", "mount -t tmpfs tmpfs /mnt"], capture_output=True).returncode != 0,
    reason="this user may not mount a volume",
)
@pytest.mark.parametrize("library", [name if name != "torch" else TORCH for name in WRITERS])
def test_a_disk_that_is_full_ends_with_5_whatever_library_writes(tmp_path, library):
    done = full_disk(reported(library), tmp_path)
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads(done.stderr.splitlines()[-1])["code"] == 5


@pytest.mark.parametrize("library", ["open", "pyarrow", "safetensors", TORCH, "numpy"])
def test_a_limit_of_file_sizes_ends_with_5(tmp_path, library):
    limited = f"ulimit -f 1000; exec {sys.executable} -W ignore -c '{reported(library)}' {tmp_path}/file"
    done = subprocess.run(["bash", "-c", limited], capture_output=True, text=True, env=with_our_code())
    assert done.returncode == 5, done.stderr


def test_the_termination_log_is_a_sentence_and_json_in_2047_bytes(tmp_path, monkeypatch, capsys):
    from steps import outcome

    place = tmp_path / "termination-log"
    place.write_text("")
    assert Path("/dev/termination-log") == TERMINATION_LOG
    monkeypatch.setattr(outcome, "TERMINATION_LOG", place)
    many = [Problem("X-E0001", f"wo {number}", "ä" * 900, "etwas", "tu es") for number in range(30)]
    error = UserError(many)
    error.resume_from = "ö" * 5000
    with pytest.raises(SystemExit) as end:
        outcome.leave(error.as_json("plan"))
    assert end.value.code == 2
    kept = place.read_bytes()
    assert len(kept) <= 2047
    sentence, line = kept.decode().split("\n")
    assert sentence.startswith("plan ended with code 2 (user error), 30 problems: X-E0001 wo 0: found ää")
    assert sentence.endswith("expected etwas. Fix: tu es.")
    told = json.loads(line)
    assert (told["code"], told["where"]) == (2, "wo 0")
    assert len(told["further_problems"]) + told["left_out"] == 29
    assert json.loads(capsys.readouterr().err.splitlines()[-1])["problems"] == [str(one) for one in many]


def test_a_disk_on_which_not_even_the_error_can_be_recorded_still_tells_it(tmp_path, monkeypatch, capsys):
    from steps import outcome

    monkeypatch.setattr(outcome, "record", lambda told: (_ for _ in ()).throw(FULL))
    with pytest.raises(SystemExit) as end:
        outcome.leave(known(FULL, "finetune").as_json("finetune"))
    assert end.value.code == 5
    assert "DISK-E0102" in capsys.readouterr().err
