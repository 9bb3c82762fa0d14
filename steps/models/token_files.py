"""Rename tokens in each file of a tokenizer; ids do not change.

    tokenizer.json {"added_tokens": [{"id": 2, "content": "<|im_end|>"}]}  →  {"id": 2, "content": "</s>"}

JSON files are changed only where a whole value is a token, so other text that contains the same characters is not
changed. Chat templates are text in which tokens can appear anywhere, so there every occurrence is renamed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from steps.errors import Problem, UserError, shown

Names = dict[str, str]  # token → its new name

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
# Settings of tokenizer_config.json whose values are never tokens.
NO_TOKENS = {"tokenizer_class", "processor_class", "name_or_path", "padding_side", "truncation_side", "backend"}


def renamed_files(folder: Path, names: Names) -> dict[str, bytes]:
    """Return the new content of each tokenizer file that changes. Raises UserError for files that are not JSON."""
    made = {}
    known = known_tokens(folder)
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        if edit := _editor(file.name):
            before = file.read_text(encoding="utf-8")
            after = edit(file, before, names, known)
            if after != before:
                made[file.name] = after.encode()
    return made


def known_tokens(folder: Path) -> dict[str, int]:
    """Return every token of tokenizer.json with its id: the vocabulary and the added tokens."""
    content = _read(folder / TOKENIZER, (folder / TOKENIZER).read_text(encoding="utf-8"))
    vocabulary = (content.get("model") or {}).get("vocab") or {}
    if isinstance(vocabulary, list):  # Unigram: [token, score], in the order of the ids
        vocabulary = {entry[0]: place for place, entry in enumerate(vocabulary)}
    return {**vocabulary, **{token["content"]: token["id"] for token in content.get("added_tokens") or ()}}


def added_tokens(folder: Path) -> set[str]:
    """Return the added tokens, which are matched as a whole before the rest of a text is tokenized."""
    content = _read(folder / TOKENIZER, (folder / TOKENIZER).read_text(encoding="utf-8"))
    return {token["content"] for token in content.get("added_tokens") or ()}


def merged_pieces(folder: Path) -> set[str]:
    """Return the inputs and results of all BPE merges: renaming them would change how texts are tokenized."""
    content = _read(folder / TOKENIZER, (folder / TOKENIZER).read_text(encoding="utf-8"))
    pieces = set()
    for merge in (content.get("model") or {}).get("merges") or ():
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        pieces |= {left, right, left + right}
    return pieces


def _editor(name: str) -> Callable[[Path, str, Names, dict[str, int]], str] | None:
    if name.endswith(".jinja"):
        return lambda file, text, names, known: in_text(text, names, known)
    return {
        TOKENIZER: _tokenizer,
        TOKENIZER_CONFIG: _tokenizer_config,
        "special_tokens_map.json": lambda file, text, names, known: _dump(text, _values(_read(file, text), names)),
        "added_tokens.json": _keys_of,
        "vocab.json": _keys_of,
        "vocab.txt": lambda file, text, names, known: "".join(
            names.get(line.rstrip("\n"), line.rstrip("\n")) + line[len(line.rstrip("\n")) :]
            for line in text.splitlines(keepends=True)
        ),
    }.get(name)  # fmt: skip


def _tokenizer(file: Path, text: str, names: Names, known: dict[str, int]) -> str:
    content = _read(file, text)
    model = content.get("model") or {}
    if isinstance(vocabulary := model.get("vocab"), dict):
        model["vocab"] = {names.get(token, token): place for token, place in vocabulary.items()}
    elif isinstance(vocabulary, list):
        model["vocab"] = [[names.get(entry[0], entry[0]), *entry[1:]] for entry in vocabulary]
    if model.get("unk_token") in names:
        model["unk_token"] = names[model["unk_token"]]
    for token in content.get("added_tokens") or ():
        token["content"] = names.get(token["content"], token["content"])
    for part in ("post_processor", "padding"):
        if content.get(part):
            content[part] = _processor(content[part], names)
    return _dump(text, content)


def _processor(value: Any, names: Names) -> Any:
    """Rename in the post-processor or padding: {"SpecialToken": {"id": "<s>"}}, ["</s>", 2], {"<s>": {"tokens": …}}."""
    if isinstance(value, dict):
        # "A" and "B" stand for the two texts, not for tokens; types are not tokens either.
        return {
            names.get(key, key): inside if key in ("Sequence", "type", "direction", "strategy")
            else _processor(inside, names)
            for key, inside in value.items()
        }  # fmt: skip
    if isinstance(value, list):
        return [_processor(inside, names) for inside in value]
    return names.get(value, value) if isinstance(value, str) else value


def _tokenizer_config(file: Path, text: str, names: Names, known: dict[str, int]) -> str:
    content = _read(file, text)
    template = content.pop("chat_template", None)
    kept = {key: content[key] for key in NO_TOKENS & set(content)}
    made = {**_values(content, names), **kept}
    if isinstance(template, str):
        made["chat_template"] = in_text(template, names, known)
    elif isinstance(template, list):
        made["chat_template"] = [{**one, "template": in_text(one["template"], names, known)} for one in template]
    order = list(_read(file, text))
    return _dump(text, {key: made[key] for key in order})


def _keys_of(file: Path, text: str, names: Names, known: dict[str, int]) -> str:
    return _dump(text, {names.get(token, token): place for token, place in _read(file, text).items()})


def _values(value: Any, names: Names) -> Any:
    """Rename every value that equals a token; keys are setting names or ids and stay."""
    if isinstance(value, dict):
        return {key: _values(inside, names) for key, inside in value.items()}
    if isinstance(value, list):
        return [_values(inside, names) for inside in value]
    return names.get(value, value) if isinstance(value, str) else value


def in_text(text: str, names: Names, known: dict[str, int]) -> str:
    """Rename tokens inside a text; a longer token that contains a renamed one is not changed."""
    around = [token for token in known if any(name != token and name in token for name in names)]
    longest_first = sorted({*names, *around}, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda match: names.get(match[0], match[0]), text)


def template_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield every chat template of a folder: (its location, its text)."""
    for file in sorted(folder.glob("*.jinja")):
        yield file.name, file.read_text(encoding="utf-8")
    if (folder / TOKENIZER_CONFIG).is_file():
        file = folder / TOKENIZER_CONFIG
        template = _read(file, file.read_text(encoding="utf-8")).get("chat_template")
        if isinstance(template, str):
            yield TOKENIZER_CONFIG, template
        elif isinstance(template, list):
            yield from ((f"{TOKENIZER_CONFIG} {one.get('name')}", one["template"]) for one in template)


def _read(file: Path, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        value = str(error)
    if isinstance(value, dict):
        return value
    raise UserError(Problem("ADAPTER-E0306", str(file), shown(value), "a JSON object", "save the tokenizer again"))


def _dump(before: str, content: Any) -> str:
    """Write JSON in the format of the original file, so that only the renamed tokens differ."""
    plain = before.isascii()
    indent = len(found[1]) if (found := re.match(r"\{\n( +)", before)) else None
    separators = None if indent or '": ' in before[:200] else (",", ":")
    text = json.dumps(content, ensure_ascii=plain, indent=indent, separators=separators)
    return text + ("\n" if before.endswith("\n") else "")
