"""Odd values and paths, given as a file of parameters and to the plan of any pipeline."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chaos_row import Row
from fuzz_changes import ODD
from fuzz_targets import TASK_ROWS, good_files, silent
from hostile_files import put

from pipelines.flags import parameters_in, plain_name
from steps.outcome import failure
from steps.params.data import DataSource
from steps.params.pipelines import PARAMETER_MODELS, is_sweep, model_of
from steps.params.reading import read_parameters
from steps.params.sweep_reading import read_sweep
from steps.plan.step import plan
from steps.prepare_data.check.checking import check_data

LONGEST = 10.0  # seconds for one value
ALLOWED = (0, 2, 3)
ROWS_OF = {"preference": "preference", "text_generation": "text_generation", "grpo_chat_completion": "grpo"}
NEEDS: dict[str, dict[str, Any]] = {  # beside rows and a model
    "grpo_chat_completion": {"max_prompt_length": 16, "max_completion_length": 16},
    "batch_inference": {"max_new_tokens": 16},
}
SWEPT = ("chat_completion_sweep", "preference_sweep")
# What shells, templates, markup, paths and numbers are made of.
PIECES = [
    "a", "0", " ", "\t", "\n", "\r", "\0", "\x1b[2J", "\\", "'", '"', "`", "$", "$(touch pwned)", "`touch pwned`", ";",
    "&&", "|", ">pwned", "<", "*", "?", "~", "#", "%", "%s", "%00", "%2e%2e", "{", "}", "{{", "}}", "{{$.inputs}}",
    "{{workflow.name}}", "${HOME}", "$HOME", "{% for a in b %}", "<script>", "&amp;", "--", "-", "..", "../", "/", "//",
    "./", ":", "@", "=", ",", "[", "]", "(", "(a+)+$", "!", "!!python/object", "&a", "null", "true", "1e999", "nan",
    "file://", "s3://", "hf://", "memory://", "::", "http://169.254.169.254/", "/etc/passwd", "/dev/zero", "/proc/self",
    "~nobody", "é", "e\u0301", "\u2028", "\u202e", "\ufeff", "\ud800", "\U0001f600", "x" * 300, "٣",
]  # fmt: skip
CANARY = "a row that nobody may read"


@dataclass
class Odd:
    """A model, rows of each task, and a root for runs in one folder, beside which nothing may change."""

    folder: Path

    @property
    def around(self) -> Path:
        return self.folder.parent

    def given(self, pipeline: str) -> dict[str, Any]:
        """Return parameters with which the plan of a pipeline finds everything that it looks for."""
        task = ROWS_OF.get(pipeline.removesuffix("_sweep"), "chat_completion")
        rows = str(self.folder / f"{task}.jsonl")
        given: dict[str, Any] = {"pytorch_model_path": str(self.folder / "model"), **NEEDS.get(pipeline, {})}
        given |= dict.fromkeys(("train_file_path", "data_train_files", "test_file_path"), rows)
        given |= {"trials": [{"learning_rate": 1e-3}]} if is_sweep(pipeline) else {}
        known = model_of(pipeline).model_fields  # type: ignore[union-attr]
        return {name: value for name, value in given.items() if name in known}


def place(folder: Path) -> Odd:
    """Make the folder of a place; a file beside it holds a row that nothing in it may name."""
    inside = folder / "inside"
    (inside / "model").mkdir(parents=True)
    for name, content in good_files().items():
        put(name, content)(inside / "model")
    for task, row in TASK_ROWS.items():
        (inside / f"{task}.jsonl").write_text("".join(json.dumps({**row, "n": n}) + "\n" for n in range(40)))
    (folder / "outside.jsonl").write_text(json.dumps({"text": CANARY}) + "\n")
    return Odd(inside)


def odd_value(draw: random.Random) -> Any:
    """Return any value of JSON; most are texts of some pieces."""
    if draw.random() < 0.25:
        return draw.choice(ODD)
    text = "".join(draw.choices(PIECES, k=draw.randint(1, 5)))
    shape = draw.random()
    if shape < 0.7:
        return text
    return [text] if shape < 0.8 else {text: text} if shape < 0.9 else {"a": [text, {"b": text}]}


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file around the place, but for what belongs to runs."""
    found = {}
    for path, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name not in ("root", "out")]
        found |= {os.path.join(path, name): os.lstat(os.path.join(path, name))[6:9:2] for name in files}
    return found  # type: ignore[return-value]


def code_of(work: Callable[[], object]) -> tuple[int, str]:
    """Return the exit code of some work, and its message."""
    try:
        with silent():
            work()
    except Exception as error:
        with silent():
            found = failure(error, "plan")
        return found.exit_code, str(found)
    return 0, ""


def read(file: Path, pipeline: str) -> None:
    """Read a file of parameters as the command line does."""
    values = parameters_in(file)
    plain_name(values.pop("pipeline", ""))
    (read_sweep if is_sweep(pipeline) else read_parameters)(pipeline, values)


def valued(odd: Odd, number: int, draw: random.Random) -> str:
    """Odd values of one or two parameters: a file and the plan take or refuse them alike, soon, without a trace."""
    pipeline = draw.choice([*PARAMETER_MODELS, *SWEPT])
    names = draw.sample(list(model_of(pipeline).model_fields), draw.randint(1, 2))  # type: ignore[union-attr]
    changes = {name: odd_value(draw) for name in names}
    given, out = {**odd.given(pipeline), **changes}, odd.folder / "out"
    file, before = odd.folder / "given.json", seen(odd.around)
    try:
        file.write_text(json.dumps({"pipeline": pipeline, **given}, ensure_ascii=draw.random() < 0.5), "utf-8")
    except UnicodeEncodeError:  # half a character cannot be written to a file as it is
        file.write_text(json.dumps({"pipeline": pipeline, **given}), "utf-8")
    began, here = time.monotonic(), os.getcwd()
    try:
        os.chdir(odd.folder)
        written, said = code_of(lambda: read(file, pipeline))
        planned, told = code_of(lambda: plan(pipeline, given, out / "plan", out / "report.html"))
    finally:
        os.chdir(here)
    seconds = time.monotonic() - began
    file.unlink()
    shutil.rmtree(out, ignore_errors=True)
    faults = [f"{code}: {text}" for code, text in ((written, said), (planned, told)) if code not in ALLOWED]
    faults += [f"{seconds:.1f} seconds"] if seconds > LONGEST else []
    faults += [f"the file is refused with {written}, the plan with {planned}: {said}"] if written > planned else []
    faults += (
        [f"changed: {sorted(after)[:3]}"] if (after := set(seen(odd.around).items()) ^ set(before.items())) else []
    )
    return f"{pipeline} {changes!r}: {'; '.join(faults)}"[:3000] if faults else ""


def climbing(draw: random.Random, target: Path, start: Path) -> str:
    """Return a path that leads from a folder to a file outside it, written in one of many ways."""
    parts = Path(os.path.relpath(target, start)).parts
    text = "/".join(draw.choice(["", "./", "a/../", "/"]) * (draw.random() < 0.3) + part for part in parts)
    ways = [
        text, str(target), f"file://{target}", f"file:{target}", f"./{text}", f"x/../{text}", f"{text}/", f" {text}",
        text.replace("/", "\\"), text.replace("..", "%2e%2e"), text.replace("..", "．．"), text.replace("/", "//"),
        text.replace("jsonl", "json*"), text.replace("outside", "*"), f"local://{target}", f"simplecache::file://{target}",
        f"~/../..{target}", f"/proc/self/root{target}", f"/dev/fd/../../..{target}", f"{text}\0", f"file://localhost{target}",
    ]  # fmt: skip
    return draw.choice(ways)


def escaping(odd: Odd, number: int, draw: random.Random) -> str:
    """A data folder, an MLTable or an index that names a file outside: it is refused, and no row of it is read."""
    folder, outside = odd.folder / f"data-{number}", odd.around / "outside.jsonl"
    folder.mkdir()
    before = seen(odd.around)
    name = climbing(draw, outside, folder)
    kind = draw.choice(["mltable", "link", "index", "manifest"])
    try:
        code, said = ESCAPES[kind](odd, folder, name, draw)
    finally:
        shutil.rmtree(folder)
    if code not in (2, 3):
        return f"{kind} {name!r}: ended with {code}: {said}"[:3000]
    if CANARY in said:
        return f"{kind} {name!r} was read: {said}"[:3000]
    changed = {path for path, _ in set(seen(odd.around).items()) ^ set(before.items()) if str(folder) not in path}
    return f"{kind} {name!r} changed {sorted(changed)[:3]}" if changed else ""


def _mltable(odd: Odd, folder: Path, name: str, draw: random.Random) -> tuple[int, str]:
    key = draw.choice(["file", "folder", "pattern"])
    shown = {"paths": [{key: name}], "transformations": ["read_json_lines"]}
    (folder / "MLTable").write_text(json.dumps(shown))
    read = DataSource(train_mltable_path=str(folder), min_train_rows=1)
    return code_of(lambda: check_data("text_generation", read, scratch=odd.folder / "root"))


def _link(odd: Odd, folder: Path, name: str, draw: random.Random) -> tuple[int, str]:
    link = folder / "rows.jsonl"
    try:
        link.symlink_to(draw.choice([name.strip().rstrip("/"), str(odd.around / "outside.jsonl")]))
    except (ValueError, OSError):
        link.symlink_to(odd.around / "outside.jsonl")
    read = DataSource(train_file_path=str(folder), min_train_rows=1)
    return code_of(lambda: check_data("text_generation", read, scratch=odd.folder / "root"))


def _index(odd: Odd, folder: Path, name: str, draw: random.Random) -> tuple[int, str]:
    for file in (odd.folder / "model").iterdir():
        if file.name != "model.safetensors":
            shutil.copy(file, folder / file.name)
    shutil.copy(odd.folder / "model/model.safetensors", folder / "model-00001-of-00001.safetensors")
    tensors = ["model.embed_tokens.weight", "lm_head.weight"]
    shards = {tensor: draw.choice([name, "model-00001-of-00001.safetensors"]) for tensor in tensors}
    shards[draw.choice(tensors)] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    given = {**odd.given("chat_completion"), "pytorch_model_path": str(folder)}
    return code_of(lambda: plan("chat_completion", given, odd.folder / "out/plan", odd.folder / "out/report.html"))


def _manifest(odd: Odd, folder: Path, name: str, draw: random.Random) -> tuple[int, str]:
    from steps.artifacts import new_artifact, read_manifest

    with new_artifact(folder / "made", "data") as draft:
        (draft / "a").write_text("a")
    file = folder / "made/manifest.json"
    told = json.loads(file.read_text())
    told["files"] = json.loads(json.dumps(told["files"]).replace('"a"', json.dumps(name)))
    file.write_text(json.dumps(told))
    code, said = code_of(lambda: read_manifest(folder / "made", "data"))
    return (2 if code == 4 else code), said  # an artifact that is damaged: to make it again helps


ESCAPES = {"mltable": _mltable, "link": _link, "index": _index, "manifest": _manifest}
ROWS = [
    Row(47, "a name leads out of its folder", escaping, "odd", short=150, long=5000),
    Row(52, "an odd value or path", valued, "odd", short=150, long=5000),
]
