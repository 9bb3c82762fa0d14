"""Prompts with images: from the forms that users have to `<image>` in texts and the bytes of each image, in order.

{"prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Which colour?"}]}],
 "images": ["red.png"]}
→ {"prompt": [{"role": "user", "content": "<image>Which colour?"}], "images": [b"\\x89PNG…"]}
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from steps.tasks import Fault
from steps.tasks.rules.image_files import Unusable, image_bytes
from steps.tasks.rules.json_text import from_json
from steps.tasks.rules.standard import from_cell_text, from_text

PLACE = "<image>"
OTHER_PLACES = ("<video>", "<audio>")  # verl would look for these as well in a row with images
PARTS = ("image", "image_url")  # types of parts that are images
OWN = ("image", "image_url", "path", "url", "bytes")  # keys of such a part that hold the image itself


def with_images(
    row: dict[str, Any], prompt_key: str, image_key: str, folder: Path | None
) -> tuple[dict[str, Any], list[Fault]]:
    """Return the row with its images as bytes and its prompt as texts, and the errors in them.

    A row without images and without places for them stays as it is, but for an empty list as text. With errors, the
    row stays unchanged.
    """
    prompt = from_cell_text(from_text(row.get(prompt_key)))
    messages = [prompt] if type(prompt) is dict else prompt
    told = _Told(_listed(row.get(image_key)))
    if type(messages) is list:
        messages = [told.message(message) for message in messages]
    elif type(messages) is str:
        told.text(messages)
    if not told.column and not told.places:
        return ({**row, image_key: []} if row.get(image_key) else row), []  # "[]" in a cell
    faults = list(_count_faults(told, prompt_key, image_key)) or list(_other_places(messages, prompt_key))
    images = []
    for number, (source, own) in enumerate(told.ordered if not faults else ()):
        try:
            path = f"{prompt_key}: image {number + 1}" if own else f"{image_key}[{number}]"
            images.append(image_bytes(source, path, folder))
        except Unusable as unusable:
            faults.append(unusable.fault)
    if faults:
        return row, faults
    return {**row, prompt_key: messages, image_key: images}, []


def as_parts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return messages with lists of parts, as verl makes them of a row with images (RLHFDataset._build_messages)."""
    return [
        {**message, "content": list(_parts(message["content"]))} if type(message.get("content")) is str else message
        for message in messages
    ]


def _parts(text: str) -> Iterator[dict[str, str]]:
    for piece in re.split(f"({PLACE})", text):
        if piece:
            yield {"type": "image"} if piece == PLACE else {"type": "text", "text": piece}


class _Told:
    """Collects the images of a row in the order of their places."""

    def __init__(self, column: list[Any]):
        self.column = column
        self._rest = iter(column)
        self.places = 0
        """Places for an image, in all messages."""
        self.own = 0
        """Those whose part of the message holds the image itself."""
        self.ordered: list[tuple[Any, bool]] = []
        """(image, whether its part of the message holds it) for each place that has one."""

    def message(self, message: Any) -> Any:
        """Count the places of a message; return it with `<image>` in place of parts that are images."""
        content = message.get("content") if type(message) is dict else None
        if type(content) is str:
            self.text(content)
        elif type(content) is list and _is_mixed(content):
            return {**message, "content": "".join(map(self._part, content))}
        return message

    def text(self, text: str) -> None:
        for _ in range(text.count(PLACE)):
            self._place(None)

    def _part(self, part: Any) -> str:
        if type(part) is str or part.get("type") not in PARTS:
            text = part if type(part) is str else str(part.get("text") or "")
            self.text(text)
            return text
        found = next((part[name] for name in OWN if part.get(name) is not None), None)
        self._place(found.get("url") if type(found) is dict and "url" in found else found)
        return PLACE

    def _place(self, own: Any) -> None:
        self.places += 1
        if own is not None:
            self.own += 1
            self.ordered.append((own, True))
        elif (source := next(self._rest, self)) is not self:
            self.ordered.append((source, False))


def _is_mixed(content: list[Any]) -> bool:
    """Return whether a message's parts are texts and images, with at least one image."""
    kinds = [part.get("type") if type(part) is dict else "text" if type(part) is str else None for part in content]
    return any(kind in PARTS for kind in kinds) and all(kind in (*PARTS, "text") for kind in kinds)


def _listed(value: Any) -> list[Any]:
    """Return the images of a cell as a list: of JSON text too, and one image alone."""
    if type(value) is str and value.lstrip()[:1] in ("[", "{"):
        try:
            value = from_json(value)
        except orjson.JSONDecodeError:
            return [value]
    if value is None or (type(value) is str and not value.strip()):
        return []
    return value if type(value) is list else [value]


def _count_faults(told: _Told, prompt_key: str, image_key: str) -> Iterator[Fault]:
    places, there = told.places - told.own, len(told.column)
    if places != there:
        images = f"{there} image{'s' * (there != 1)} in {image_key}"
        yield Fault("DATA-E1537", prompt_key, f"{places} place{'s' * (places != 1)} {PLACE}, and {images}",
                    "a place for each image, in the order of the images",
                    f"write {PLACE} into the prompt where each image belongs, or correct {image_key}")  # fmt: skip


def _other_places(messages: Any, prompt_key: str) -> Iterator[Fault]:
    texts = [messages] if type(messages) is str else [m.get("content") for m in messages if type(m) is dict]
    for place in OTHER_PLACES:
        if any(type(text) is str and place in text for text in texts):
            yield Fault("DATA-E1538", prompt_key, place, f"{PLACE} only", "write it in another way, or remove the row")
