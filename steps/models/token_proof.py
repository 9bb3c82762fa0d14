"""Load the renamed tokenizer with transformers and compare it with the original; needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steps.errors import Problem, UserError, shown
from steps.models.token_files import Names

CONVERSATION = [
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "Paris."},
]


def prove(before: Path, after: Path, names: Names) -> None:
    """Check that two tokenizers differ only in the names of some tokens.

    Raises UserError when an id changed, when a new name is not encoded or decoded as its token, or when a chat template
    gives other tokens than before.
    """
    old, new = _load(before), _load(after)
    if problems := list(_differences(old, new, names)):
        raise UserError(problems)


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (ValueError, OSError, KeyError, TypeError) as error:
        raise UserError(
            Problem("ADAPTER-E0307", str(folder), f"{type(error).__name__}: {str(error)[:120]}",
                    "a tokenizer that transformers can load", "copy the tokenizer files into the folder again")
        ) from error  # fmt: skip


def _differences(old: Any, new: Any, names: Names) -> Iterator[Problem]:
    wanted = {names.get(token, token): place for token, place in old.get_vocab().items()}
    vocabulary = new.get_vocab()
    moved = sorted(token for token in {*wanted, *vocabulary} if wanted.get(token) != vocabulary.get(token))
    if moved:
        yield _problem(moved[0], f"id {vocabulary.get(moved[0])} after renaming", f"id {wanted.get(moved[0])}")
        return
    for token, name in names.items():
        place = vocabulary[name]
        read, written = new.encode(name, add_special_tokens=False), new.decode([place])
        if read != [place] or written.strip() != name.strip():
            yield _problem(token, f"{shown(name)}, encoded as {read} and decoded as {shown(written)}",
                           f"a single token, encoded as [{place}]")  # fmt: skip
        text = "What is {} and {}?"
        if old.encode(text.format(token, token)) != new.encode(text.format(name, name)):
            yield _problem(token, f"{shown(name)}, which changes the tokens of a text", "the same tokens as before")
    for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
        if getattr(old, name) != getattr(new, name):
            yield _problem(name, str(getattr(new, name)), str(getattr(old, name)))
    yield from _template_differences(old, new)


def _template_differences(old: Any, new: Any) -> Iterator[Problem]:
    if not old.chat_template:
        return
    try:
        wanted = old.apply_chat_template(CONVERSATION, tokenize=True, return_dict=False)
    except Exception:  # a template that refuses this conversation gives no tokens to compare
        return
    found = new.apply_chat_template(CONVERSATION, tokenize=True, return_dict=False)
    if wanted != found:
        yield _problem("chat template", f"the tokens {shown(found)}", f"the tokens {shown(wanted)}")


def _problem(where: str, found: str, expected: str) -> Problem:
    return Problem("ADAPTER-E0305", where, found, expected, "choose another name, or do not rename this token")
