"""What no target writes yet."""

from __future__ import annotations

from ..language import ArgumentError, Graph


def refuse_items(graph: Graph, where: str) -> None:
    """Refuse a cell that looks at a set of items.

    Raises:
        ArgumentError: naming the set.
    """
    if graph.items:
        raise ArgumentError(
            f"[{where}] cell {graph.name!r} looks at the items "
            f"{graph.items[0].name!r}, which this target has no form for yet; expected "
            "a cell without items. torch.export takes such a layer"
        )
