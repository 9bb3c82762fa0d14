"""The scores of verl's own functions, in a process of its own.

verl's package imports Ray and torch; its reward functions are plain files, which are loaded here below empty packages.
They are in a folder beside the environment (`make setup`, requirements-verl.txt). verl runs programs without a
sandbox, so only programs of the tests themselves may be given.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LIBRARIES = ROOT / ".venv" / "verl"


def verl_scores(asked: Iterable[tuple[str, str, Any]]) -> list[float | str]:
    """Return verl's score for each (data_source, answer, ground truth), or the error that it raised, as text."""
    assert (LIBRARIES / "verl").is_dir(), f"{LIBRARIES} lacks verl: run make setup"
    done = subprocess.run(
        [sys.executable, __file__],
        input=json.dumps(list(asked)),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="surrogatepass",
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(LIBRARIES), *sys.path[1:]]), "PYTHONUTF8": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


def _answer() -> None:
    import importlib
    import types

    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # verl's functions print
    for name in ("verl", "verl.utils"):
        package = types.ModuleType(name)
        package.__path__ = [str(LIBRARIES / name.replace(".", "/"))]
        sys.modules[name] = package
    imports = types.ModuleType("verl.utils.import_utils")
    imports.deprecated = lambda replaced: lambda function: function
    metric = types.ModuleType("verl.utils.metric")
    metric.Metric = object
    for module in (imports, metric):
        sys.modules[module.__name__] = module
    scoring = importlib.import_module("verl.utils.reward_score")
    programs = importlib.import_module("verl.utils.reward_score.prime_code")
    run_test = importlib.import_module("verl.utils.reward_score.prime_code.testing_util").run_test
    made, asked = [], json.load(sys.stdin)
    nothing = os.fdopen(os.open(os.devnull, os.O_WRONLY), "w")

    def checked(in_outs: Any, generation: str, timeout: int, debug: bool) -> tuple[list[Any], list[Any]]:
        """Run the tests in a process of their own, as verl does, but without a second one that holds the results."""
        reading, writing = os.pipe()
        if not (child := os.fork()):
            sys.stdout = sys.stderr = nothing
            try:
                results, _ = run_test(in_outs, test=generation, debug=debug, timeout=timeout)
            except Exception:
                results = [-1] * len(in_outs["inputs"])
            os.write(writing, json.dumps([one if one is True else False for one in results]).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            text = answer.read()
        os.waitpid(child, 0)
        return json.loads(text or "[false]"), [{}]

    programs.apps_check_correctness = checked
    for source, answer, truth in asked:
        try:
            score = scoring.default_compute_score(source, answer, truth)
        except Exception as error:
            score = f"{type(error).__name__}: {error}"
        made.append(score["score"] if isinstance(score, dict) else score)
    answers.write(json.dumps(made))
    answers.flush()


if __name__ == "__main__":
    _answer()
