"""`cellwright` and `python -m cellwright`, which is also what torchrun starts."""

import sys


def main() -> None:
    """Run the command line, or say what to install for it."""
    from .extras import MissingExtraError, require

    try:
        require("cellwright", "train")
    except MissingExtraError as error:
        sys.exit(f"error: {error}")
    from .cli import main as command

    command()


if __name__ == "__main__":
    main()
