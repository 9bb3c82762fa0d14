"""Check which tokens of a tokenizer can be renamed, rename them, and compare the result with the original."""

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

# A chat template contains names between quotes, and braces start code.
UNWRITABLE = set("'\"\\{}\n\r\t")


def renamed(folder: Path, names: Names) -> dict[str, bytes]:
    """Return the new content of every file that changes, after a comparison with the original; reads no weights.

    Raises UserError with everything that prevents the renaming.
    """
    if problems := list(token_problems(folder, names)):
        raise UserError(problems)
    changed = renamed_files(folder, names)
    _prove(folder, changed, names)
    return changed


def token_problems(folder: Path, names: Names) -> Iterator[Problem]:
    """Yield the problems that prevent this renaming; reads only tokenizer files."""
    if not folder.is_dir():
        yield Problem("ADAPTER-E0302", str(folder), "no such folder", "a folder with a tokenizer", "correct the path")
        return
    if not (folder / TOKENIZER).is_file():
        vocabularies = sorted(name for name in VOCABULARIES if (folder / name).is_file())
        models = [name for name in vocabularies if name.endswith(".model")]
        found = f"{models[0]}, a sentencepiece model, without {TOKENIZER}" if models else f"no {TOKENIZER}"
        yield Problem("ADAPTER-E0302", str(folder), found, f"{TOKENIZER}, in which tokens can be renamed",
                      "save it as a fast tokenizer: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
                      if vocabularies else "name the folder that contains the tokenizer")  # fmt: skip
        return
    known, added = known_tokens(folder), added_tokens(folder)
    pieces = merged_pieces(folder) - added
    left = set(known) - set(names)
    for token, name in names.items():
        if token not in known:
            yield Problem("ADAPTER-E0303", "from", f"{shown(token)}, which is not in the tokenizer",
                          "one of its tokens",
                          nearest(token, added) or "see added_tokens in tokenizer.json")  # fmt: skip
        elif token in pieces:
            yield Problem("ADAPTER-E0303", "from", f"{shown(token)}, a piece of a BPE merge",
                          "a token that is not part of words, such as a special token",
                          "name one of added_tokens in tokenizer.json")  # fmt: skip
        if name in left or list(names.values()).count(name) > 1:
            yield Problem("ADAPTER-E0304", "to", f"{shown(name)}, which is already a token", "an unused name",
                          "choose another name, or rename that token too")  # fmt: skip
        elif not name or name != name.strip() or UNWRITABLE & set(name):
            yield Problem("ADAPTER-E0304", "to", shown(name), "a name without quotes, braces, backslashes, line "
                          "breaks and surrounding spaces, because chat templates contain it between quotes",
                          "choose another name")  # fmt: skip
    for where, text in template_texts(folder):
        for name in names.values():
            if name and name not in known and name in text:
                yield Problem("ADAPTER-E0304", "to", f"{shown(name)}, which {where} contains as plain text",
                              "a name that is not in the chat template", "choose another name")  # fmt: skip


def _prove(folder: Path, changed: dict[str, bytes], names: Names) -> None:
    """Load the tokenizer before and after in temporary folders, without weights."""
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
