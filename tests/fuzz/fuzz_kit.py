"""Sound inputs of every parser, and ways to break them."""

import io
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smdaemon.config import parse_config
from smdaemon.errors import DropError
from smdaemon.handoff import protocol
from smdaemon.proto.mapping import request_from_json, request_from_protobuf, request_from_toml
from smdaemon.proto.v1 import ExportRequest
from smdaemon.savedmodel import summarize, verify
from smdaemon.savedmodel.function_bundle import decode_functions
from smdaemon.sources.formats import open_source
from smdaemon.sources.long_header import decoded
from smdaemon.sources.safetensors import parse_object
from smdaemon.staging.base import Spec
from smdaemon.staging.layout import decode_layout, encode_layout, laid_out
from smdaemon.tensorbundle import ArrayTensor, BundleReader, write_bundle


@dataclass(frozen=True)
class Parser:
    """What is fuzzed: sound inputs, and a function that parses one, which lies in a file of its own in a scratch folder."""

    seeds: Callable[[Path], list[bytes]]
    parse: Callable[[bytes, Path], object]


def _arrays() -> dict[str, np.ndarray]:
    return {"a/b": np.arange(6, dtype=np.float32).reshape(2, 3), "c": np.int64(3), "s": np.array(["x", "yy"])}


def _npz(_scratch: Path) -> list[bytes]:
    made = []
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, **_arrays())
        made.append(buffer.getvalue())
    return made


def _npy(_scratch: Path) -> list[bytes]:
    made = []
    for array in (np.arange(4.0), np.asfortranarray(np.ones((3, 2), ">i4")), np.array([b"ab"])):
        buffer = io.BytesIO()
        np.save(buffer, array)
        made.append(buffer.getvalue())
    return made


def _safetensors(_scratch: Path) -> list[bytes]:
    header = json.dumps(
        {"__metadata__": {"step": "7"}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    ).encode()
    return [struct.pack("<Q", len(header)) + header + bytes(8)]


def _long_header(_scratch: Path) -> list[bytes]:
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    return [
        json.dumps(header).encode()
        for header in ({"__metadata__": {"step": "7"}, "w": tensor}, {"w": tensor, "v": tensor})
    ]


def _msgpack(_scratch: Path) -> list[bytes]:
    # flax's form: a map, an array as extension 1 of (shape, dtype, bytes)
    array = b"\x93\x91\x02\xa7float32\xc4\x08" + bytes(8)
    return [b"\x82\xa1w\xc7" + bytes([len(array), 1]) + array + b"\xa4step\x07"]


def _keras(scratch: Path) -> list[bytes]:
    import h5py

    made = []
    for bounds in ("earliest", "latest"):
        path = scratch / "seed.weights.h5"
        with h5py.File(path, "w", libver=bounds) as file:
            file["layers/dense/vars/0"] = np.ones((2, 3), np.float32)
            file["layers/dense/vars"].attrs["name"] = "dense"
        made.append(path.read_bytes())
    return made


def _bundle_index(scratch: Path) -> list[bytes]:
    write_bundle(scratch / "seed", {name: ArrayTensor(np.asarray(value)) for name, value in _arrays().items()})
    return [(scratch / "seed.index").read_bytes()]


def _saved_model(scratch: Path) -> list[bytes]:
    from smdaemon.savedmodel import write_weights

    write_weights(scratch / "model", {"w": ArrayTensor(np.ones(2, np.float32))})
    return [(scratch / "model" / "saved_model.pb").read_bytes()]


def _requests(_scratch: Path) -> list[bytes]:
    return [b'{"source": "a.npz", "version": 3, "rename": {"a": "b"}, "signatures": {"s": {"inputs": {"x": "x:0"}}}}']


def _configuration(_scratch: Path) -> list[bytes]:
    return [
        b'[daemon]\nstate_dir="s"\ncontrol_socket="c"\n[[model]]\nname="m"\nwatch="w"\npublish="p"\nwrite_rate="1MB"\n'
    ]


def _messages(_scratch: Path) -> list[bytes]:
    return [
        protocol.encode(protocol.Hello(1, "x")),
        protocol.encode(protocol.Commit("e", 1, 64, "m", 3, {"tags": ["a"]})),
    ]


def _layouts(_scratch: Path) -> list[bytes]:
    return [encode_layout(laid_out({"w": Spec("float32", (2, 3), 24), "v": Spec("int8", (), 1)}))]


def _functions(_scratch: Path) -> list[bytes]:
    from smdaemon.proto import v1
    from smdaemon.savedmodel.encode_structure import encoded
    from smdaemon.savedmodel.structure import TensorSpec

    bundle = v1.FunctionBundle(format=1, serving_tensorflow="2.19")
    made = bundle.functions["serving_default"]
    made.module, made.calling_convention_version = b"ML\xefR\x06StableHLO_v1.8.0\0", 9
    made.platforms.append("cpu")
    made.inputs.add(name="x", dtype="float32", shape=[-1, 2])
    made.operands.add(input=0)
    made.arguments.CopyFrom(encoded((("x", TensorSpec("x", "float32", (None, 2))),)))
    made.returned.CopyFrom(encoded({}))
    return [bundle.SerializeToString()]


def _source(ending: str) -> Callable[[bytes, Path], object]:
    def parse(content: bytes, scratch: Path) -> None:
        path = scratch / f"x{ending}"
        path.write_bytes(content)
        with open_source(path) as source:
            for tensor in source.tensors.values():
                for _ in tensor.buffers():
                    pass

    return parse


def _parse_long_header(content: bytes, _scratch: Path) -> None:
    """What the fast decoder takes the careful one takes, for the same."""
    found = decoded(content)
    try:
        fields = parse_object(content, "x")
    except DropError:
        if found is not None:
            parse_object(found[1], "x")  # what is wrong is in the metadata
            raise AssertionError("the fast decoder takes it, the careful one does not") from None
        raise
    if found is not None:
        metadata = json.loads(found[1])
        tensors = {
            name: {"dtype": kind, "shape": list(shape), "data_offsets": list(offsets)}
            for name, (kind, shape, offsets) in found[0].items()
        }
        assert fields == ({"__metadata__": metadata} if "__metadata__" in fields else {}) | tensors


def _parse_bundle(content: bytes, scratch: Path) -> None:
    (scratch / "seed.index").write_bytes(content)
    with BundleReader(scratch / "seed") as bundle:
        bundle.verify()


def _parse_model(content: bytes, scratch: Path) -> None:
    (scratch / "model" / "saved_model.pb").write_bytes(content)
    summarize(scratch / "model")
    verify(scratch / "model")


PARSERS = {
    "npz": Parser(_npz, _source(".npz")),
    "npy": Parser(_npy, _source(".npy")),
    "safetensors": Parser(_safetensors, _source(".safetensors")),
    "safetensors, long header": Parser(_long_header, _parse_long_header),
    "msgpack": Parser(_msgpack, _source(".msgpack")),
    "keras weights": Parser(_keras, _source(".weights.h5")),
    "bundle index": Parser(_bundle_index, _parse_bundle),
    "saved_model.pb": Parser(_saved_model, _parse_model),
    "function bundle": Parser(_functions, lambda content, _: decode_functions(content, "x")),
    "request json": Parser(_requests, lambda content, _: request_from_json(content)),
    "request toml": Parser(
        lambda _: [b'source = "a.npz"\ntags = ["x"]\n[rename]\na = "b"\n'],
        lambda content, _: request_from_toml(content),
    ),
    "request protobuf": Parser(
        lambda _: [ExportRequest(source="a.npz", tags=["x"], version=3).SerializeToString()],
        lambda content, _: request_from_protobuf(content),
    ),
    "configuration": Parser(_configuration, lambda content, _: parse_config(content, Path("x.toml"))),
    "handoff message": Parser(_messages, lambda content, _: protocol.decode(content, int(b'"commit' in content))),
    "handoff plan": Parser(_layouts, lambda content, _: decode_layout(content, 128)),
}


def broken(rng: random.Random, seeds: list[bytes]) -> bytes:
    """One of the seeds with a few things wrong."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(7):
            case 0 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 1 if data:
                data[at % len(data)] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
            case 2:
                del data[at:]
            case 3:
                del data[at : at + rng.randrange(1, 9)]
            case 4:
                data[at:at] = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 9)))
            case 5:
                data[at : at + 4] = rng.choice([b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"9999", b'"\\u'])
            case _:
                other = rng.choice(seeds)
                start = rng.randrange(len(other))
                data[at:at] = other[start : start + rng.randrange(1, 64)]
    return bytes(data)


__all__ = ["PARSERS", "Parser", "broken"]
