"""How tensors lie in a segment of shared memory: the plan that a trainer sends with it. Pure.

A plan is a JSON object {"layout": 1, "tensors": [[name, dtype, shape, offset, bytes], ...]}; two tensors may share their bytes,
otherwise they are disjoint. The bytes are those of a bundle's data file: little-endian, row-major, sub-byte types a byte an element.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from smdaemon.errors import DropError
from smdaemon.staging.base import Spec
from smdaemon.tensorbundle.dtypes import dtype_named

LAYOUT = 1
ALIGNMENT = 64
"""Tensors begin at multiples of this: a cache line, and what copies into registered memory like."""

PLAN_BYTES_LIMIT = 256 << 20
"""A plan of a million tensors has less."""


class Row(NamedTuple):
    """One tensor: where its `nbytes` begin in the segment."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Layout:
    """All tensors of a segment, and how many bytes of it they take."""

    rows: tuple[Row, ...]
    nbytes: int

    def places(self) -> list[tuple[int, int]]:
        """Offset and bytes of all that is there, in order; what two tensors share is there once."""
        return sorted({(row.offset, row.nbytes) for row in self.rows if row.nbytes})


def laid_out(specs: Mapping[str, Spec], shared: Mapping[str, str] | None = None) -> Layout:
    """The tensors one after the other; the names in `shared` have the bytes of another, whose name stands behind them.

    A tensor without bytes lies where the next one does. Where all are so, a byte is taken: no segment has none.
    """
    rows: dict[str, Row] = {}
    offset = 0
    shared = shared or {}
    for name, spec in specs.items():
        if (other := shared.get(name)) is not None:
            rows[name] = rows[other]._replace(name=name)
            continue
        rows[name] = Row(name, spec.dtype, spec.shape, offset, spec.nbytes)
        offset += spec.nbytes + -spec.nbytes % ALIGNMENT
    return Layout(tuple(rows.values()), max(1, offset))


def encode_layout(layout: Layout) -> bytes:
    """The plan."""
    return json.dumps({"layout": LAYOUT, "tensors": layout.rows}, separators=(",", ":")).encode()


def decode_layout(plan: bytes, nbytes: int) -> Layout:
    """The layout that a plan tells, for `nbytes` of a segment; it is believed in nothing. It takes what its last tensor ends at.

    Raises DropError: `handoff-protocol` where it is malformed, leads out of the segment or lays tensors over each other;
    `dtype-unsupported`, `source-empty`, `name-clash`.
    """
    try:
        told = json.loads(plan)
        if told["layout"] != LAYOUT:
            raise _malformed(f"its layout is {told['layout']!r}, and {LAYOUT} is known")
        rows = [_row(item, nbytes) for item in told["tensors"]]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise _malformed(f"{type(error).__name__}: {error}") from error
    if not rows:
        raise DropError("source-empty", "the handoff has no tensors")
    if len({row.name for row in rows}) < len(rows):
        raise DropError("name-clash", "two tensors of the handoff have one name")
    _check_disjoint(rows)
    return Layout(tuple(rows), max(1, *(row.offset + row.nbytes for row in rows)))


def _row(item: Any, nbytes: int) -> Row:
    name, dtype, shape, offset, size = item
    if not (type(name) is type(dtype) is str and name and "\0" not in name):
        raise _malformed(f"{name!r} is not the name of a tensor, or {dtype!r} not that of a dtype")
    if type(shape) is not list or not all(_is_size(number) for number in [*shape, offset, size]):
        raise _malformed(f"{name!r} has the shape {shape!r} and lies at {offset!r}, {size!r} bytes")
    known = dtype_named(dtype)
    if prod(shape) * known.itemsize != size or offset + size > nbytes:
        raise _malformed(f"{name!r}, {dtype} of {shape}, cannot be the {size} bytes at {offset} of {nbytes}")
    return Row(name, dtype, tuple(shape), offset, size)


def _is_size(number: object) -> bool:
    return type(number) is int and 0 <= number < 1 << 62


def _check_disjoint(rows: Sequence[Row]) -> None:
    end, last = 0, ""
    for row in sorted({row[3:]: row for row in rows if row.nbytes}.values(), key=lambda row: row.offset):
        if row.offset < end:
            raise _malformed(f"{row.name!r} lies over {last!r}")
        end, last = row.offset + row.nbytes, row.name


def _malformed(why: str) -> DropError:
    return DropError("handoff-protocol", f"the plan of a handoff is malformed: {why}")
