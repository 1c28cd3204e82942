"""A disk that can lose its power, as plain values: what is there, what of it is durable, and what was done in which order.

POSIX promises little, and this model promises no more. Content is durable with a sync of its file; names (made, renamed, removed) are
durable with a sync of the directory they lie in. `Disk.cut` says what a power loss after any number of acts leaves behind.
"""

import errno
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

ROOT = 1


class Kept(StrEnum):
    """What is left of that which nobody synced: file systems differ, so the extremes are tried."""

    NOTHING = "nothing"
    NAMES = "names"
    """Names are there, content is as it was last synced: mostly empty."""
    LENGTHS = "lengths"
    """As NAMES, but files have their length, filled with zeros."""
    EVERYTHING = "everything"
    """The power stayed on, and only the process died."""


class DiskError(Exception):
    """An operation that the disk refuses; `errno` says why."""

    def __init__(self, number: int) -> None:
        super().__init__(errno.errorcode[number])
        self.errno = number


@dataclass
class Node:
    """A file (`entries` is None) or a directory. `synced` and `synced_entries` are what a power loss leaves of it."""

    number: int
    mode: int
    mtime_ns: int
    content: bytearray = field(default_factory=bytearray)
    entries: dict[bytes, int] | None = None
    synced: tuple[bytes, int] = (b"", 0)
    synced_entries: dict[bytes, int] = field(default_factory=dict)


class Disk:
    """The tree of nodes by their numbers. Every act that changes it, or makes something durable, is noted in `acts`."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.acts: list[tuple[str, tuple[Any, ...]]] = []
        self._next = ROOT + 1
        self._began: dict[int, Node] = {}
        self.format()

    def begin(self) -> None:
        """Take what is there as durable, and forget what was done."""
        for node in self.nodes.values():
            _sync(node)
        self.acts.clear()
        self._began = {number: _copy(node) for number, node in self.nodes.items()}

    def format(self) -> None:
        """Remove everything."""
        self.nodes = {ROOT: Node(ROOT, 0o755, 0, entries={})}
        self.begin()

    def look_up(self, parent: int, name: bytes) -> Node:
        """The node of that name in a directory."""
        entries = self.directory(parent).entries or {}
        if name not in entries:
            raise DiskError(errno.ENOENT)
        return self.nodes[entries[name]]

    def directory(self, number: int) -> Node:
        """The directory of that number."""
        node = self.node(number)
        if node.entries is None:
            raise DiskError(errno.ENOTDIR)
        return node

    def node(self, number: int) -> Node:
        """The node of that number; one that a power loss took is stale."""
        if number not in self.nodes:
            raise DiskError(errno.ESTALE)
        return self.nodes[number]

    def make(self, parent: int, name: bytes, mode: int, *, directory: bool) -> Node:
        """A new file or directory."""
        if name in (self.directory(parent).entries or {}):
            raise DiskError(errno.EEXIST)
        number = self._next
        self._act("_make", parent, name, number, mode, directory, time.time_ns())
        return self.nodes[number]

    def write(self, number: int, offset: int, content: bytes) -> None:
        """Write to a file."""
        self._act("_write", number, offset, content, time.time_ns())

    def resize(self, number: int, size: int) -> None:
        """Cut or lengthen a file."""
        self._act("_resize", number, size, time.time_ns())

    def set_mode(self, number: int, mode: int) -> None:
        """Change permission bits; taken for durable, since nothing hangs on them."""
        self.nodes[number].mode = mode

    def set_mtime(self, number: int, mtime_ns: int) -> None:
        """Change the time of modification."""
        self._act("_set_mtime", number, mtime_ns)

    def rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, *, replace: bool = True) -> None:
        """Rename; what has the new name goes, unless it may not be replaced."""
        node = self.look_up(parent, name)
        there = (self.directory(new_parent).entries or {}).get(new_name)
        if there is not None and there != node.number:
            if not replace:
                raise DiskError(errno.EEXIST)
            if self.nodes[there].entries:
                raise DiskError(errno.ENOTEMPTY)
        self._act("_rename", parent, name, new_parent, new_name, time.time_ns())

    def remove(self, parent: int, name: bytes, *, directory: bool) -> None:
        """Remove a name: of a file, or of an empty directory."""
        node = self.look_up(parent, name)
        if directory != (node.entries is not None):
            raise DiskError(errno.ENOTDIR if directory else errno.EISDIR)
        if node.entries:
            raise DiskError(errno.ENOTEMPTY)
        self._act("_remove", parent, name, time.time_ns())

    def sync(self, number: int) -> None:
        """Make content, or the names in a directory, durable."""
        self._act("_sync", number)

    @property
    def unused(self) -> int:
        """From this number on no node has had one."""
        return self._next

    def cut(self, acts: int, kept: Kept, unused: int = 0) -> Self:
        """The disk as it comes up again after a power loss behind so many acts; new nodes get numbers that none had before.

        Those below `unused` are had by others.
        """
        disk = self._at_the_beginning()
        for act in self.acts[:acts]:
            disk._do(act)
        disk.nodes = disk._left(kept)
        disk._next = max(self._next, unused)
        disk.begin()
        return disk

    def cuts(self, kept: Kept) -> Iterator[int]:
        """After how many acts a power loss leaves something else than one act earlier, 0 first."""
        disk = self._at_the_beginning()
        before = None
        for done in range(len(self.acts) + 1):
            if done:
                disk._do(self.acts[done - 1])
            left = disk._left(kept)
            if left != before:
                yield done
            before = left

    def _at_the_beginning(self) -> Self:
        disk = type(self)()
        disk.nodes = {number: _copy(node) for number, node in self._began.items()}
        return disk

    def tree(self, number: int = ROOT, path: str = "") -> dict[str, bytes | None]:
        """Every path below a directory: the content of a file, None for a directory."""
        found: dict[str, bytes | None] = {}
        for name, child in sorted((self.nodes[number].entries or {}).items()):
            below = f"{path}{name.decode()}"
            node = self.nodes[child]
            found[below] = bytes(node.content) if node.entries is None else None
            if node.entries is not None:
                found |= self.tree(child, f"{below}/")
        return found

    def _left(self, kept: Kept) -> dict[int, Node]:
        """The nodes that a power loss leaves, each as it leaves it; nothing is changed."""
        left: dict[int, Node] = {}
        waiting = [ROOT]
        while waiting:
            node = self.nodes[waiting.pop()]
            if node.number in left:
                continue
            left[node.number] = copy = Node(node.number, node.mode, node.mtime_ns)
            content, mtime_ns = node.synced
            if node.entries is not None:
                copy.entries = dict(node.synced_entries if kept is Kept.NOTHING else node.entries)
                copy.mtime_ns = mtime_ns if kept is Kept.NOTHING else node.mtime_ns
                waiting += copy.entries.values()
                continue
            length = len(node.content) if kept is Kept.LENGTHS else len(content)
            copy.content = bytearray(content[:length].ljust(length, b"\0"))
            if kept is Kept.EVERYTHING:
                copy.content = bytearray(node.content)
            elif mtime_ns:
                copy.mtime_ns = mtime_ns
        return left

    def _act(self, name: str, *arguments: Any) -> None:
        self._do((name, arguments))
        self.acts.append((name, arguments))

    def _do(self, act: tuple[str, tuple[Any, ...]]) -> None:
        name, arguments = act
        getattr(self, name)(*arguments)

    def _make(self, parent: int, name: bytes, number: int, mode: int, directory: bool, now: int) -> None:  # noqa: PLR0917 - an act is its arguments
        self.nodes[number] = Node(number, mode, now, entries={} if directory else None)
        self._next = max(self._next, number + 1)
        self._named(parent, now)[name] = number

    def _write(self, number: int, offset: int, content: bytes, now: int) -> None:
        node = self.nodes[number]
        if offset > len(node.content):
            node.content.extend(bytes(offset - len(node.content)))
        node.content[offset : offset + len(content)] = content
        node.mtime_ns = now

    def _resize(self, number: int, size: int, now: int) -> None:
        node = self.nodes[number]
        del node.content[size:]
        node.content.extend(bytes(size - len(node.content)))
        node.mtime_ns = now

    def _set_mtime(self, number: int, mtime_ns: int) -> None:
        self.nodes[number].mtime_ns = mtime_ns

    def _rename(self, parent: int, name: bytes, new_parent: int, new_name: bytes, now: int) -> None:
        number = self._named(parent, now).pop(name)
        self._named(new_parent, now)[new_name] = number

    def _remove(self, parent: int, name: bytes, now: int) -> None:
        del self._named(parent, now)[name]

    def _sync(self, number: int) -> None:
        _sync(self.nodes[number])

    def _named(self, number: int, now: int) -> dict[bytes, int]:
        """The names in a directory, which are about to change."""
        node = self.nodes[number]
        assert node.entries is not None
        node.mtime_ns = now
        return node.entries


def _sync(node: Node) -> None:
    node.synced = (bytes(node.content), node.mtime_ns)
    if node.entries is not None:
        node.synced_entries = dict(node.entries)


def _copy(node: Node) -> Node:
    entries = None if node.entries is None else dict(node.entries)
    copy = Node(node.number, node.mode, node.mtime_ns, bytearray(node.content), entries)
    _sync(copy)
    return copy
