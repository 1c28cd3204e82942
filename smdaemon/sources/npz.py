"""The `.npz` format: a zip archive of `.npy` arrays, stored (numpy.savez) or deflated (numpy.savez_compressed)."""

import os
from pathlib import Path

from smdaemon.errors import DropError
from smdaemon.sources import zipdir
from smdaemon.sources.extents import Checksum, DeflatedExtent, StoredExtent, inflate_start
from smdaemon.sources.files import SourceFile
from smdaemon.sources.npyheader import USUAL_HEADER_BYTES, NpyHeader, header_bytes, parse_header, tensor_of
from smdaemon.sources.opened import FileSource, check_any, check_name, most_working_bytes
from smdaemon.sources.values import NumberTensor, TextTensor


class NpzFormat:
    """One `.npz` file; it has no metadata of its own."""

    name = "npz"
    suffix = ".npz"
    self_judging = True

    def claims(self, path: Path) -> bool:
        """See `Format`."""
        return path.name.endswith(self.suffix) and not os.path.isdir(path)  # noqa: PTH112 - this one never raises

    def is_complete(self, path: Path) -> bool:
        """Whether the archive's directory is there, which is written last, and every member lies before it."""
        file = SourceFile(path)
        try:
            start = file.read(0, min(file.size, 4))
            # an archive without members begins with its end record
            if start not in (b"PK\x03\x04"[: len(start)], b"PK\x05\x06"[: len(start)]):
                raise DropError("source-corrupt", f"{str(path)!r} does not begin like a zip archive: {start!r}")
            return zipdir.read_directory(file) is not None
        finally:
            file.close()

    def open(self, path: Path) -> FileSource:
        """See `Format`."""
        file = SourceFile(path)
        try:
            tensors = _tensors(file)
            check_any(tensors, path)
        except BaseException:
            file.close()
            raise
        return FileSource(self.name, path, tensors, {}, [file], working_bytes=most_working_bytes(tensors))


def _tensors(file: SourceFile) -> dict[str, NumberTensor | TextTensor]:
    members = zipdir.read_directory(file)
    if members is None:
        raise DropError("source-truncated", f"{str(file.path)!r} has no zip directory at its end")
    tensors: dict[str, NumberTensor | TextTensor] = {}
    for member in members:
        if member.name.endswith("/") and not member.unpacked_bytes:
            continue  # zip tools record directories so
        if not member.name.endswith(".npy"):
            raise DropError("source-corrupt", f"the member {member.name!r} of {str(file.path)!r} is not a .npy array")
        name = member.name.removesuffix(".npy")
        check_name(name)
        if name in tensors:
            raise DropError("name-clash", f"the tensor {name!r} is in {str(file.path)!r} twice")
        tensors[name] = _tensor(file, member, name)
    return tensors


def _tensor(file: SourceFile, member: zipdir.Member, name: str) -> NumberTensor | TextTensor:
    if member.method == zipdir.STORED:
        if member.packed_bytes != member.unpacked_bytes:
            raise DropError("source-corrupt", f"the member {member.name!r} is stored, but its two sizes differ")
    elif member.method != zipdir.DEFLATED:
        raise DropError(
            "source-corrupt",
            f"the member {member.name!r} is compressed by method {member.method}, neither stored nor deflated",
            remedy="write it with numpy.savez or numpy.savez_compressed",
        )
    # one read takes the member's local header and, nearly always, the array's header behind it
    guess = zipdir.LOCAL_BYTES + len(member.raw_name) + 64 + USUAL_HEADER_BYTES
    start = file.read(member.header_offset, min(guess, file.size - member.header_offset))
    if len(start) < zipdir.LOCAL_BYTES:
        raise DropError("source-truncated", f"{str(file.path)!r} ends within the member {member.name!r}")
    offset = zipdir.data_offset(file, member, start)
    if offset + member.packed_bytes > file.size:
        raise DropError("source-truncated", f"{str(file.path)!r} ends within the member {member.name!r}")
    known = start[offset - member.header_offset :][: member.packed_bytes]
    head, header = _array_header(file, member, name, offset, known)
    data_bytes = member.unpacked_bytes - header.data_start
    if data_bytes != header.data_bytes:
        raise DropError(
            "source-corrupt",
            f"{name!r} of shape {header.shape!r} has {header.data_bytes} bytes, but {data_bytes} are recorded",
        )
    what = f"the member {member.name!r}"
    checksum = Checksum(member.crc, head, what)
    extent: StoredExtent | DeflatedExtent
    if member.method == zipdir.STORED:
        extent = StoredExtent(file, offset + header.data_start, data_bytes, checksum)
    else:
        extent = DeflatedExtent(
            file,
            offset,
            member.packed_bytes,
            skip=header.data_start,
            nbytes=data_bytes,
            checksum=checksum,
            what=what,
        )
    return tensor_of(header, extent, name)


def _array_header(
    file: SourceFile, member: zipdir.Member, name: str, offset: int, known: bytes
) -> tuple[bytes, NpyHeader]:
    """The bytes of the array's header, and what they say; `known` is the start of the member's bytes."""
    head = _unpacked_start(file, member, offset, known, USUAL_HEADER_BYTES)
    nbytes = header_bytes(head, name)
    if nbytes is not None and nbytes > len(head):
        head = _unpacked_start(file, member, offset, known, nbytes)
    if nbytes is None or nbytes > len(head):
        raise DropError("source-corrupt", f"the member {member.name!r} ends within its array's header")
    return head[:nbytes], parse_header(head[:nbytes], name)


def _unpacked_start(file: SourceFile, member: zipdir.Member, offset: int, known: bytes, nbytes: int) -> bytes:
    """The first bytes of the member's content: `nbytes`, or fewer if it has no more."""
    nbytes = min(nbytes, member.unpacked_bytes)
    if member.method == zipdir.STORED:
        return known[:nbytes] if nbytes <= len(known) else file.read(offset, nbytes)
    what = f"the member {member.name!r}"
    head = inflate_start(iter([memoryview(known)]), nbytes, what)
    if len(head) < nbytes:
        head = inflate_start(file.chunks(offset, member.packed_bytes), nbytes, what)
    return bytes(head)
