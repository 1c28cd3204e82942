"""The directory of a zip archive, read strictly: what the members are called and where their bytes lie.

Follows PKWARE's APPNOTE 6.3 for what `.npz` files use: members stored or deflated, zip64, no encryption, no split archives,
nothing before the first member or after the directory. Not the standard library's reader, because that cuts names at NUL,
lets members overlap, and takes a quarter of a second for 20,000 members.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from smdaemon.errors import DropError
from smdaemon.sources.files import SourceFile

STORED, DEFLATED = 0, 8
LOCAL_BYTES = 30
"""The fixed part of a member's local header."""
MAX_DIRECTORY_BYTES = 256 << 20
"""About three million members."""

_END = struct.Struct("<4s4H2LH")  # signature, disk, start disk, entries here, entries, bytes, offset, comment length
_END64 = struct.Struct(
    "<4sQ2H2L4Q"
)  # signature, bytes, made by, needs, disk, start disk, entries here, entries, bytes, offset
_LOCATOR = struct.Struct("<4sLQL")  # signature, disk, offset of the END64, disks
_ENTRY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_ENCRYPTED, _UTF8 = 1 << 0, 1 << 11
_ESCAPE32, _ESCAPE16 = 0xFFFFFFFF, 0xFFFF  # the true number stands in the zip64 extra field
_ZIP64_EXTRA = 0x0001


class Member(NamedTuple):
    """One member; sizes and offsets in bytes."""

    name: str
    raw_name: bytes
    method: int
    crc: int
    packed_bytes: int
    unpacked_bytes: int
    header_offset: int


class _Directory(NamedTuple):
    """Where the directory lies and how many entries it has; it ends where the end record (zip64 or plain) begins."""

    offset: int
    nbytes: int
    entries: int
    end: int


def read_directory(file: SourceFile) -> list[Member] | None:
    """Every member in the order of the directory; None if the archive has no directory (yet)."""
    directory = _find_directory(file)
    if directory is None:
        return None
    if directory.offset + directory.nbytes != directory.end:
        raise _corrupt(
            file, f"its directory should end at byte {directory.offset + directory.nbytes}, but ends at {directory.end}"
        )
    if directory.nbytes > MAX_DIRECTORY_BYTES:
        raise DropError("source-header-too-large", f"{str(file.path)!r} claims a directory of {directory.nbytes} bytes")
    members = list(_members(file, file.read(directory.offset, directory.nbytes)))
    if len(members) != directory.entries:
        raise _corrupt(file, f"its directory holds {len(members)} members, but should hold {directory.entries}")
    _check_apart(file, members, directory.offset)
    return members


def data_offset(file: SourceFile, member: Member, local: bytes) -> int:
    """Where the member's bytes begin, by the fixed part of its local header."""
    signature, _, flags, method, _, _, _, _, _, name_bytes, extra_bytes = _LOCAL.unpack_from(local)
    if signature != b"PK\x03\x04":
        raise _corrupt(file, f"no member begins at byte {member.header_offset}, where {member.name!r} should")
    if flags & _ENCRYPTED or method != member.method:
        raise _corrupt(file, f"the two headers of {member.name!r} disagree")
    return member.header_offset + LOCAL_BYTES + int(name_bytes) + int(extra_bytes)


def _find_directory(file: SourceFile) -> _Directory | None:
    tail_bytes = min(file.size, _END.size + _ESCAPE16)
    tail_start = file.size - tail_bytes
    tail = file.read(tail_start, tail_bytes)
    at = tail.rfind(b"PK\x05\x06")
    while at >= 0:
        # the record is the end only if its comment reaches just to the end of the file
        if at + _END.size <= len(tail) and at + _END.size + _END.unpack_from(tail, at)[7] == len(tail):
            return _end_record(file, _END.unpack_from(tail, at), tail_start + at)
        at = tail.rfind(b"PK\x05\x06", 0, at)
    return None


def _end_record(file: SourceFile, end: tuple[int, ...], at: int) -> _Directory:
    _, disk, start_disk, entries_here, entries, nbytes, offset, _ = end
    locator_at = at - _LOCATOR.size
    if locator_at >= 0:
        signature, _, end64_at, disks = _LOCATOR.unpack(file.read(locator_at, _LOCATOR.size))
        if signature == b"PK\x06\x07":
            if disks != 1 or end64_at + _END64.size != locator_at:
                raise _corrupt(
                    file, f"its zip64 directory record should lie before byte {locator_at}, but lies at {end64_at}"
                )
            record = _END64.unpack(file.read(end64_at, _END64.size))
            if record[0] != b"PK\x06\x06" or record[4] or record[5] or record[6] != record[7]:
                raise _corrupt(file, "its zip64 directory record is unsound")
            return _Directory(offset=record[9], nbytes=record[8], entries=record[7], end=end64_at)
    if disk or start_disk or entries_here != entries:
        raise _corrupt(file, "it is one part of a split archive")
    return _Directory(offset, nbytes, entries, at)


def _members(file: SourceFile, directory: bytes) -> Iterator[Member]:
    at = 0
    while at < len(directory):
        if len(directory) - at < _ENTRY.size:
            raise _corrupt(file, "its directory ends within an entry")
        fields = _ENTRY.unpack_from(directory, at)
        (
            signature,
            _,
            _,
            flags,
            method,
            _,
            _,
            crc,
            packed,
            unpacked,
            name_len,
            extra_len,
            comment_len,
            disk,
            _,
            _,
            offset,
        ) = fields
        name_at = at + _ENTRY.size
        extra_at = name_at + name_len
        end = extra_at + extra_len + comment_len
        if signature != b"PK\x01\x02" or end > len(directory):
            raise _corrupt(file, "its directory holds an entry that is unsound")
        raw_name = directory[name_at:extra_at]
        try:
            name = raw_name.decode("utf-8" if flags & _UTF8 else "cp437")
        except UnicodeDecodeError:
            raise _corrupt(file, f"the member name {raw_name!r} is not UTF-8") from None
        if flags & _ENCRYPTED or disk not in {0, _ESCAPE16}:
            raise _corrupt(file, f"the member {name!r} is encrypted or lies in another part")
        if _ESCAPE32 in (packed, unpacked, offset):
            extra = directory[extra_at : extra_at + extra_len]
            unpacked, packed, offset = _from_zip64(file, name, extra, (unpacked, packed, offset))
        yield Member(name, raw_name, method, crc, packed, unpacked, offset)
        at = end


def _from_zip64(file: SourceFile, name: str, extra: bytes, values: tuple[int, int, int]) -> Iterator[int]:
    """The values, each that is escaped replaced by the next number of the zip64 extra field."""
    at = 0
    numbers: Iterator[tuple[int]] = iter(())
    while at + 4 <= len(extra):
        kind, nbytes = struct.unpack_from("<HH", extra, at)
        body = extra[at + 4 : at + 4 + nbytes]
        if kind == _ZIP64_EXTRA:
            numbers = struct.iter_unpack("<Q", body[: len(body) // 8 * 8])
            break
        at += 4 + nbytes
    for value in values:
        if value != _ESCAPE32:
            yield value
            continue
        number = next(numbers, None)
        if number is None:
            raise _corrupt(file, f"the zip64 sizes of the member {name!r} are missing")
        yield number[0]


def _check_apart(file: SourceFile, members: list[Member], directory_offset: int) -> None:
    """DropError unless the members lie one after the other before the directory, none within another."""
    free_from = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        if member.header_offset < free_from:
            raise _corrupt(file, f"the member {member.name!r} lies within another")
        free_from = member.header_offset + LOCAL_BYTES + len(member.raw_name) + member.packed_bytes
    if free_from > directory_offset:
        raise _corrupt(file, f"its members reach to byte {free_from}, beyond the directory at {directory_offset}")


def _corrupt(file: SourceFile, text: str) -> DropError:
    return DropError("source-corrupt", f"{str(file.path)!r} is not a sound zip archive: {text}")
