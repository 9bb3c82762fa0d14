"""Folders and contents of the examples, and a copy of them with all generated files."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipelines.flags import parameters_in

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "examples").glob("*/sweep.yaml"))
MAKERS = sorted((ROOT / "examples").glob("*/make.py"))
# The base of this example is trained. A test that needs any base takes fewer rows, `make test-examples` takes all.
FEWER = {"sorting": {"CHATS": 320}}
MADE = ("base", "base_encoder", "base_masked", "base_plain", "data")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT / "examples"))


def read(config: Path) -> tuple[str, dict]:
    given = parameters_in(config)
    return given.pop("pipeline"), given


_RUN = sorted({*(ROOT / "examples").glob("*/*.yaml")} - {*SWEEPS})
ANSWERING = [config for config in _RUN if read(config)[0] == "batch_inference"]
CONFIGS = [config for config in _RUN if config not in ANSWERING]  # those that train


def make_all(checkout: Path) -> Path:
    """Copy examples/ into an empty checkout and let every make.py make its files."""
    sources(checkout)
    make(checkout, *MAKERS)
    return checkout


def make_soon(checkout: Path, warm: Path) -> Path:
    """Do the same with the fewer rows of FEWER; runs of the makers share the server of the folder `warm`."""
    sources(checkout)
    run_scripts([shortened(checkout, maker) for maker in MAKERS], cwd=checkout, FINETUNE_WARM=str(warm))
    return checkout


def sources(checkout: Path) -> None:
    """Copy examples/ without what it makes."""
    shutil.copytree(ROOT / "examples", checkout / "examples", ignore=shutil.ignore_patterns(*MADE, "*.tmp"))


def make(checkout: Path, *makers: Path) -> list[str]:
    """Run make.py files of a checkout in one Python, which loads the libraries once; give what each printed."""
    return run_scripts([(checkout / maker.relative_to(ROOT), {}) for maker in makers], cwd=checkout)


def shortened(checkout: Path, maker: Path) -> tuple[Path, dict[str, int]]:
    """Give the copy of a make.py and the constants that FEWER changes in it."""
    return checkout / maker.relative_to(ROOT), FEWER.get(maker.parent.name, {})


def run_scripts(scripts: list[tuple[Path, dict[str, int]]], cwd: Path, **environment: str) -> list[str]:
    """Run scripts in one Python, each with other values of its constants; give what each printed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", **environment}
    given = json.dumps([(str(script), changes) for script, changes in scripts])
    command = [sys.executable, str(Path(__file__).parent / "run_scripts.py"), given]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
