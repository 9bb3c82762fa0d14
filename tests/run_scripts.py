"""Run scripts one after the other in this Python, each as if started by itself; print the list of what each printed."""

import contextlib
import io
import json
import runpy
import sys

if __name__ == "__main__":
    told, path = [], list(sys.path)
    for script in sys.argv[1:]:
        sys.path[:] = path
        for name in [name for name in sys.modules if name.split(".")[0] == "examples"]:
            del sys.modules[name]  # the next script may stand in another checkout
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            runpy.run_path(script, run_name="__main__")
        told.append(printed.getvalue())
    print(json.dumps(told))
