"""NAME_attend: the items of a model, and what is made of them once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ...language import ArgumentError
from .blocks import Block
from .items import made_before
from .step import AttendWriter, ItemPlaces
from .values import Tables, check_apart, identifier


class Attend:
    """The sets of items of a model.

    Args:
        blocks: of the model.
        max_items: as `export_c` has it.
        taken: names of the state's other fields.

    Attributes:
        sizes: units of an item, by set.
        most: how many there may be, by set.
        fields: of the state, for items and what is made of them: floats, by name.
        counts: likewise, by set: how many there are.
    """

    def __init__(
        self,
        blocks: Sequence[Block],
        max_items: Mapping[str, int],
        taken: Sequence[str],
    ) -> None:
        self.blocks, self.sizes = blocks, _sizes(blocks)
        _check_most(self.sizes, max_items)
        self.most, self._taken = max_items, {*taken}
        self.counts = {name: self._free(f"{name}_count") for name in self.sizes}
        self.fields: dict[str, int] = {}
        self.raw: dict[str, str] = {}  # fields of what the steps read as it is, by set
        self.places = [self._places(k, block) for k, block in enumerate(blocks)]

    def _free(self, name: str) -> str:
        """A name for a field that no other has."""
        name = identifier(name)
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _places(self, index: int, block: Block) -> ItemPlaces | None:
        """The fields of what each item of a block's step has."""
        if block.once is None:
            return None
        values = {}
        for item in block.once.step.items:
            field = self.raw.get(item.name)
            if field is None:
                own = item.name == item.set
                several = len(self.blocks) > 1 and not own
                field = self._free(f"{item.name}_{index}" if several else item.name)
                self.fields[field] = self.most[item.set] * int(item.size)
                if own:
                    self.raw[item.name] = field
            values[item.name] = f"s->{field}"
        counts = {name: f"s->{field}" for name, field in self.counts.items()}
        return ItemPlaces(values, counts, self.most)

    # -- texts

    def defines(self) -> str:
        return "".join(
            f"#define @@_ITEMS_{identifier(name).upper()}_SIZE {size}\n"
            f"#define @@_ITEMS_{identifier(name).upper()}_MAX {self.most[name]}\n"
            for name, size in self.sizes.items()
        )

    def declarations(self) -> str:
        """The fields of the state."""
        counts = (f"    int {name};\n" for name in self.counts.values())
        values = (f"    float {name}[{size}];\n" for name, size in self.fields.items())
        return "".join([*counts, *values])

    @property
    def bytes(self) -> int:
        return 4 * (len(self.counts) + sum(self.fields.values()))

    def arguments(self, state: str = "s") -> str:
        """Of NAME_attend."""
        pairs = (
            f"const float *{identifier(name)}, int {identifier(name)}_count"
            for name in self.sizes
        )
        return ", ".join([f"@_state *{state}", *pairs])

    def functions(self, tables: Tables) -> str:
        """NAME_attend, and those that it calls."""
        texts, lines = [], []
        if self.raw:
            lines += ["const float one = @_one;", "int j;"]
        for name in self.sizes:
            count, most = f"{identifier(name)}_count", self.most[name]
            lines.append(f"if ({count} < 0 || {count} > {most}) return 1;")
        for name, size in self.sizes.items():
            count = f"{identifier(name)}_count"
            lines.append(f"s->{self.counts[name]} = {count};")
            if name in self.raw:
                place, own = f"s->{self.raw[name]}", identifier(name)
                lines.append(f"for (j = 0; j < {count} * {size}; ++j)")
                lines.append(f"    {place}[j] = {own}[j] * one;")
        given = ", ".join(["s", *map(identifier, self.sizes)])
        for index, (block, places) in enumerate(
            zip(self.blocks, self.places, strict=True)
        ):
            before = None if block.once is None else made_before(block.once)
            if before is not None and places is not None:
                label = f"{index}_attend"
                writer = AttendWriter(block, before, label, {}, tables, places)
                texts.append(writer.function())
                lines.append(f"@_block{label}({given});")
        body = "\n".join(f"    {line}" for line in [*lines, "return 0;"])
        texts.append(f"int @_attend({self.arguments()}) {{\n{body}\n}}\n")
        return "\n" + "\n".join(texts)


def _sizes(blocks: Sequence[Block]) -> dict[str, int]:
    """Units of an item of every set.

    Raises:
        ArgumentError: two layers have a set of a name and of different sizes.
    """
    found: dict[str, int] = {}
    for block in blocks:
        for item in block.graph.items:
            if found.setdefault(item.name, int(item.size)) != item.size:
                raise ArgumentError(
                    f"[export_c] every layer looks at the items {item.name!r}; "
                    f"received sizes {found[item.name]} and {item.size}, expected one "
                    "size"
                )
    check_apart("sets of items", found)
    return found


def _check_most(sizes: Mapping[str, int], most: Mapping[str, Any]) -> None:
    """Raise ArgumentError unless every set has a number of items that fit."""
    expected = f"max_items={{{', '.join(f'{name!r}: 100' for name in sizes)}}}"
    if set(most) != set(sizes):
        raise ArgumentError(
            "[export_c] the state has room for the items of every set that a cell "
            f"looks at; received max_items={dict(most)}, expected "
            f"{expected if sizes else 'none: no cell looks at items'}"
        )
    for name, count in most.items():
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ArgumentError(
                f"[export_c] max_items counts the items of {name!r}; received "
                f"{count!r}, expected a positive integer"
            )
