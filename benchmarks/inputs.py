"""The training outputs that are measured with: float32 tensors as safetensors, as npz, or as arrays in memory."""

import json
import shutil
import struct
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def shapes(tensors: int, nbytes: int) -> dict[str, tuple[int, ...]]:
    """The shapes of `tensors` float32 tensors that together hold `nbytes`, by nested names in sorted order."""
    elements = nbytes // tensors // 4
    shape = (elements // 1024, 1024) if elements % 1024 == 0 else (elements,)
    return {f"block/layer_{index:06d}/kernel": shape for index in range(tensors)}


def generated(tensors: int, nbytes: int) -> Iterator[tuple[str, "np.ndarray[Any, Any]"]]:
    """Random values for those shapes, one array after the other; each is the first one plus its number, for drawing is slow."""
    import numpy as np

    first: np.ndarray[Any, Any] | None = None
    for number, (name, shape) in enumerate(shapes(tensors, nbytes).items()):
        if first is None:
            first = np.random.default_rng(7).random(shape, np.float32)
        yield name, first + np.float32(number)


def write_safetensors(path: Path | str, tensors: int, nbytes: int) -> None:
    """A safetensors file: u64 length of the header, the header as JSON, the values end to end."""
    header: dict[str, Any] = {}
    offset = 0
    for name, shape in shapes(tensors, nbytes).items():
        end = offset + 4 * prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with Path(path).open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.writelines(array.data for _, array in generated(tensors, nbytes))


def write_npz(path: Path | str, tensors: int, nbytes: int) -> None:
    """An npz file as numpy.savez writes it, one array after the other."""
    import zipfile

    import numpy as np

    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in generated(tensors, nbytes):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def warm_up(folder: str) -> None:
    """Export one tiny tensor below `folder` and remove it, so that what is imported late is there: a daemon has it long since."""
    import numpy as np

    from smdaemon.savedmodel.weights import write_weights
    from smdaemon.sources.formats import open_source
    from smdaemon.tensorbundle.tensors import ArrayTensor

    scratch = Path(folder, "warm")
    scratch.mkdir()
    write_safetensors(scratch / "tiny.safetensors", 1, 4096)
    with open_source(scratch / "tiny.safetensors") as source:
        write_weights(scratch / "file", source.tensors, sync=False)
    write_weights(scratch / "array", {"w": ArrayTensor(np.zeros(4, np.float32))}, sync=False)
    shutil.rmtree(scratch)


def in_memory(tensors: int, nbytes: int) -> dict[str, "np.ndarray[Any, Any]"]:
    """The same values as arrays of this process, every page of them touched."""
    return dict(generated(tensors, nbytes))
