"""An HTML page inside of a notebook: in a frame of its own, so that its styles change nothing around it."""

from __future__ import annotations

import html

HEIGHT = 600  # pixels; the frame can be dragged higher


def framed(page: str) -> str:
    """Return a page as a frame. It can neither read nor change the notebook."""
    style = f"width:100%;height:{HEIGHT}px;border:1px solid #ccc;resize:vertical;overflow:auto;background:white"
    return f'<iframe srcdoc="{html.escape(page)}" sandbox="allow-scripts" style="{style}"></iframe>'
