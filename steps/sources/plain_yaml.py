"""Read YAML that anybody may have written: plain values only, in time that grows with the size of the text."""

from __future__ import annotations

from typing import Any

from steps.errors import shown
from steps.params.text_file import DEEPEST, LONG_NUMBER, MOST_VALUES, TOO_DEEP


def plain_yaml(text: str | bytes, loader: Any = None) -> Any:
    """Parse YAML of plain values that anybody may have written, in time that grows with its size.

    Raises ValueError with the line and the reason, also for aliases, which can expand without limit, for tags, and for
    values that are nested too deep. `loader` is a subclass of SafeLoader.
    """
    import yaml

    depth, count = 0, 0
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEEPEST:  # PyYAML's time grows with the square of the depth
                raise ValueError(TOO_DEEP)
            count += isinstance(event, yaml.NodeEvent)
            if count > MOST_VALUES:
                raise ValueError(f"more than {MOST_VALUES:,} names and values")
            if isinstance(event, yaml.AliasEvent):
                raise ValueError(f"a YAML alias (*{event.anchor})")
            if isinstance(event, yaml.ScalarEvent) and LONG_NUMBER.fullmatch(event.value):
                raise ValueError(f"the number {shown(event.value)}")
        return yaml.load(text, Loader=loader or yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark, said = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        line = f"line {mark.line + 1}: " if mark else ""
        raise ValueError(f"{line}{said or str(error).splitlines()[0]}") from None
    except OverflowError:  # of PyYAML's reader of "\\UFFFFFFFF"
        raise ValueError("an escape of no character") from None
    except (LookupError, AttributeError, TypeError, RecursionError) as error:  # of PyYAML's readers of tagged values
        raise ValueError(f"a value that is not what its tag says ({type(error).__name__})") from None
