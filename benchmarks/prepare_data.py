"""CPU time from rows to labelled, packed tokens: our prepare_data compared with TRL's SFTTrainer.

    python benchmarks/prepare_data.py [rows] [rounds]

Both get the same conversations and tokenizer, and must give the same sequences. The CPU time of the whole process (all
threads) is measured, because wall time depends on other load; the two arms alternate, and the median of the rounds'
ratios is compared with the target. Then both pack rows of skewed lengths, many short and a few long, to compare the
filled share of the sequences.
Exits with 1 if a target is missed.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

MAX_LENGTH = 1024
LEAST_RATIO = 2.5  # TRL's CPU seconds divided by ours
LEAST_FILL = 0.99
WORDS = (
    "the model learns an answer from every row that it reads and the loss falls with each step of the run " * 2
).split()


def conversations(count: int) -> list[dict[str, Any]]:
    """Return chats of two to eight turns, with a few dozen words per turn."""
    draw = random.Random(0)

    def text() -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(5, 60)))

    return [
        {
            "messages": [
                {"role": role, "content": text()} for _ in range(draw.randint(1, 4)) for role in ("user", "assistant")
            ]
        }
        for _ in range(count)
    ]


def fills(count: int) -> tuple[float, float]:
    """Pack rows of log-normal lengths (median 90 tokens, one in fifty above 700); return the filled shares of both."""
    import datasets
    import numpy as np
    import pyarrow.parquet as pq
    from trl import pack_dataset

    from steps.prepare_data.write.tokenising import Tokens
    from steps.prepare_data.write.writing import TokenWriter

    drawn = np.random.default_rng(0).lognormal(4.5, 1.0, count)
    lengths = np.clip(drawn, 8, MAX_LENGTH).astype(np.int64)
    ids = np.arange(lengths.sum(), dtype=np.int32)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "packed.parquet"
        writer = TokenWriter(file, MAX_LENGTH, packing=True)
        writer.add(Tokens(ids, ids, lengths))
        writer.close()
        made = pq.read_table(file)["input_ids"]
    rows = datasets.Dataset.from_dict({"input_ids": np.split(ids, np.cumsum(lengths)[:-1])})
    packed = pack_dataset(rows, MAX_LENGTH, "bfd")
    return tuple(lengths.sum() / (len(sequences) * MAX_LENGTH) for sequences in (made, packed))


def ours(rows: Any, tokenizer: Any, scratch: Path, packing: bool, answers_only: bool) -> Path:
    """Write the rows as tokens/train.parquet with the code of the step."""
    from steps.artifacts import Draft
    from steps.params.settings import DataSettings, Resolved
    from steps.prepare_data.write.splits import Preparation, write_split
    from steps.tasks import load_task

    preprocessing = {"packing": packing, "train_on_completions_only": answers_only}
    settings = DataSettings(
        task="chat_completion",
        train=Resolved(uri="rows", digest=""),
        max_length=MAX_LENGTH,
        preprocessing=preprocessing,
    )
    write_split(Draft(scratch), "train", rows, Preparation(settings, load_task("chat_completion"), tokenizer))
    return scratch / "tokens/train.parquet"


def theirs(dataset: Any, trainer: Any) -> Any:
    """Prepare the rows with TRL, without its cache."""
    return trainer._prepare_dataset(
        dataset, trainer.processing_class, trainer.args, trainer.args.packing, None, "train"
    )


def main() -> int:
    """Print the CPU seconds of both for each setting, their ratio, and the filled share of packed sequences."""
    import conftest
    import datasets
    import pyarrow.parquet as pq
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    from steps.params.data import DataSource
    from steps.prepare_data.check.checking import check_data

    count = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 7
    datasets.disable_caching()
    datasets.disable_progress_bars()
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        conftest.build_model(scratch / "model")
        chats = conversations(count)
        file = conftest.write_jsonl(scratch / "chats.jsonl", chats)
        held_out = conftest.write_jsonl(scratch / "held_out.jsonl", conftest.chat_rows(20))
        other = conftest.write_jsonl(scratch / "other.jsonl", conftest.chat_rows(20))
        files = {"train_file_path": file, "validation_file_path": held_out, "test_file_path": other}
        source = DataSource(**{name: str(path) for name, path in files.items()})
        rows = check_data("chat_completion", source, scratch=scratch).rows["train"]
        for packing in (False, True):
            for answers_only in (False, True):
                config = SFTConfig(
                    str(scratch / "out"), max_length=MAX_LENGTH, packing=packing, assistant_only_loss=answers_only,
                    use_cpu=True, bf16=False, report_to=[], gradient_checkpointing=False,
                )  # fmt: skip
                model = AutoModelForCausalLM.from_pretrained(scratch / "model")
                trainer = SFTTrainer(model, config, train_dataset=datasets.Dataset.from_list(chats[:2]))
                dataset = datasets.Dataset.from_list(chats)
                seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
                for _ in range(rounds):
                    start = time.process_time()
                    made = ours(rows, trainer.processing_class, scratch / "artifact", packing, answers_only)
                    seconds["ours"].append(time.process_time() - start)
                    start = time.process_time()
                    expected = theirs(dataset, trainer)
                    seconds["theirs"].append(time.process_time() - start)
                assert pq.read_table(made)["labels"].to_pylist() == expected["labels"][:], "not the same labels"
                tokens = sum(map(len, expected["input_ids"]))
                own, trl = (statistics.median(seconds[arm]) for arm in ("ours", "theirs"))
                # Both arms of a round run under the same load: take the median of ratios, not the ratio of medians.
                ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["theirs"], strict=True))
                print(
                    f"{count} chats, {tokens} tokens, packing={packing}, answers only={answers_only}: "
                    f"{own:.2f} CPU-s against {trl:.2f} (TRL) = {ratio:.2f} times less",
                    flush=True,
                )
                missed |= ratio < LEAST_RATIO
    own, trl = fills(count)
    print(f"{count} rows of skewed lengths, packed: {own:.2%} filled against {trl:.2%} (TRL)")
    return int(missed or own < max(LEAST_FILL, trl))


if __name__ == "__main__":
    sys.exit(main())
