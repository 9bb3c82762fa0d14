"""Rename tokens of a tokenizer: <|im_end|> becomes </s>, and keeps its id.

A server or another program may know its special tokens by name; the model knows only their ids. So the names are
changed in every file that holds them, and no weight is touched.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from steps.adapter_tools.token_files import (
    TOKENIZER,
    Names,
    added_tokens,
    known_tokens,
    merged_pieces,
    renamed_files,
    template_texts,
)
from steps.artifacts import MANIFEST, Manifest, new_artifact, read_manifest
from steps.errors import Problem, UserError, nearest, shown
from steps.merge_adapter.folders import ADAPTER_CONFIG
from steps.model_layout import CONFIG, TOKENIZER_NAMES, VOCABULARIES

log = logging.getLogger("finetune")

# Inside a chat template a name stands between quotes, and braces begin code.
UNWRITABLE = set("'\"\\{}\n\r\t")


def replace_tokens(folder: Path, output: Path, from_: list[str], to: list[str]) -> Manifest:
    """Write a copy of a folder with a tokenizer, in which each token of `from_` has the name at its place in `to`.

    The folder may be a model's, an adapter's or a tokenizer's alone. Names may be exchanged: all are changed at once.
    Raises UserError for unknown tokens, names that exist, and tokenizers that cannot be edited.
    """
    if len(from_) != len(to) or not from_:
        raise UserError(
            Problem("ADAPTER-E0301", "--from, --to", f"{len(from_)} and {len(to)} tokens",
                    "as many new names as tokens", "give each --from its --to, in the same order")
        )  # fmt: skip
    return rename(folder, output, dict(zip(from_, to, strict=True)))


def rename(folder: Path, output: Path, names: Names) -> Manifest:
    """Rename by a table; see `replace_tokens`."""
    _refuse_overlap(folder, output)
    before = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    changed = renamed(folder, names)
    stale = [name for name in ("tokenizer.model", "spiece.model") if (folder / name).is_file()]
    history = {key: value for key, value in before.lineage.items() if key != "code"} if before else {}
    origin = before.digest if before else str(folder.absolute())
    lineage = {**history, "renamed_tokens": names, "renamed_from": origin}
    with new_artifact(output, _kind(folder, before), lineage) as draft:
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            name = file.relative_to(folder).as_posix()
            if name == MANIFEST or name in stale:
                continue
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            if name in changed:
                (draft / name).write_bytes(changed[name])
            else:
                shutil.copyfile(file, draft / name)
        draft.facts = {**(before.facts if before else {}), "renamed_tokens": names}
    for token, name in names.items():
        log.info("%s is %s now, with the same id", token, name)
    log.info("changed %s", ", ".join(sorted(changed)))
    for name in stale:
        log.info("WARNING %s left out: it holds the old names, and tokenizer.json is enough", name)
    return read_manifest(output)


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
    from steps.adapter_tools.token_proof import prove

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


def _kind(folder: Path, manifest: Manifest | None) -> str:
    if manifest:
        return manifest.kind
    if (folder / ADAPTER_CONFIG).is_file():
        return "adapter"
    return "model" if any(folder.glob("*.safetensors")) else "tokenizer"


def _refuse_overlap(folder: Path, output: Path) -> None:
    given, place = folder.resolve(), output.resolve()
    if given == place or place in given.parents or given in place.parents:
        raise UserError(
            Problem("MERGE-E0105", "output", f"{output}, where the tokenizer is", "a folder of its own",
                    "name another output folder; what was given stays as it is")
        )  # fmt: skip
