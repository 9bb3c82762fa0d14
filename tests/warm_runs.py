"""Pythons that have loaded what runs and trainings need, for those of many tests.

The fixtures here are known to every test (`pytest_plugins` in conftest.py).
"""

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from forking import Fork, ForkingPython

from steps import wire
from steps.params.settings import FinetuneSettings

TASKS = ("plan", "import_model", "import_adapter", "prepare_data", "finetune", "trial", "evaluate", "generate", "score",
         "merge_adapter", "register_model", "report")  # fmt: skip
# What trainings load, in one process or several; the first of them defers some of what others would load.
LIBRARIES = [
    "steps.running",
    "steps.finetune.step",
    "several_trainings",
    "deepspeed",
    "bitsandbytes",
    "peft",
    "sklearn.metrics",
    "seqeval.metrics",
    "matplotlib.backends.backend_svg",
    "mlflow.store.tracking.sqlalchemy_store",
    "torch._dynamo",
    "torch.distributed.checkpoint.state_dict",
    "transformers.trainer_seq2seq",
    *(f"transformers.models.{name}.modeling_{name}" for name in ("llama", "bert", "t5")),
    *(f"trl.trainer.{name}_trainer" for name in ("sft", "dpo", "kto", "grpo")),
    "trl.experimental.orpo",
]
# What `python -m steps` does.
STEPS = "import runpy; runpy.run_module('steps', run_name='__main__', alter_sys=True)"


@pytest.fixture(scope="session")
def warm_folder() -> Iterator[Path]:
    """Where the server is, from which every task of a run is forked."""
    from pipelines.warm import warm_python

    with warm_python(waiting=TASKS) as folder:
        assert folder
        yield folder


@pytest.fixture
def warm(warm_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runs of this test share the server."""
    monkeypatch.setenv("FINETUNE_WARM", str(warm_folder))


@pytest.fixture(scope="module")
def warm_module(warm_folder: Path) -> Iterator[None]:
    """Let all runs of a module share the server, also those of its fixtures."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FINETUNE_WARM", str(warm_folder))
        yield


@pytest.fixture
def runs_root(empty_database: Path, tmp_path: Path) -> Path:
    """A folder for runs that has a tracking database already: its migrations take seconds."""
    (tmp_path / "runs").mkdir()
    shutil.copyfile(empty_database, tmp_path / "runs/mlflow.db")
    return tmp_path / "runs"


@pytest.fixture(scope="session")
def loaded() -> Iterator[ForkingPython]:
    """A Python that has loaded what trainings need."""
    paths = os.pathsep.join(str(Path(__file__).parents[number]) for number in (0, 1))
    made = ForkingPython(LIBRARIES, {**os.environ, "PYTHONPATH": paths})
    yield made
    made.close()


@pytest.fixture
def start(loaded: ForkingPython) -> Callable[..., Fork]:
    """Starts finetune as a process of its own, which writes where `train` does and into out/log.txt."""

    def begin(settings: FinetuneSettings, model: Path, data: Path, out: Path, **variables: str) -> Fork:
        out.mkdir(exist_ok=True)
        paths = {"model": model, "data": data, "tuned": out / "tuned", "checkpoints": out / "checkpoints",
                 "report": out / "report.html"}  # fmt: skip
        flags = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
        words = ["finetune", "--settings", wire.dump(settings.model_dump(mode="json")), *flags]
        environment = {**os.environ, **variables}
        return loaded.start(STEPS, *words, cwd=Path.cwd(), environment=environment, files=[out / "log.txt"] * 2)

    return begin


@pytest.fixture
def forked(loaded: ForkingPython, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes of trainings are forks of one that has the libraries, where it does not matter who starts them."""
    from steps.finetune import processes
    from steps.launch.several_processes import Ended, Outcome

    def run(module: str, words: list[str], per_node: int, _node=None) -> Outcome:
        code = f"import runpy; runpy.run_module({module!r}, run_name='__main__', alter_sys=True)"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        found = {"WORLD_SIZE": str(per_node), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        forks = [
            loaded.start(
                code, *words, cwd=tmp_path, files=[tmp_path / f"rank-{rank}.txt"] * 2,
                environment={**os.environ, **found, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank in range(per_node)
        ]  # fmt: skip
        codes = [fork.wait(300) for fork in forks]
        return Outcome([Ended(rank, code, 0.0) for rank, code in enumerate(codes) if code], False)

    monkeypatch.setattr(processes, "run_processes", run)
