"""Run scripts one after the other in this Python, each as if started by itself; print the list of what each printed.

The argument is a JSON list of pairs: the path of a script that has a `main`, and values of its constants to change.
"""

import contextlib
import importlib.util
import io
import json
import sys
from typing import Any


def run(script: str, changes: dict[str, Any]) -> str:
    """Call the script's `main`; give what it printed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "examples"]:
        del sys.modules[name]  # this script may stand in another checkout than the one before
    spec = importlib.util.spec_from_file_location("script", script)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["script"] = module  # where a dataclass looks its types up
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        spec.loader.exec_module(module)
        assert changes.keys() <= vars(module).keys()
        vars(module).update(changes)
        module.main()
    return printed.getvalue()


if __name__ == "__main__":
    told, path = [], list(sys.path)
    for script, changes in json.loads(sys.argv[1]):
        sys.path[:] = path
        told.append(run(script, changes))
    print(json.dumps(told))
