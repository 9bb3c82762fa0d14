"""Folders and contents of the examples, and a copy of them with all generated files."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from pipelines.flags import parameters_in

ROOT = Path(__file__).parents[1]
CONFIGS = sorted((ROOT / "examples").glob("*/*.yaml"))
MAKERS = sorted((ROOT / "examples").glob("*/make.py"))
MADE = ("base", "base_encoder", "base_masked", "base_plain", "data")


def named(path: Path) -> str:
    return str(path.relative_to(ROOT / "examples"))


def read(config: Path) -> tuple[str, dict]:
    given = parameters_in(config)
    return given.pop("pipeline"), given


def make_all(checkout: Path) -> Path:
    """Copy examples/ into an empty checkout and let every make.py make its files."""
    shutil.copytree(ROOT / "examples", checkout / "examples", ignore=shutil.ignore_patterns(*MADE, "*.tmp"))
    for maker in MAKERS:
        make(checkout, maker)
    return checkout


def make(checkout: Path, maker: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(checkout / maker.relative_to(ROOT))]
    return subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=True).stdout
