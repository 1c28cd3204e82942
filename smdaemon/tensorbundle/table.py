"""The table: a file of sorted keys and values in blocks, and an index block that finds them. `*.index` is one.

Format: `doc/table_format.md` of google/leveldb; sizes and the rules for closing a block as TensorFlow has them.

    table      : data block*, metaindex block, index block, footer
    metaindex  : a block without entries
    index      : a block with a restart at every entry; key = a short separator after the data block's last key, value = its handle
    footer     : metaindex handle, index handle, zeros up to byte 40, u64le magic
"""

from collections.abc import Iterable, Iterator

from smdaemon.tensorbundle.blocks import (
    KEYS_LIMIT_BYTES,
    TRAILER_BYTES,
    decode_handle,
    encode_handle,
    finish_block,
    open_block,
    read_block,
    shared_bytes,
)
from smdaemon.tensorbundle.coding import corrupt, read_varint, varint
from smdaemon.tensorbundle.tensors import Buffer

BLOCK_BYTES = 262144
RESTART_INTERVAL = 16
FOOTER_BYTES = 48
MAGIC = bytes.fromhex("57fb808b247547db")


def write_table(items: Iterable[tuple[bytes, bytes]], block_bytes: int = BLOCK_BYTES) -> bytes:
    """The table of `items`, whose keys are strictly ascending (ValueError otherwise).

    A data block is closed once it reaches `block_bytes`, and before an entry of twice that size.
    """
    blocks: list[bytes] = []
    handles: list[tuple[bytes, bytes]] = []  # separator, handle
    written = 0
    for first_key, last_key, block in _data_blocks(items, block_bytes):
        if handles:
            separator, handle = handles[-1]
            handles[-1] = (_separator(separator, first_key), handle)
        handles.append((last_key, encode_handle(written, len(block) - TRAILER_BYTES)))
        blocks.append(block)
        written += len(block)
    if handles:
        handles[-1] = (_successor(handles[-1][0]), handles[-1][1])
    metaindex = finish_block((), (0,))
    index = _index_block(handles)
    footer = encode_handle(written, len(metaindex) - TRAILER_BYTES)
    footer += encode_handle(written + len(metaindex), len(index) - TRAILER_BYTES)
    return b"".join((*blocks, metaindex, index, footer.ljust(FOOTER_BYTES - len(MAGIC), b"\0"), MAGIC))


def _data_blocks(items: Iterable[tuple[bytes, bytes]], block_bytes: int) -> Iterator[tuple[bytes, bytes, bytes]]:
    """First key, last key and stored form of each data block."""
    parts: list[bytes] = []
    restarts = [0]
    size = since_restart = 0
    first = last = b""
    beginning = True
    # One loop with nothing called that could stand here: with 100,000 keys this is where the time goes.
    for key, value in items:
        if not beginning and key <= last:
            raise ValueError(f"key {key!r} does not come after {last!r}")
        if parts and len(key) + len(value) >= 2 * block_bytes:
            yield first, last, finish_block(parts, restarts)
            parts, restarts, size, since_restart = [], [0], 0, 0
        shared = 0
        if not parts:
            first = key
        elif since_restart < RESTART_INTERVAL:
            shared = shared_bytes(key, last)
        else:
            restarts.append(size)
            since_restart = 0
        unshared, value_bytes = len(key) - shared, len(value)
        if shared | unshared | value_bytes < 0x80:
            part = b"%c%c%c%b%b" % (shared, unshared, value_bytes, key[shared:], value)
        else:
            part = b"".join((varint(shared), varint(unshared), varint(value_bytes), key[shared:], value))
        parts.append(part)
        size += len(part)
        since_restart += 1
        last = key
        beginning = False
        if size + 4 * len(restarts) + 4 >= block_bytes:
            yield first, last, finish_block(parts, restarts)
            parts, restarts, size, since_restart = [], [0], 0, 0
    if parts:
        yield first, last, finish_block(parts, restarts)


def _index_block(handles: list[tuple[bytes, bytes]]) -> bytes:
    parts: list[bytes] = []
    restarts: list[int] = []
    size = 0
    for key, handle in handles:
        restarts.append(size)
        parts.append(b"".join((b"\0", varint(len(key)), varint(len(handle)), key, handle)))
        size += len(parts[-1])
    return finish_block(parts, restarts or (0,))


def _separator(key: bytes, following: bytes) -> bytes:
    """A short key, not before `key` and before `following`: what differs first, raised by one if that is room enough."""
    shared = shared_bytes(key, following)
    if shared >= min(len(key), len(following)):
        return key
    byte = key[shared]
    if byte < 0xFF and byte + 1 < following[shared]:
        return key[:shared] + bytes((byte + 1,))
    return key


def _successor(key: bytes) -> bytes:
    """A short key that is not before `key`: up to its first byte that can be raised by one."""
    for index, byte in enumerate(key):
        if byte != 0xFF:
            return key[:index] + bytes((byte + 1,))
    return key


def read_table(content: Buffer) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table, keys strictly ascending, block by block.

    Every checksum is checked. Raises DropError `bundle-corrupt` where the table contradicts its format.
    """
    content = memoryview(content)
    last: bytes | None = None
    unfolded = 0
    for block in data_blocks(content):
        for key, value in read_block(block, before=last):
            last = key
            unfolded += len(key)
            if unfolded > KEYS_LIMIT_BYTES:
                raise corrupt(f"the keys of the index take more than {KEYS_LIMIT_BYTES} bytes")
            yield key, value


def data_blocks(content: Buffer) -> Iterator[Buffer]:
    """The data blocks of a table, checked and decompressed, in the order of their keys.

    Raises DropError `bundle-corrupt` where footer, index block or a block's place and checksum contradict the format.
    """
    content = memoryview(content)
    if len(content) < FOOTER_BYTES:
        raise corrupt(f"an index of {len(content)} bytes is shorter than its footer")
    footer = content[-FOOTER_BYTES:]
    if footer[-len(MAGIC) :] != MAGIC:
        raise corrupt(f"the index ends with {bytes(footer[-len(MAGIC) :])!r}, which is not a table's mark")
    position = 0
    handle = []
    for _ in range(4):
        number, position = read_varint(footer, position, FOOTER_BYTES - len(MAGIC))
        handle.append(number)
    _stored(content, handle[0], handle[1])
    covered = 0
    for _, value in read_block(open_block(_stored(content, handle[2], handle[3]))):
        offset, size = decode_handle(value)
        if offset < covered:
            raise corrupt("two blocks of the index overlap")
        covered = offset + size + TRAILER_BYTES
        yield open_block(_stored(content, offset, size))


def _stored(content: memoryview, offset: int, size: int) -> memoryview:
    """The stored form of the block of that handle."""
    end = offset + size + TRAILER_BYTES
    if end > len(content) - FOOTER_BYTES:
        raise corrupt(f"a block at {offset}..{end} lies outside the index of {len(content)} bytes")
    return content[offset:end]
