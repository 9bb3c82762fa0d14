"""What a whole session shares: a tiny chat model with its tokenizer, made offline, and folders that no test changes."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models run ten times faster on one thread

import gc
import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import process_state
import pytest
from shared import SharedFolders, shared_folders
from unchanged import CHECKOUT, NEVER_EDITED, changes, snapshot

pytest_plugins = [
    "training_inputs",
    "stores",
    "trainer_machines",
    "merge_inputs",
    "registering",
    "peers",
    "hostile_trials",
    "planning",
    "warm_runs",
    "kubeflow",
    "vision",
]

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ message['content'] }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = [
    "What is the capital of France? Paris is the capital of France.",
    "Count to ten: 1 2 3 4 5 6 7 8 9 10.",
    "The quick brown fox jumps over the lazy dog, again and again.",
    "user assistant system tool",
]


def build_tokenizer(folder: Path) -> None:
    """Train a byte-level BPE of 384 tokens with a ChatML template that marks the assistant's turns."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=384, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>", model_max_length=256
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)


def build_model(folder: Path, **changes: object) -> None:
    """Save a random two-layer Llama (hidden 64) with its tokenizer; `changes` go to its configuration."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    build_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": True,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": None,
        **changes,
    }
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(folder)


def chat_rows(count: int) -> list[dict]:
    """Make conversations that differ from each other."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"What comes after {number}?"},
                {"role": "assistant", "content": f"{number + 1}."},
            ]
        }
        for number in range(count)
    ]


def write_jsonl(file: Path, rows: list[dict]) -> Path:
    """Write rows as a jsonl file."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def pytest_configure() -> None:
    """Let Ctrl-C work also where a shell started the tests in the background, and so had it ignored."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Name what failed at once: a session that is ended from outside prints no summary."""
    if report.failed and "PYTEST_XDIST_WORKER" not in os.environ:
        print(f"\nFAILED {report.nodeid}", flush=True)


_modules_frozen = 0


def pytest_runtest_call() -> None:
    """Keep what the libraries made at import out of later collections.

    Every trainer of transformers ends with a full collection, which takes half a second over a million such objects.
    """
    global _modules_frozen
    if len(sys.modules) != _modules_frozen:
        _modules_frozen = len(sys.modules)
        gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def _process_state() -> Iterator[None]:
    """What a test leaves in the process of its worker, where the next one runs."""
    before = process_state.state()
    process_state.seed()
    yield
    left = process_state.put_back(before)
    assert left == [], "a test changed what the next one would find in this process; it has to set it back"


@pytest.fixture(scope="session", autouse=True)
def checkout() -> Iterator[Path]:
    """The checkout, in which no test may leave a file or change one."""
    before = snapshot(CHECKOUT)
    yield CHECKOUT
    told = changes(before, snapshot(CHECKOUT), NEVER_EDITED)
    if os.environ.get("PEERS_WRITE") == "1":  # make test-peers writes there
        told = [change for change in told if not change.startswith("tests/peers")]
    assert told == [], "a test wrote into the checkout; it may write below its tmp_path alone"


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedFolders]:
    """Folders that are made once in a session, for all its workers; a test that would change one copies it."""
    folders = shared_folders(tmp_path_factory)
    yield folders
    assert folders.changes() == [], "a test changed a folder that others read; it may change a copy of it"


@pytest.fixture(scope="session")
def made(shared: SharedFolders, warm_folder: Path) -> Path:
    """A checkout with examples/ and everything that they make; read only.

    Where a base is trained, it is trained on few rows; `all_made` has what users get.
    """
    from example_files import make_soon

    return shared.made("checkout", lambda folder: make_soon(folder, warm_folder))


@pytest.fixture(scope="session")
def all_made(shared: SharedFolders) -> Path:
    """A checkout with examples/ and everything that they make for their users; read only."""
    from example_files import make_all

    return shared.made("whole checkout", make_all)


@pytest.fixture(scope="session")
def tiny_model(shared: SharedFolders) -> Path:
    """A folder with a tiny random chat model and tokenizer, as a user would have it (no manifest)."""
    return shared.made("tiny", build_model)


@pytest.fixture
def chat_file(tmp_path: Path) -> Path:
    """A jsonl file with 60 good conversations."""
    return write_jsonl(tmp_path / "chat.jsonl", chat_rows(60))


@pytest.fixture
def chat_inputs(model: Path, tokenizer, tmp_path: Path, local_root: Path) -> tuple[Path, Path]:
    """A model artifact and 40 + 16 tokenised conversations for a training that keeps its checkpoints below tmp_path."""
    from training_inputs import write_tokens

    return model, write_tokens(tmp_path / "data", tokenizer, chat_rows(56))
