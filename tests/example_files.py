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


def sources(checkout: Path) -> None:
    """Copy examples/ without what it makes."""
    shutil.copytree(ROOT / "examples", checkout / "examples", ignore=shutil.ignore_patterns(*MADE, "*.tmp"))


def make(checkout: Path, *makers: Path) -> list[str]:
    """Run make.py files of a checkout in one Python, which loads the libraries once; give what each printed."""
    return run_scripts([checkout / maker.relative_to(ROOT) for maker in makers], cwd=checkout)


def run_scripts(scripts: list[Path], cwd: Path) -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(Path(__file__).parent / "run_scripts.py"), *map(str, scripts)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])
