"""A list in YAML, written entry by entry: the answers with the keys of the seed.

    - dataset: dates
      id: '7'
      prompt: 2 + 2?
      answer: '4'
      correct_answers:
      - '4'
      test_type: open-ended
      …
      gen_params: &gen_params
        max_new_tokens: 512

The settings are the same for all answers. They stand in the first one, and the others refer to them, as YAML's anchors
do: a reader has them in each entry, and the file is not ten times as long.
"""

from __future__ import annotations

from typing import IO, Any

import yaml

WIDTH = 2**31 - 1  # of a line: a text of words would be broken at its blanks
ANCHOR = "gen_params"
TEST_TYPE = "open-ended"
Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # libyaml's is ten times as fast


class YamlList:
    """Appends entries to a stream; `shared` is the value of gen_params."""

    def __init__(self, stream: IO[str], shared: dict[str, Any]):
        self._stream = stream
        indented = _dumped(shared).rstrip("\n").replace("\n", "\n    ")
        self._first = f"  {ANCHOR}: &{ANCHOR}\n    {indented}\n"
        self._next = f"  {ANCHOR}: *{ANCHOR}\n"
        self.count = 0

    def append(self, entry: dict[str, Any]) -> None:
        """Write an entry."""
        self._stream.write(_dumped([entry]) + (self._next if self.count else self._first))
        self.count += 1


def _dumped(value: Any) -> str:
    text: str = yaml.dump(value, Dumper=Dumper, allow_unicode=True, sort_keys=False, width=WIDTH)
    return text
