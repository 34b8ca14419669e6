"""What a cell's function computes and nothing reads."""

from __future__ import annotations

from typing import Any

from .builder import Builder
from .graph import LEAVES, reachable
from .trace import as_node


def unused_lines(builder: Builder, returned: Any) -> list[str]:
    """`file:line` of every value that neither a result nor another value reads.

    Args:
        builder: with all that the function recorded.
        returned: what it returned.
    """
    results = returned if isinstance(returned, tuple | list) else (returned,)
    roots = [as_node(builder, result, None) for result in results]
    nodes = builder.nodes
    read = {argument for node in nodes for argument in node.args}
    read |= reachable(nodes, [*roots, *builder.explicit.values()])
    unused = [
        node.source
        for number, node in enumerate(nodes)
        if number not in read and node.op not in LEAVES
    ]
    return list(dict.fromkeys(unused))
