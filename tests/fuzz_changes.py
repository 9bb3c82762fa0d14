"""Changes of files that keep their syntax: an odd value, key or repetition at one place of the JSON inside."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

CUTS = (b"\0", b"\n", b'"', b"[", b"{", b"\xff", b"&a ", b"!!", b"- ")
ODD: list[Any] = [
    None, True, False, 0, -1, 1, 2.5, 1e308, -1e-320, float("inf"), float("nan"), 2**31, 2**63, -(2**63), 10**40, "",
    " ", "x", "0", "1e999", "\0", "\ud800", "é\u2028", "a" * 3000, "../..", "/etc/passwd", "{{ x }}", "%s", "!!python",
    [], [[]], [None], ["x"], [0, [1]], {}, {"": ""}, {"x": None}, {"a": {"b": []}}, "s3://a::http://b", "2026-01-01",
]  # fmt: skip


def changed(data: bytes, draw: random.Random, prefix: int) -> bytes:
    """Return bytes with one to three changes; the first `prefix` bytes choose the form of a file and may change too."""
    head, body = data[:prefix], data[prefix:]
    if prefix and draw.random() < 0.05:
        head = bytes(draw.randrange(256) for _ in head)
    for _ in range(draw.randint(1, 3)):
        start = draw.choice((0, 8))
        made = _of_json(body[start:], draw)
        if made is None:
            body = _of_bytes(body, draw)
        elif start:
            body = len(made).to_bytes(8, "little") + made  # the header of a weight file
        else:
            body = made
    return head + body


def _of_json(body: bytes, draw: random.Random) -> bytes | None:
    """Change one value of a JSON document, or of one of its lines; None for what is no JSON."""
    lines = body.split(b"\n")
    number = draw.randrange(len(lines)) if len(lines) < 200 else 0
    for text in (body, lines[number]):
        try:
            value = json.loads(text)
            break
        except (ValueError, RecursionError):
            continue
    else:
        return None
    try:
        value = _with_odd(value, draw)
        made = json.dumps(value, ensure_ascii=draw.random() < 0.5).encode("utf-8", "surrogatepass")
    except RecursionError:
        return None
    if text is body:
        return made
    lines[number] = made
    return b"\n".join(lines)


def _with_odd(value: Any, draw: random.Random) -> Any:
    places = [(inside, key) for inside, key in _places(value)]
    odd = copy.deepcopy(draw.choice(ODD))
    if not places or draw.random() < 0.02:
        return [value] if draw.random() < 0.5 else odd
    inside, key = draw.choice(places)
    act = draw.random()
    if act < 0.15:
        del inside[key]
    elif act < 0.3 and isinstance(inside, dict):
        inside[draw.choice([x for x in ODD if isinstance(x, str)])] = inside.pop(key)
    elif act < 0.45 and isinstance(inside, list):
        inside.insert(key, odd)
    elif act < 0.55:
        inside[key] = copy.deepcopy(draw.choice(places)[0])
    elif act < 0.6:
        inside[key] = [inside[key]]
    else:
        inside[key] = odd
    return value


def _places(value: Any) -> Any:
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield value, key
        yield from _places(inner)


def _of_bytes(body: bytes, draw: random.Random) -> bytes:
    """Flip, cut, repeat, insert or drop bytes."""
    if not body:
        return bytes([draw.randrange(256)])
    place, length = draw.randrange(len(body)), draw.choice((1, 2, 8, 64))
    piece = body[place : place + length]
    return draw.choice(
        (
            lambda: body[:place] + bytes([body[place] ^ (1 << draw.randrange(8))]) + body[place + 1 :],
            lambda: body[:place],
            lambda: body[:place] + piece * draw.choice((2, 3, 50)) + body[place + length :],
            lambda: body[:place] + draw.choice(CUTS) + body[place:],
            lambda: body[:place] + body[place + length :],
        )
    )()
