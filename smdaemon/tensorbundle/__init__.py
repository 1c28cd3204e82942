"""TensorFlow's checkpoint format V2 (the tensor bundle), written and read without TensorFlow.

The format with worked bytes: docs/format-tensorbundle.md. The modules are a ladder, each uses those before it:
dtypes, tensors; coding, checksum, snappy; blocks, table; ordered, slices; entries, strings; files; writer, stored, assembly, reader.
"""

from smdaemon.tensorbundle.checksum import joined_checksum
from smdaemon.tensorbundle.dtypes import DTYPES, STRING, DType, dtype_named, dtype_numbered
from smdaemon.tensorbundle.entries import BundleEntry, BundleHeader
from smdaemon.tensorbundle.reader import BundleReader
from smdaemon.tensorbundle.slices import PartitionedTensor, TensorSlice
from smdaemon.tensorbundle.tensors import CHUNK_BYTES, ArrayTensor, Buffer, Tensor
from smdaemon.tensorbundle.writer import BundleFiles, write_bundle

__all__ = [
    "CHUNK_BYTES",
    "DTYPES",
    "STRING",
    "ArrayTensor",
    "Buffer",
    "BundleEntry",
    "BundleFiles",
    "BundleHeader",
    "BundleReader",
    "DType",
    "PartitionedTensor",
    "Tensor",
    "TensorSlice",
    "dtype_named",
    "dtype_numbered",
    "joined_checksum",
    "write_bundle",
]
