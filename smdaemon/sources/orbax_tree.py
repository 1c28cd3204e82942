"""The tree of an Orbax item: which values it has, under which names, and where each is stored.

`_METADATA` is JSON, cut to what is read here:

    {"tree_metadata": {"('params', 'w')": {"key_metadata": [{"key": "params", "key_type": 2}, {"key": "w", "key_type": 2}],
                                           "value_metadata": {"value_type": "jax.Array", "skip_deserialize": false}}},
     "use_zarr3": false, "store_array_data_equal_to_fill_value": true, "custom_metadata": {...}}

A tensor's name is its keys joined with "/". The array is stored under the keys joined with ".". An entry that is not to be
deserialised is empty (None, {}, []), or its value lies in the aggregate file of older releases. Strings are in `_strings.json`.

Source of the format: orbax-checkpoint 0.12, `_src/metadata/tree.py`, `_src/serialization/type_handlers.py`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from smdaemon.errors import DropError
from smdaemon.paths import exists
from smdaemon.sources.opened import check_name
from smdaemon.sources.orbax_layout import STRINGS, TREE_METADATA, read_json

_EMPTY = frozenset(["None", "Dict", "List", "Tuple", "NamedTuple", "placeholder"])


class Stored(NamedTuple):
    """An array: its tensor's name in the item, and the name that it is stored under."""

    name: str
    path: str


class Tree(NamedTuple):
    """What `_METADATA` says. `complete_data`: a chunk that is not there is missing, where older releases left out zeros."""

    arrays: tuple[Stored, ...]
    strings: tuple[Stored, ...]
    aggregated: frozenset[str]
    zarr3: bool
    complete_data: bool
    metadata: Mapping[str, str]


def read_tree(item: Path) -> Tree | None:
    """The tree of an item; None while a part of its metadata is missing.

    Raises DropError: `source-corrupt` where it is not what Orbax writes, `name-clash` for two values of one name or at one place.
    """
    fields = read_json(item / TREE_METADATA)
    if fields is None:
        return None
    what = str(item / TREE_METADATA)
    entries = fields.get("tree_metadata")
    if type(entries) is not dict:
        raise DropError("source-corrupt", f"{what!r} has no tree_metadata")
    arrays, strings = list[Stored](), list[Stored]()
    aggregated = set[str]()
    for keypath, entry in entries.items():
        value, kind, skipped = _entry(entry, keypath, what)
        if skipped:
            aggregated.update({value.name} if kind not in _EMPTY else ())
        elif kind == "string":
            strings.append(value)
        else:
            check_name(value.name)
            arrays.append(value)
    for values in ([array.name for array in arrays], [array.path for array in arrays]):
        _check_unique(values, what)
    return Tree(
        tuple(arrays),
        tuple(strings),
        frozenset(aggregated),
        zarr3=fields.get("use_zarr3") is True,
        complete_data=fields.get("store_array_data_equal_to_fill_value") is True,
        metadata=scalars(fields.get("custom_metadata")),
    )


def scalars(fields: object) -> dict[str, str]:
    """The plain values of a JSON object, as text; what a user said about the checkpoint."""
    if type(fields) is not dict:
        return {}
    return {key: str(value) for key, value in fields.items() if isinstance(value, str | int | float)}


def read_strings(item: Path, strings: tuple[Stored, ...]) -> Iterator[tuple[str, str]]:
    """The strings of a tree with their names, as far as they are there; each lies at its path as a JSON pointer."""
    fields = (read_json(item / STRINGS) if exists(item / STRINGS) else None) or {}
    for string in strings:
        place: object = fields
        for part in string.path.split("/"):
            place = place.get(part) if isinstance(place, dict) else None
        if isinstance(place, str):
            yield string.name, place


def _entry(entry: Any, keypath: str, what: str) -> tuple[Stored, str, bool]:
    """A value of the tree, its type, and whether it is not stored as an array."""
    try:
        keys = [part["key"] for part in entry["key_metadata"]]
        kind, skipped = entry["value_metadata"]["value_type"], entry["value_metadata"]["skip_deserialize"]
        sound = all(type(key) is str for key in keys) and type(kind) is str and type(skipped) is bool
    except (TypeError, KeyError):
        sound = False
    if not sound:
        raise DropError("source-corrupt", f"the entry {keypath!r} of {what!r} is not what Orbax writes")
    return Stored("/".join(keys), ".".join(keys)), kind, skipped


def _check_unique(names: list[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DropError("name-clash", f"two values of {what!r} are named or stored as {name!r}")
        seen.add(name)


def directory_of(item: Path, stored: Stored) -> Path:
    """The directory of an array that is not in an OCDBT database; DropError `name-invalid` where it would lie outside the item."""
    if any(part in {"", ".", ".."} for part in stored.path.split("/")):
        raise DropError(
            "name-invalid", f"the array {stored.name!r} would be stored as {stored.path!r}, outside its item"
        )
    return item / stored.path
