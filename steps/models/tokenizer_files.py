"""Read a tokenizer's vocabulary from its files and add tokens to it, without transformers or torch.

transformers takes a tokenizer's tokens from several files: tokenizer.json, the tokens that tokenizer_config.json lists
by id or by role (pad_token, …), and, from older versions, special_tokens_map.json and added_tokens.json. Tokens that
tokenizer.json lacks are appended in this order. This module does the same, so that a new token gets the id that it
will have when the tokenizer is loaded.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from steps.errors import Problem, shown
from steps.models.odd_config import odd_special
from steps.models.tokenizer_trial import unusable
from steps.params.text_file import any_json

TOKENIZER, CONFIG = "tokenizer.json", "tokenizer_config.json"
SPECIAL, ADDED = "special_tokens_map.json", "added_tokens.json"
LARGE = 1024 * 1024  # bytes
MOST_TOKENS = 2**32  # the library has their numbers in 32 bits
ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
CAUSAL_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")  # the others are used by masked models only
EXTRA = ("extra_special_tokens", "additional_special_tokens")
# A control token is matched exactly as written, anywhere in a text.
CONTROL = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}


class UnfitFile(ValueError):
    """A tokenizer's file that is not what tokenizers write; holds its name and what was found."""

    def __init__(self, name: str, found: str):
        super().__init__(f"{name}: {found}")
        self.name, self.found = name, found


def parsed(name: str, content: bytes) -> dict[str, Any]:
    """Read one of a tokenizer's JSON files, whose content is not to be changed. Raises UnfitFile."""
    return _parsed_once(name, content) if len(content) > LARGE else _parsed(name, content)


def _parsed(name: str, content: bytes) -> dict[str, Any]:
    try:
        value = any_json(content)
    except ValueError as error:
        raise UnfitFile(name, shown(str(error))) from None
    if not isinstance(value, dict):
        raise UnfitFile(name, shown(value))
    faults = {TOKENIZER: _fault_of_tokenizer, ADDED: _fault_of_numbers, SPECIAL: odd_special}
    fault = faults.get(name, lambda _: "")(value)
    if fault:
        raise UnfitFile(name, fault)
    return value


# Several checks of a plan read the same vocabulary, each in seconds.
_parsed_once = lru_cache(maxsize=1)(_parsed)


def unfit_files(parameter: str, names: Mapping[str, str], read: Callable[[str], bytes]) -> Iterator[Problem]:
    """Yield a problem if one of a tokenizer's files, name → path, is not what tokenizers write, or cannot be used."""
    try:
        found = TokenizerFiles.read(names, lambda name: read(names[name]))
        if TOKENIZER in names and (fault := unusable(read(names[TOKENIZER]), found.files[TOKENIZER])):
            raise UnfitFile(TOKENIZER, fault)
    except UnfitFile as error:
        yield Problem("MODEL-E0117", f"{parameter}: {error.name}", error.found, "a tokenizer's file, as JSON",
                      "upload the file again")  # fmt: skip


def _fault_of_tokenizer(content: dict[str, Any]) -> str:
    model, added = content.get("model"), content.get("added_tokens") or []
    if not isinstance(model, dict):
        return "an object without model"
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, list):  # of Unigram: [token, score]
        if not all(isinstance(one, list) and one and isinstance(one[0], str) for one in vocabulary):
            return "a vocabulary that is no list of tokens"
    elif not isinstance(vocabulary, dict):
        return f"the vocabulary {shown(vocabulary)}"
    elif fault := _fault_of_numbers(vocabulary):
        return fault
    if not isinstance(added, list):
        return f"added_tokens {shown(added)}"
    for one in added:
        if not isinstance(one, dict) or not isinstance(one.get("content"), str) or not _is_id(one.get("id")):
            return f"the added token {shown(one)}"
    return ""


def _fault_of_numbers(numbers: dict[str, Any]) -> str:
    return next((f"the token {shown(token)} with the number {shown(one)}" for token, one in numbers.items()
                 if not _is_id(one)), "")  # fmt: skip


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < MOST_TOKENS


@dataclass(frozen=True)
class TokenizerFiles:
    """The content of a tokenizer's JSON files."""

    files: Mapping[str, dict[str, Any]]
    """Name → content of the files that exist."""
    extended: bool = False
    """Whether tokens were added to a tokenizer that was tried before."""

    @classmethod
    def read(cls, names: Iterable[str], read: Callable[[str], bytes]) -> TokenizerFiles:
        """Read those tokenizer files that exist. Raises ValueError for one that is not what tokenizers write."""
        found = {name: parsed(name, read(name)) for name in (TOKENIZER, CONFIG, SPECIAL, ADDED) if name in set(names)}
        return cls(found)

    def named(self, role: str) -> str:
        """Return the token of a role such as pad_token; empty if there is none."""
        for name in (CONFIG, SPECIAL):
            if token := _content(self.files.get(name, {}).get(role)):
                return token
        return ""

    def numbers(self) -> dict[str, int]:
        """Return every token's id, including added tokens. Raises ValueError if tokenizer.json cannot be read."""
        return self._numbers

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return dict(self._backend().get_vocab(with_added_tokens=True))

    def number_of(self, token: str) -> int | None:
        """Return a token's id; None if it has none, or without tokenizer.json. Raises ValueError as `numbers`.

        Nearly every token with a role is listed in a file, which takes much less time than loading the vocabulary.
        """
        tokenizer = self.files.get(TOKENIZER, {})
        listed = {entry["content"]: entry["id"] for entry in tokenizer.get("added_tokens") or []}
        if token in listed:
            return int(listed[token])
        for number, told in (self.files.get(CONFIG, {}).get("added_tokens_decoder") or {}).items():
            if _content(told) == token:
                return int(number)
        return self.numbers().get(token) if tokenizer else self.files.get(ADDED, {}).get(token)

    def missing(self, tokens: Iterable[str]) -> list[str]:
        """Return those of `tokens` that are not in the vocabulary. Raises ValueError as `numbers`."""
        known = self.numbers()
        return [token for token in tokens if token not in known]

    def divided(self, tokens: Iterable[str]) -> list[str]:
        """Return those of `tokens` that a text may split: unknown tokens, and those that are not added tokens."""
        whole = self._listed() | {token.content for token in self._implied()}
        return [token for token in tokens if token not in whole]

    def with_tokens(self, tokens: Iterable[str]) -> TokenizerFiles:
        """Add control tokens; unknown ones are appended to the vocabulary. Raises ValueError as `numbers`."""
        backend, new = self._backend(), self.divided(tokens)
        backend.add_special_tokens(new)
        now = backend.get_vocab(with_added_tokens=True)
        # Tokens that only the other files list are written as well, or the new ones would take their ids.
        implied = [token for token in self._implied() if token.content not in self._listed()]
        entries = [{"id": now[token.content], **_flags(token)} for token in implied]
        entries += [{"id": now[token], "content": token, **CONTROL} for token in new]
        return self._with_entries(sorted(entries, key=lambda entry: entry["id"]))

    def with_role(self, role: str, token: str) -> TokenizerFiles:
        """Return a token a role."""
        files = {**self.files, CONFIG: {**self.files.get(CONFIG, {}), role: token}}
        if SPECIAL in files:
            files[SPECIAL] = {**files[SPECIAL], role: token}
        return TokenizerFiles(files)

    def changed(self, before: TokenizerFiles) -> dict[str, bytes]:
        """Return the content of the files that differ from `before`."""
        return {
            name: (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
            for name, content in self.files.items()
            if before.files.get(name) != content
        }

    def _listed(self) -> set[str]:
        return {entry["content"] for entry in self.files[TOKENIZER].get("added_tokens") or []}

    def _with_entries(self, entries: list[dict[str, Any]]) -> TokenizerFiles:
        files = dict(self.files)
        tokenizer = files[TOKENIZER]
        files[TOKENIZER] = {**tokenizer, "added_tokens": [*(tokenizer.get("added_tokens") or []), *entries]}
        config = files.get(CONFIG, {})
        if config.get("added_tokens_decoder"):  # if it exists, some tokenizer classes read only this
            new = {str(entry["id"]): {key: entry[key] for key in entry if key != "id"} for entry in entries}
            files[CONFIG] = {**config, "added_tokens_decoder": {**config["added_tokens_decoder"], **new}}
        if ADDED in files:
            files[ADDED] = {**files[ADDED], **{entry["content"]: entry["id"] for entry in entries}}
        return TokenizerFiles(files, extended=True)

    def _backend(self) -> Any:
        from tokenizers import Tokenizer

        text = json.dumps(self.files[TOKENIZER])
        if not self.extended and (fault := unusable(text.encode(), self.files[TOKENIZER])):
            raise UnfitFile(TOKENIZER, fault)
        backend = Tokenizer.from_str(text)
        known = backend.get_vocab(with_added_tokens=True)
        backend.add_tokens([token for token in self._implied() if token.content not in known])
        return backend

    def _implied(self) -> Iterator[Any]:
        """Yield the tokens that the other files list, each once."""
        from tokenizers import AddedToken

        seen: set[str] = set()
        for said, special in self._in_other_files():
            flags = {**CONTROL, "normalized": not special, "special": special}
            if isinstance(said, dict):
                flags |= {name: said[name] for name in flags if name in said}
            content = _content(said)
            if content and content not in seen:
                seen.add(content)
                yield AddedToken(content, **flags)

    def _in_other_files(self) -> Iterator[tuple[Any, bool]]:
        config, legacy = self.files.get(CONFIG, {}), {}
        decoder = config.get("added_tokens_decoder") or {}
        yield from ((decoder[number], False) for number in sorted(decoder, key=int))
        if not decoder:
            legacy = self.files.get(SPECIAL, {})
            added = self.files.get(ADDED, {})
            yield from ((token, False) for token in sorted(added, key=added.__getitem__))
        for role in ROLES:
            yield legacy.get(role) or config.get(role), True
        for name in EXTRA:
            extra = legacy.get(name) or config.get(name)
            yield from ((token, True) for token in (extra if isinstance(extra, list) else []))


def _content(said: Any) -> str:
    return str(said.get("content") or "") if isinstance(said, dict) else str(said or "")


def _flags(token: Any) -> dict[str, Any]:
    return {"content": token.content, **{name: getattr(token, name) for name in CONTROL}}
