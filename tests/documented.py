"""The commands and cluster profiles of docs/operations.md, as its reader has them."""

import re
import shlex
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/operations.md").read_text("utf-8")
PROFILES = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
_SECTION = PAGE.partition("## From an empty namespace to a finished run\n")[2].partition("\n## ")[0]
COMMANDS = [shlex.split(line) for line in _SECTION.split("```")[1].replace("\\\n", "").splitlines() if line.strip()]


def command(*beginning: str) -> list[str]:
    """Give the one command that begins with these words, without them."""
    (found,) = [words for words in COMMANDS if words[: len(beginning)] == list(beginning)]
    return found[len(beginning) :]


def kfp(*verb: str) -> list[str]:
    """Give the words after a verb of kfp."""
    (found,) = [words for words in COMMANDS if words[0].endswith("/kfp") and words[3:5] == list(verb)]
    return found[5:]


def arguments() -> dict[str, Any]:
    """Give the parameters of the documented run, with the values that kfp's command sends."""
    from kfp.cli.run import create
    from kfp.cli.utils.parsing import parse_parameter_value

    given = create.make_context("create", kfp("run", "create")).params["args"]
    return {name: parse_parameter_value(value) for name, _, value in (one.partition("=") for one in given)}
