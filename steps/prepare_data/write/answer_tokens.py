"""Tokenise prompts and their answers, with the same result as TRL's DPOTrainer and KTOTrainer.

TRL tokenises row by row; here each batch is rendered and tokenised once. Choices that look arbitrary are TRL 1.16's
(`DPOTrainer._prepare_dataset`): texts end with the end token, and an answer begins at the first difference between the
tokens of the prompt and those of prompt and answer together, because a token may span the boundary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steps.prepare_data.write.tokenising import RefusedRows, encode, ended, refusing

Ids = list[list[int]]


@dataclass
class Answered:
    """The tokens of some rows; every list has one entry for each row."""

    prompts: Ids
    answers: dict[str, Ids]
    """Name of an answer, such as chosen → its tokens in each row."""
    parted: list[bool]
    """Whether the prompt alone ends in other tokens than before an answer; these are then left out."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def lengths(self) -> list[int]:
        """Tokens of the longest sequence of each row."""
        longest = zip(*self.answers.values(), strict=True)
        return [len(prompt) + max(map(len, row)) for prompt, row in zip(self.prompts, longest, strict=True)]


def tokenise_answers(tokenizer: Any, rows: list[dict[str, Any]], names: tuple[str, ...]) -> Answered:
    """Tokenise rows of {prompt, <names>}, texts or conversations. Raises RefusedRows."""
    chats = [type(row["prompt"]) is list for row in rows]
    if any(chats) != all(chats):
        return _mixed(tokenizer, rows, names, chats)
    prompts, wholes = (_of_chats if chats[0] else _of_texts)(tokenizer, rows, names)
    kept: Ids = []
    answers: dict[str, Ids] = {name: [] for name in names}
    parted: list[bool] = []
    for row, prompt in enumerate(prompts):
        length = min(_shared(prompt, wholes[name][row]) for name in names)
        kept.append(prompt[:length])
        parted.append(length < len(prompt))
        for name in names:
            answers[name].append(wholes[name][row][length:])
    return Answered(kept, answers, parted)


def _of_texts(tokenizer: Any, rows: list[dict[str, Any]], names: tuple[str, ...]) -> tuple[Ids, dict[str, Ids]]:
    prompts = [row["prompt"] for row in rows]
    wholes = {name: encode(tokenizer, [row["prompt"] + ended(tokenizer, row[name]) for row in rows]) for name in names}
    return encode(tokenizer, prompts), wholes


def _of_chats(tokenizer: Any, rows: list[dict[str, Any]], names: tuple[str, ...]) -> tuple[Ids, dict[str, Ids]]:
    def rendered(conversations: list[list[dict[str, Any]]], asked: bool) -> Ids:
        def render(batch: list[Any], tools: list[Any] | None) -> list[str]:
            return list(tokenizer.apply_chat_template(batch, tools=tools, add_generation_prompt=asked, tokenize=False))

        groups = refusing(render, [{"messages": messages} for messages in conversations])
        return encode(tokenizer, [text for texts in groups for text in texts], special=False)

    wholes = {name: rendered([row["prompt"] + row[name] for row in rows], asked=False) for name in names}
    return rendered([row["prompt"] for row in rows], asked=True), wholes


def _mixed(tokenizer: Any, rows: list[dict[str, Any]], names: tuple[str, ...], chats: list[bool]) -> Answered:
    """Tokenise the texts and the conversations of a batch separately, and restore their order."""
    places = {kind: [row for row, chat in enumerate(chats) if chat is kind] for kind in (True, False)}
    parts: dict[bool, Answered] = {}
    refusals: dict[int, str] = {}
    for kind, numbers in places.items():
        try:
            parts[kind] = tokenise_answers(tokenizer, [rows[number] for number in numbers], names)
        except RefusedRows as refused:
            refusals |= {numbers[place]: reason for place, reason in refused.refusals.items()}
    if refusals:
        raise RefusedRows(refusals)
    order = {number: (kind, place) for kind, numbers in places.items() for place, number in enumerate(numbers)}
    found = [order[row] for row in range(len(rows))]
    return Answered(
        [parts[kind].prompts[place] for kind, place in found],
        {name: [parts[kind].answers[name][place] for kind, place in found] for name in names},
        [parts[kind].parted[place] for kind, place in found],
    )


def _shared(prompt: list[int], whole: list[int]) -> int:
    """Return the number of leading tokens that both have in common."""
    if whole[: len(prompt)] == prompt:
        return len(prompt)
    pairs = enumerate(zip(prompt, whole, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(prompt), len(whole)))
