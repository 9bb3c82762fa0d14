"""Prompts as the chat template writes them for the next answer: for the rows, evaluations and the served model."""

from __future__ import annotations

from typing import Any

from steps.models.images import ImageReader
from steps.prepare_data.write.tokenising import RefusedRows, encode, refusing
from steps.tasks.rules.characters import is_blank
from steps.tasks.rules.images import as_parts


def render_questions(tokenizer: Any, rows: list[dict[str, Any]]) -> list[str]:
    """Render {messages, tools} with the prompt for an answer behind them.

    Raises RefusedRows with the rows that the chat template refuses, or renders to nothing.
    """

    def render(talks: list[Any], tools: list[Any] | None) -> Any:
        return tokenizer.apply_chat_template(talks, tools=tools, tokenize=False, add_generation_prompt=True)

    texts = [text for group in refusing(render, rows) for text in group]
    if unusable := {position: why for position, text in enumerate(texts) if (why := _unusable(text))}:
        raise RefusedRows(unusable)
    return texts


def tokenise_questions(tokenizer: Any, rows: list[dict[str, Any]]) -> list[list[int]]:
    """Tokenise {messages, tools} with the prompt for an answer behind them. Raises as `render_questions`."""
    return [list(ids) for ids in encode(tokenizer, render_questions(tokenizer, rows), special=False)]


def tokenise_with_images(
    tokenizer: Any, reader: ImageReader, rows: list[dict[str, Any]], images: list[list[bytes] | None]
) -> list[list[int]]:
    """Tokenise {messages, tools} whose messages have `<image>` for each of a row's images, each as all of its tokens.

    Raises RefusedRows as `render_questions`, and with rows whose prompt has another number of images as tokens.
    """
    asked = [
        {**row, "messages": as_parts(row["messages"])} if pictures else row
        for row, pictures in zip(rows, images, strict=True)
    ]
    made, refused = [], {}
    for position, ids in enumerate(tokenise_questions(tokenizer, asked)):
        pictures = images[position] or []
        if (found := ids.count(reader.token)) != len(pictures):
            token = tokenizer.convert_ids_to_tokens(reader.token)
            refused[position] = f"it has {found} tokens {token} for {len(pictures)} images"
        made.append(ids if not pictures or position in refused else reader.expanded(ids, pictures))
    if refused:
        raise RefusedRows(refused)
    return made


def _unusable(text: str) -> str:
    """Say why a rendered prompt cannot be asked; empty if it can."""
    if is_blank(text):
        return "it writes nothing for this one"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "it writes half of a surrogate pair"
    return ""
