"""What docs/reference/operations.md ends with: the operations, from their records."""

from __future__ import annotations

import inspect

import cellwright as cw
from cellwright.language.ops import Op

KINDS = {
    "activation": "Activations",
    "arithmetic": "Arithmetic",
    "reduction": "Over the units",
    "normalisation": "Over the units",
    "matrix": "Of matrices",
}
ARGUMENTS = {
    "where": "condition, u, v",
    "outer": "v, k",
    "matvec": "C, q",
    "scale_rows": "C, v",
    "scale_columns": "C, v",
}
DIRECTIVE = """
```{{eval-rst}}
.. py:function:: cellwright.{name}({arguments})

   {doc}
```
"""


def page() -> str:
    """One entry an operation, by kind, as Markdown."""
    sections: dict[str, list[str]] = {heading: [] for heading in KINDS.values()}
    for name in sorted(cw.__all__):
        if isinstance(op := getattr(cw, name), Op):
            sections[KINDS[op.kind]].append(_entry(name, op))
    return "".join(
        f"\n## {heading}\n{''.join(entries)}" for heading, entries in sections.items()
    )


def _entry(name: str, op: Op) -> str:
    values = ARGUMENTS.get(name) or ("v" if op.arity == 1 else "u, v")
    options = [f"{key}={default!r}" for key, default in op.attrs.items()]
    doc = inspect.cleandoc(op.doc).replace("|", r"\|").replace("\n", "\n   ")
    return DIRECTIVE.format(name=name, arguments=", ".join([values, *options]), doc=doc)
