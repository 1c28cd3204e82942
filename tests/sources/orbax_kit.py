"""Orbax checkpoints for tests: made by hand with tensorstore, where Orbax itself would not write them so."""

import json
from pathlib import Path

import numpy as np


def entry(*keys: str, value_type: str = "np.ndarray", skip: bool = False) -> dict:
    """One entry of `_METADATA`, with its key."""
    return {
        str(keys): {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": {"value_type": value_type, "skip_deserialize": skip},
        }
    }


def metadata(*entries: dict, **fields: object) -> str:
    """The text of a `_METADATA`."""
    tree = {key: value for each in entries for key, value in each.items()}
    return json.dumps({"tree_metadata": tree, "store_array_data_equal_to_fill_value": True, **fields})


def write_array(path: Path, array: np.ndarray, chunks: tuple[int, ...], *, zarr3: bool = False) -> None:
    """An array of zarr in chunks of that shape."""
    import tensorstore

    if zarr3:
        grid = {"name": "regular", "configuration": {"chunk_shape": list(chunks)}}
        described = {"chunk_grid": grid, "data_type": array.dtype.name, "codecs": [{"name": "zstd"}]}
    else:
        described = {"chunks": list(chunks), "dtype": array.dtype.str, "compressor": {"id": "zstd"}}
    spec = {
        "driver": "zarr3" if zarr3 else "zarr",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "metadata": {"shape": list(array.shape), **described},
        "store_data_equal_to_fill_value": True,
    }
    tensorstore.open(spec, create=True).result().write(array).result()


def write_item(
    item: Path, arrays: dict[str, np.ndarray], chunks: tuple[int, ...] | None = None, **fields: object
) -> Path:
    """An item without OCDBT, whose arrays lie at the top of its tree."""
    item.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        write_array(
            item / name, array, array.shape if chunks is None else chunks, zarr3=fields.get("use_zarr3") is True
        )
    (item / "_METADATA").write_text(metadata(*(entry(name) for name in arrays), **fields))
    return item


def write_step(step: Path, *items: str, commit: int | None = 2, marker: bool = True) -> Path:
    """A step whose items hold one array each; as Orbax leaves it, or before it was committed."""
    for item in items:
        write_item(step / item, {"w": np.arange(3.0)})
    handlers = dict.fromkeys(items, "orbax.checkpoint.StandardCheckpointHandler") if commit else None
    fields = {"item_handlers": handlers, "init_timestamp_nsecs": 1, "commit_timestamp_nsecs": commit}
    step.mkdir(parents=True, exist_ok=True)
    (step / "_CHECKPOINT_METADATA").write_text(json.dumps(fields))
    if marker:
        (step / "commit_success.txt").write_text(f"Checkpoint commit was successful to {step}")
    return step
