"""What docs/command-line.md ends with: every command's help, by Typer's own writer."""

from __future__ import annotations

import subprocess
import sys

COMMAND = ("-m", "typer", "cellwright.cli", "utils", "docs", "--name", "cellwright")


def page() -> str:
    """Usage, arguments and options of every command, as Markdown."""
    done = subprocess.run(
        [sys.executable, *COMMAND], capture_output=True, text=True, check=True
    )
    _, _, commands = done.stdout.partition("\n## ")  # the head is the page's own
    return f"\n## {commands}"
