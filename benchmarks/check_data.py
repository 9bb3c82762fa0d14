"""Wall time and memory of checking chat rows: our check compared with datasets, polars and duckdb.

    python benchmarks/check_data.py [--megabytes N] [--rounds N] [--scratch DIR]

Each arm reads the same jsonl file and checks roles, their order and empty content. The peers only count bad rows; ours
also names the row, searches for repeated and nearly equal rows and splits the rows. The arms alternate, each in a
separate process; the time is measured from the call to its result, without imports. Then ours alone reads files of 12,
200 and 1,000 MB to measure memory and growth. Exits with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PEERS = {"datasets": 5.0, "polars": 1.2, "duckdb": 1.2}
MOST_MIB = 400
MOST_MEMORY_GROWTH = 1.3
STEEPEST = 1.05
SIZES = (12, 200, 1000)

PRELUDE = """
import json, os, sys, tempfile, time
os.environ["HF_HUB_OFFLINE"] = "1"
file = sys.argv[1]
def told(started, rows, bad):
    print(json.dumps({"seconds": time.perf_counter() - started, "rows": rows, "bad": bad}))
"""
OURS = """
from steps.params.data import DataSource
from steps.prepare_data.check.checking import check_data
started = time.perf_counter()
checked = check_data("chat_completion", DataSource(train_file_path=file))
told(started, sum(checked.counts.values()), 0)
"""
DATASETS = """
import datasets
datasets.disable_progress_bars()
ROLES = {"system", "user", "assistant", "tool"}
def judge(batch):
    bad = []
    for messages in batch["messages"]:
        before, answered, good = "", False, bool(messages)
        for index, message in enumerate(messages):
            role, content = message["role"], message["content"]
            good &= role in ROLES and bool(content) and not content.isspace()
            good &= not (role == before == "user") and not (role == "system" and index)
            answered |= role == "assistant"
            before = role
        bad.append(not (good and answered))
    return {"bad": bad}
with tempfile.TemporaryDirectory() as cache:
    started = time.perf_counter()
    rows = datasets.load_dataset("json", data_files=file, cache_dir=cache, split="train")
    judged = rows.map(judge, batched=True, remove_columns=rows.column_names)
    told(started, len(judged), sum(judged["bad"]))
"""
POLARS = """
import polars as pl
started = time.perf_counter()
rows = pl.scan_ndjson(file)
role, content = pl.element().struct.field("role"), pl.element().struct.field("content")
messages = pl.col("messages")
roles = messages.list.eval(role)
judged = rows.select(
    bad=messages.list.eval(
        ~role.is_in(["system", "user", "assistant", "tool"]) | (content.str.strip_chars().str.len_bytes() == 0)
        | ((role == "user") & (role.shift() == "user")) | ((role == "system") & (pl.int_range(pl.len()) > 0))
    ).list.any() | ~roles.list.contains("assistant"),
).collect()
told(started, judged.height, int(judged["bad"].sum()))
"""
DUCKDB = """
import duckdb
started = time.perf_counter()
rows, bad = duckdb.sql(f'''
    with rows as (
        select messages, list_transform(messages, lambda m: m.role) as roles
        from read_json('{file}', format='newline_delimited',
                       columns={{messages: 'STRUCT(role VARCHAR, content VARCHAR)[]'}})
    )
    select count(*), count(*) filter (
        len(list_filter(messages, lambda m: m.role not in ('system', 'user', 'assistant', 'tool')
                        or length(trim(m.content, ' \\t\\r\\n')) = 0)) > 0
        or not list_contains(roles, 'assistant')
        or contains(array_to_string(roles, ' '), 'user user')
        or list_contains(roles[2:], 'system')
    ) from rows
''').fetchall()[0]
told(started, rows, bad)
"""
ARMS = {"ours": OURS, "datasets": DATASETS, "polars": POLARS, "duckdb": DUCKDB}


def main() -> int:
    """Write the files, measure, print, and compare with the targets."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scratch", default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="check-data-", dir=options.scratch) as scratch:
        file = _write_chats(Path(scratch) / "chats.jsonl", options.megabytes)
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
        for _ in range(options.rounds):
            for name, code in ARMS.items():
                measured[name].append(_run(code, file))
        good = _report_peers(measured, file.stat().st_size / 1e6)
        return 0 if _report_growth(Path(scratch)) and good else 1


def _write_chats(file: Path, megabytes: int) -> Path:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5000)]

    def say(role: str, least: int, most: int) -> dict[str, str]:
        return {"role": role, "content": " ".join(draw.choices(words, k=draw.randint(least, most)))}

    with open(file, "w") as stream:
        while stream.tell() < megabytes * 1e6:
            for _ in range(1000):
                turns = [say("user", 5, 40), say("assistant", 10, 80)] * draw.randint(1, 3)
                stream.write(json.dumps({"messages": turns}) + "\n")
    return file


def _run(code: str, file: Path) -> dict[str, float]:
    process = subprocess.Popen(
        [sys.executable, "-c", PRELUDE + code, file], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, _memory_mib(process.pid))
        time.sleep(0.01)
    assert process.stdout
    told = process.stdout.read()
    if process.returncode:
        raise SystemExit(process.returncode)
    return {**json.loads(told.splitlines()[-1]), "mib": peak}


def _memory_mib(pid: int) -> float:
    """Return the memory of a process and its children; shared pages count once (proportional set size).

    0 if one of them ended during the measurement: its shared pages would then be attributed to the others.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        known = children.read_text().split()
        own = _proportional_kib(pid) + sum(_proportional_kib(int(child)) for child in known)
        return own / 1024 if children.read_text().split() == known else 0.0
    except (OSError, StopIteration):  # it has ended
        return 0.0


def _proportional_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))


def _report_peers(measured: dict[str, list[dict[str, float]]], megabytes: float) -> bool:
    rows, bad = measured["ours"][0]["rows"], measured["ours"][0]["bad"]
    print(f"{megabytes:.0f} MB, {rows:,.0f} chats\n{'':12}{'median s':>9}{'MB/s':>8}{'peak MiB':>10}   all rounds")
    medians = {}
    for name, runs in measured.items():
        assert all((run["rows"], run["bad"]) == (rows, bad) for run in runs), f"{name} saw other rows: {runs}"
        seconds = [run["seconds"] for run in runs]
        medians[name] = statistics.median(seconds)
        peak = max(run["mib"] for run in runs)
        every = " ".join(f"{value:.2f}" for value in seconds)
        print(f"{name:12}{medians[name]:9.2f}{megabytes / medians[name]:8.0f}{peak:10.0f}   {every}")
    judged = [_judge(medians[peer] / medians["ours"], f"times as fast as {peer}", least=PEERS[peer]) for peer in PEERS]
    return all(judged)


def _report_growth(scratch: Path) -> bool:
    runs = {}
    for size in SIZES:
        file = _write_chats(scratch / f"{size}.jsonl", size)
        # the fastest of three runs, to reduce the influence of other load on the machine
        runs[size] = min((_run(OURS, file) for _ in range(3)), key=lambda run: run["seconds"])
    for size, run in runs.items():
        print(f"ours, {size:5} MB: {run['seconds']:6.2f} s, {run['mib']:4.0f} MiB")
    memory = [run["mib"] for run in runs.values()]
    slope = math.log(runs[1000]["seconds"] / runs[200]["seconds"]) / math.log(runs[1000]["rows"] / runs[200]["rows"])
    return all(
        [
            _judge(max(memory), "MiB at most", most=MOST_MIB),
            _judge(max(memory) / min(memory), "times the memory for the largest file", most=MOST_MEMORY_GROWTH),
            _judge(slope, "slope of log seconds over log rows, 200 to 1,000 MB", most=STEEPEST),
        ]
    )


def _judge(value: float, what: str, least: float = -math.inf, most: float = math.inf) -> bool:
    good = least <= value <= most
    target = f"at least {least:g}" if math.isfinite(least) else f"at most {most:g}"
    print(f"{'ok' if good else 'MISSED':7}{value:.2f} {what} (target {target})")
    return good


if __name__ == "__main__":
    sys.exit(main())
