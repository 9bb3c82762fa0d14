"""The `finetune` command as it is installed: requests to stop are heard before anything else is loaded."""

from __future__ import annotations

from steps.stopping import stop_when_asked


def main() -> None:
    """Run the command line."""
    stop_when_asked()
    from pipelines.cli import main as run

    run()
