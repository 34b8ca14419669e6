"""Builds the API reference from the docstrings, into _site/.

    make docs
"""

from pathlib import Path

import pdoc

OUTPUT = Path(__file__).resolve().parent.parent / "_site"
MODULES = [
    "cellwright",
    "cellwright.cells",
    "cellwright.nn.initialise",
    "cellwright.compiler.differentiate",
    "cellwright.engine.reference",
    "cellwright.look.check",
    "cellwright.train",
    "cellwright.text",
]


def main() -> None:
    pdoc.render.configure(docformat="google", math=True)
    pdoc.pdoc(*MODULES, output_directory=OUTPUT)
    pages = sum(1 for _ in OUTPUT.rglob("*.html"))
    print(f"{pages} pages in {OUTPUT.name}/")


if __name__ == "__main__":
    main()
