"""What docs/command-line.md ends with: every command's help, by Typer's own writer."""

from __future__ import annotations

import re
import subprocess
import sys

COMMAND = ("-m", "typer", "cellwright.cli", "utils", "docs", "--name", "cellwright")
OPTION = re.compile(r"(`[^`]*`)|(--[a-z][a-z-]*)")  # code, or an option that is not


def page() -> str:
    """Usage, arguments and options of every command, as Markdown."""
    done = subprocess.run(
        [sys.executable, *COMMAND], capture_output=True, text=True, check=True
    )
    _, _, commands = done.stdout.partition("\n## ")  # the head is the page's own
    return "\n## " + OPTION.sub(lambda m: m[1] or f"`{m[2]}`", commands)
