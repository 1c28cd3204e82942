"""The same training output in every format that smdaemon reads."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np

from smdaemon.savedmodel import write_weights
from smdaemon.tensorbundle import ArrayTensor, write_bundle

ARRAYS = {"layer/kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "scale": np.ones(3, np.float16)}


def _npz(path: Path) -> Path:
    path = path.with_suffix(".npz")
    np.savez(path, **ARRAYS)
    return path


def _npy(path: Path) -> Path:
    for name, array in ARRAYS.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(path / f"{name}.npy", array)
    return path


def _safetensors(path: Path) -> Path:
    from safetensors.numpy import save_file

    save_file(ARRAYS, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def _sharded(path: Path) -> Path:
    from safetensors.numpy import save_file

    path.mkdir()
    names = dict(zip(ARRAYS, ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), strict=True))
    for name, file in names.items():
        save_file({name: ARRAYS[name]}, path / file)
    index = path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 54}, "weight_map": names}))
    return index


def _msgpack(path: Path) -> Path:
    import msgpack

    def packed(array: np.ndarray) -> msgpack.ExtType:
        return msgpack.ExtType(1, msgpack.packb((array.shape, array.dtype.name, array.tobytes())))

    tree = {"layer": {"kernel": packed(ARRAYS["layer/kernel"])}, "scale": packed(ARRAYS["scale"])}
    path.with_suffix(".msgpack").write_bytes(msgpack.packb(tree))
    return path.with_suffix(".msgpack")


def _orbax(path: Path) -> Path:
    import tensorstore

    entries = {}
    for name, array in ARRAYS.items():
        keys = name.split("/")
        described = {"shape": list(array.shape), "chunks": list(array.shape), "dtype": array.dtype.str}
        spec = {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": f"{path / '.'.join(keys)}/"},
            "metadata": {**described, "compressor": {"id": "zstd"}},
            "store_data_equal_to_fill_value": True,
        }
        tensorstore.open(spec, create=True).result().write(array).result()
        entries[str(tuple(keys))] = {
            "key_metadata": [{"key": key, "key_type": 2} for key in keys],
            "value_metadata": {"value_type": "np.ndarray", "skip_deserialize": False},
        }
    (path / "_METADATA").write_text(
        json.dumps({"tree_metadata": entries, "store_array_data_equal_to_fill_value": True})
    )
    return path


def _checkpoint(path: Path) -> Path:
    write_bundle(path, {name: ArrayTensor(array) for name, array in ARRAYS.items()})
    return Path(f"{path}.index")


def _saved_model(path: Path) -> Path:
    write_weights(path, {name: ArrayTensor(array) for name, array in ARRAYS.items()})
    return path


FORMATS: dict[str, Callable[[Path], Path]] = {
    "npz": _npz,
    "npy-directory": _npy,
    "safetensors": _safetensors,
    "sharded-safetensors": _sharded,
    "flax-msgpack": _msgpack,
    "orbax": _orbax,
    "tf-checkpoint": _checkpoint,
    "saved-model": _saved_model,
}
"""Each writes the output at a path, with the format's ending, and says what is the drop."""
