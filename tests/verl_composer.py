"""verl's packaged configuration in a process of its own, which composes as many lists of overrides as a test has.

verl and Hydra are in a folder beside the environment (`make setup`, requirements-verl.txt), as omegaconf needs another
antlr4 runtime than the environment has. verl itself cannot be imported without Ray; its configuration is plain files.
"""

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIBRARIES = ROOT / ".venv" / "verl"


class Composer:
    """The process."""

    def __init__(self) -> None:
        assert (LIBRARIES / "verl").is_dir(), f"{LIBRARIES} lacks verl: run make setup"
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": str(LIBRARIES), "PYTHONUTF8": "1"},
        )

    def compose(self, overrides: list[str], keys: Iterable[str], quickly: bool = False) -> dict[str, Any]:
        """Compose `ppo_trainer` with overrides and return the values of keys, None for one that is not there.

        References to other values are resolved. It takes half a second; `quickly`, a quarter of that, puts the
        overrides into a copy of the packaged configuration, as Hydra does at the end of each composition. Raises
        ValueError with Hydra's message where it refuses the overrides.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([overrides, [key.lstrip("+") for key in keys], quickly]) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        if "refused" in answer:
            raise ValueError(answer["refused"])
        return answer["values"]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()


def _answer() -> None:
    """Answer each line of stdin, what `compose` was called with, with a line."""
    from hydra import compose, initialize_config_dir
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    def plain(value: Any) -> Any:
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value

    with initialize_config_dir(str(LIBRARIES / "verl" / "trainer" / "config"), version_base=None):
        packaged = compose("ppo_trainer")
        for line in sys.stdin:
            overrides, keys, quickly = json.loads(line)
            try:
                if quickly:
                    composed = copy.deepcopy(packaged)
                    parsed = OverridesParser.create().parse_overrides(overrides)
                    ConfigLoaderImpl._apply_overrides_to_config(parsed, composed)
                else:
                    composed = compose("ppo_trainer", overrides=overrides)
                answer = {"values": {key: plain(OmegaConf.select(composed, key)) for key in keys}}
            except (HydraException, OmegaConfBaseException) as error:
                answer = {"refused": f"{type(error).__name__}: {error}"}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _answer()
