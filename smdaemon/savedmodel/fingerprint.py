"""`fingerprint.pb`: five hashes of a SavedModel, computed as TensorFlow 2.21 does (producer 4), and an id.

TensorFlow never checks them when it loads a model; registries and metrics compare them. F is FarmHash's Fingerprint64, C
joins two of them. Of the first meta graph and the bundle's index:

    saved_model_checksum     F(the whole SavedModel)
    graph_def_program_hash   F(the GraphDef without library, versions, string constants, and what differs from run to run)
    signature_def_hash       C over each signature by key: F(key), F(signature)
    saved_object_graph_hash  C over each concrete function by the number that ends its name: F(name without it), F(function)
    checkpoint_hash          F(the index file), 0 without one

TensorFlow's `uuid` is random. Here it is FarmHash's Fingerprint128 of the five numbers (each 8 bytes, little-endian), written
in decimal as TensorFlow does: the same tensors give the same file.
"""

import struct
from collections.abc import Mapping

from farmhash import fingerprint64, fingerprint128
from google.protobuf.message import Message

from smdaemon.proto.pool import deterministic
from smdaemon.proto.tensorflow import FingerprintDef, GraphDef, SavedConcreteFunction, SavedModel, SignatureDef
from smdaemon.savedmodel.canonical import canonical
from smdaemon.tensorbundle.dtypes import STRING

PRODUCER = 4

_MASK = (1 << 64) - 1
_MULTIPLIER = 0xC6A4A7935BD1E995


def fingerprint_of(model: SavedModel, index: bytes | None, content: bytes | None = None) -> FingerprintDef:
    """The fingerprint of `model`, whose bundle has the index file content `index` (None: it has no variables).

    `content` is the model's canonical serialisation, where the caller has it already.
    """
    meta_graph = model.meta_graphs[0]
    return _fingerprint(
        canonical(model) if content is None else content,
        canonical(_regular(meta_graph.graph_def)),
        _signature_hash(meta_graph.signature_def),
        _functions_hash(meta_graph.object_graph_def.concrete_functions),
        index,
    )


def fingerprint_of_weights(model: bytes, program: bytes, index: bytes) -> FingerprintDef:
    """The same for a model without signatures and functions that is serialised canonically; `program` as `RestoreGraph` has it."""
    return _fingerprint(model, program, 0, 0, index)


def differences(stored: FingerprintDef, content: bytes, model: SavedModel, index: bytes | None) -> list[str]:
    """The names of the hashes in `stored` that are not those of `model`, which was read from `content`."""
    meta_graph = model.meta_graphs[0]
    found = {
        "saved_model_checksum": _is_hash_of(stored.saved_model_checksum, content, model),
        "graph_def_program_hash": _is_hash_of(stored.graph_def_program_hash, None, _regular(meta_graph.graph_def)),
        "signature_def_hash": stored.signature_def_hash == _signature_hash(meta_graph.signature_def),
        "saved_object_graph_hash": stored.saved_object_graph_hash
        == _functions_hash(meta_graph.object_graph_def.concrete_functions),
        "checkpoint_hash": stored.checkpoint_hash == (0 if index is None else fingerprint64(index)),
    }
    return [name for name, is_equal in found.items() if not is_equal]


def _is_hash_of(expected: int, content: bytes | None, message: Message) -> bool:
    """Whether `expected` is the hash of the message, by the cheap serialisations first: they mostly are the canonical one."""
    if content is not None and fingerprint64(content) == expected:
        return True
    return expected in (fingerprint64(made(message)) for made in (deterministic, canonical))


def _fingerprint(model: bytes, program: bytes, signatures: int, functions: int, index: bytes | None) -> FingerprintDef:
    made = FingerprintDef(
        saved_model_checksum=fingerprint64(model),
        graph_def_program_hash=fingerprint64(program),
        signature_def_hash=signatures,
        saved_object_graph_hash=functions,
        checkpoint_hash=0 if index is None else fingerprint64(index),
    )
    made.version.producer = PRODUCER
    made.uuid = _uuid(made)
    return made


def _regular(graph_def: GraphDef) -> GraphDef:
    """A copy that changes when the computation does, not with function numbers, device counts or paths in constants."""
    regular = GraphDef.FromString(graph_def.SerializeToString())
    for node in regular.node:
        if node.op in _CALLS:
            name = node.attr["f"].func.name
            node.attr["f"].func.name = name.removesuffix(_number_at_end(name) or "")
            if "config_proto" in node.attr:
                node.attr["config_proto"].s = b""
        elif node.op == "Const" and node.attr["dtype"].type == STRING.enum:
            node.attr["value"].Clear()
    # TensorFlow touches both before it clears them, so that they are present and empty
    regular.library.Clear()
    regular.library.SetInParent()
    regular.versions.Clear()
    regular.versions.SetInParent()
    return regular


_CALLS = frozenset(["PartitionedCall", "StatefulPartitionedCall"])


def _signature_hash(signatures: Mapping[str, SignatureDef]) -> int:
    result = 0
    for key in sorted(signatures):
        result = _joined(result, fingerprint64(key.encode()))
        result = _joined(result, fingerprint64(canonical(signatures[key])))
    return result


def _functions_hash(functions: Mapping[str, SavedConcreteFunction]) -> int:
    """0 where a name does not end in a number: TensorFlow itself fails there."""
    numbered: dict[int, str] = {}
    for name in functions:
        end = _number_at_end(name)
        if end is None:
            return 0
        numbered[int(end)] = name
    result = 0
    for number, name in sorted(numbered.items()):
        result = _joined(result, fingerprint64(name.removesuffix(str(number)).encode()))
        result = _joined(result, fingerprint64(canonical(functions[name])))
    return result


def _number_at_end(name: str) -> str | None:
    """The number after the last underscore, without leading zeros; None where there is none."""
    end = name.rpartition("_")[2]
    return str(int(end)) if end.isascii() and end.isdigit() else None


def _joined(first: int, second: int) -> int:
    """FarmHash's way to make one fingerprint of two, modulo 2**64."""
    result = first ^ _MULTIPLIER
    result ^= _mixed(second * _MULTIPLIER & _MASK) * _MULTIPLIER & _MASK
    result = result * _MULTIPLIER & _MASK
    result = _mixed(result) * _MULTIPLIER & _MASK
    return _mixed(result)


def _mixed(value: int) -> int:
    return value ^ value >> 47


def _uuid(fingerprint: FingerprintDef) -> str:
    hashes = struct.pack(
        "<5Q",
        fingerprint.saved_model_checksum,
        fingerprint.graph_def_program_hash,
        fingerprint.signature_def_hash,
        fingerprint.saved_object_graph_hash,
        fingerprint.checkpoint_hash,
    )
    low, high = fingerprint128(hashes)
    return str(high << 64 | low)
