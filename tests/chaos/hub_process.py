"""A process that asks the Hub, as HF_ENDPOINT is read at import: one line of JSON in, one out."""

import json
import logging
import shutil
import sys
import time
from pathlib import Path

from hub_stand_in import COMMIT
from huggingface_hub import HfFileSystem, constants, file_download

from steps.errors import StepError
from steps.sources import bounded, hub, storage


def downloaded(name: str) -> bytes:
    return (hub.HubModel(name, COMMIT, {}).download(["*"]) / "weights.bin").read_bytes()


def fetched(name: str) -> bytes:
    folder = Path(constants.HF_HOME, "fetched")
    shutil.rmtree(folder, ignore_errors=True)
    return (storage.fetch("pytorch_model_path", f"hf://{name}", folder) / "weights.bin").read_bytes()


CALLS = {
    "resolve": lambda name: json.dumps(sorted(hub.resolve(name, "main").files.items())).encode(),
    "read": lambda name: hub.HubModel(name, COMMIT, {}).read("weights.bin"),
    "download": downloaded,
    "list": lambda name: json.dumps(sorted(storage.find_files("p", f"hf://{name}"))).encode(),
    "fetch": fetched,
    "read by URI": lambda name: storage.read_bytes("p", f"hf://{name}/weights.bin"),
}


def asked(call: str, name: str) -> dict[str, object]:
    shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
    HfFileSystem.clear_instance_cache()
    began = time.monotonic()
    told: dict[str, object] = {"code": 0, "said": "", "content": ""}
    try:
        told["content"] = CALLS[call](name).hex()
    except StepError as error:
        told |= {"code": error.exit_code, "said": str(error)}
    except Exception as error:
        told |= {"code": 70, "said": repr(error)}
    return {**told, "seconds": time.monotonic() - began}


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    bounded.LONGEST = bounded.SILENCE = float(sys.argv[1])
    bounded.WAITS = (0.1, 0.3)
    file_download._ETAG_RETRY_TIMEOUT = 1
    for line in sys.stdin:
        print(json.dumps(asked(**json.loads(line))), flush=True)
