"""Which tokens of a tokenizer can be renamed, and what its files hold then, loaded and compared with the old ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from steps.errors import Problem, UserError, nearest, shown
from steps.models.layout import CONFIG, TOKENIZER_NAMES, VOCABULARIES
from steps.models.token_files import (
    TOKENIZER,
    Names,
    added_tokens,
    known_tokens,
    merged_pieces,
    renamed_files,
    template_texts,
)

# Inside a chat template a name stands between quotes, and braces begin code.
UNWRITABLE = set("'\"\\{}\n\r\t")


def renamed(folder: Path, names: Names) -> dict[str, bytes]:
    """Give the new content of every file that changes, loaded and compared with the old; reads no weights.

    Raises UserError as `rename`.
    """
    if problems := list(token_problems(folder, names)):
        raise UserError(problems)
    changed = renamed_files(folder, names)
    _prove(folder, changed, names)
    return changed


def token_problems(folder: Path, names: Names) -> Iterator[Problem]:
    """Yield why tokens cannot be renamed like this; reads tokenizer files only."""
    if not folder.is_dir():
        yield Problem("ADAPTER-E0302", str(folder), "no such folder", "a folder with a tokenizer", "correct the path")
        return
    if not (folder / TOKENIZER).is_file():
        vocabularies = sorted(name for name in VOCABULARIES if (folder / name).is_file())
        models = [name for name in vocabularies if name.endswith(".model")]
        found = f"{models[0]}, a sentencepiece model, without {TOKENIZER}" if models else f"no {TOKENIZER}"
        yield Problem("ADAPTER-E0302", str(folder), found, f"{TOKENIZER}, whose tokens have names that can be changed",
                      "save it as a fast tokenizer: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
                      if vocabularies else "name the folder that holds the tokenizer")  # fmt: skip
        return
    known, added = known_tokens(folder), added_tokens(folder)
    pieces = merged_pieces(folder) - added
    left = set(known) - set(names)
    for token, name in names.items():
        if token not in known:
            yield Problem("ADAPTER-E0303", "from", f"{shown(token)}, which the tokenizer does not have",
                          "one of its tokens",
                          nearest(token, added) or "see added_tokens in tokenizer.json")  # fmt: skip
        elif token in pieces:
            yield Problem("ADAPTER-E0303", "from", f"{shown(token)}, a piece that words are cut into",
                          "a token that stands for itself, such as a special token",
                          "name one of added_tokens in tokenizer.json")  # fmt: skip
        if name in left or list(names.values()).count(name) > 1:
            yield Problem("ADAPTER-E0304", "to", f"{shown(name)}, which is a token already", "a name that is free",
                          "choose another name, or rename that token too")  # fmt: skip
        elif not name or name != name.strip() or UNWRITABLE & set(name):
            yield Problem("ADAPTER-E0304", "to", shown(name), "a name without quotes, braces, backslashes, line "
                          "breaks and spaces around it: chat templates hold it between quotes",
                          "choose another name")  # fmt: skip
    for where, text in template_texts(folder):
        for name in names.values():
            if name and name not in known and name in text:
                yield Problem("ADAPTER-E0304", "to", f"{shown(name)}, which {where} holds as plain text",
                              "a name that stands nowhere in the chat template", "choose another name")  # fmt: skip


def _prove(folder: Path, changed: dict[str, bytes], names: Names) -> None:
    """Load the tokenizer before and after in a folder of its own, without weights."""
    from steps.models.token_proof import prove

    with TemporaryDirectory() as scratch:
        before, after = Path(scratch, "before"), Path(scratch, "after")
        for place in (before, after):
            place.mkdir()
            for name in sorted((TOKENIZER_NAMES | {CONFIG}) - {"tokenizer.model", "spiece.model"}):
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, place / name)
        for name, content in changed.items():
            (after / name).write_bytes(content)
        prove(before, after, names)
