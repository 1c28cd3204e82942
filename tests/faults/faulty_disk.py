"""A file system that does what a test asks of it: a script, run as `faulty_disk.py MOUNTPOINT`; lives in memory, in a process of its own.

It takes requests on stdin, one JSON object a line, and answers each with one on stdout (see `Control`); it unmounts and ends when stdin
ends. Nothing is cached by the kernel, so that every operation of a program arrives here.

It is no pass-through: what a program has written and not synced must be possible to take back, and no disk below would do that.
"""

# ruff: noqa: D102, PLR0917 - what each operation is, and what it takes, pyfuse3.Operations says

import contextlib
import errno
import json
import os
import stat
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pyfuse3
import trio
from disk_model import ROOT, Disk, DiskError, Kept, Node

SIZE_BYTES = 1 << 40
_BLOCK_BYTES = 4096
_HANDLERS = 64  # operations at a time; one that is held must not hold up the others

# A lasting fault is met by these operations too, besides the one that met it first.
_WRITING = {"create", "mkdir", "write"}
_CHANGING = {*_WRITING, "rename", "unlink", "rmdir", "setattr", "access"}
_ALL = {*_CHANGING, "open", "opendir", "read", "readdir", "fsync", "fsyncdir", "lookup", "getattr", "statfs"}
LASTING = {errno.ENOSPC: _WRITING, errno.EDQUOT: _WRITING, errno.EROFS: _CHANGING, errno.EACCES: _CHANGING | {"open"}}


@dataclass
class Fault:
    """What is to happen at the `nth` operation of a kind on a path that begins with `under`, and how often it has happened.

    `effect` is an errno, "short" for half of the bytes that were asked for, "zeros" for bytes that nobody wrote, "hold" until released.
    With `lasting` it goes on to happen.
    """

    kind: str
    nth: int
    effect: int | str
    under: str = ""
    lasting: bool = False
    met: int = 0
    fired: int = 0
    happened: trio.Event = field(default_factory=trio.Event)
    released: trio.Event = field(default_factory=trio.Event)

    def concerns(self, kind: str, path: str) -> bool:
        """Whether it happens to this operation."""
        if not path.startswith(self.under):
            return False
        if self.fired and self.lasting:
            happens = kind == self.kind or kind in LASTING.get(self.effect, _ALL)
        else:
            self.met += kind == self.kind
            happens = kind == self.kind and self.met == self.nth
        if happens:
            self.fired += 1
            self.happened.set()
        return happens


class FaultyDisk(pyfuse3.Operations):
    """The file system. `disk` is what it holds, `power_ends` the number of acts after which nothing goes any more."""

    enable_writeback_cache = False

    def __init__(self) -> None:
        super().__init__()
        self.disk = Disk()
        self.fault: Fault | None = None
        self.power_ends: int | None = None
        self.counts: Counter[str] = Counter()
        self._paths = {ROOT: ""}

    async def _meet(self, kind: str, path: str) -> str:
        """Let the fault happen, if it is to happen here; what is to become of the bytes, where there are any."""
        fault = self.fault
        if fault is not None and path.startswith(fault.under):
            self.counts[kind] += 1
        if self.power_ends is not None and len(self.disk.acts) >= self.power_ends:
            raise pyfuse3.FUSEError(errno.EIO)
        if fault is None or not fault.concerns(kind, path):
            return ""
        if fault.effect == "hold":
            await fault.released.wait()
        elif isinstance(fault.effect, int):
            raise pyfuse3.FUSEError(fault.effect)
        return str(fault.effect)

    def _node(self, number: int) -> Node:
        """A node that the kernel knows; of what a power loss or a reset took it may still ask."""
        with refusals():
            return self.disk.node(number)

    def _path(self, parent: int, name: bytes) -> str:
        above = self._paths[parent]
        return f"{above}/{name.decode()}" if above else name.decode()

    def _attributes(self, node: Node) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        directory = node.entries is not None
        entry.st_ino = node.number
        entry.st_mode = stat.S_IMODE(node.mode) | (stat.S_IFDIR if directory else stat.S_IFREG)
        entry.st_nlink = 2 if directory else 1
        entry.st_size = 0 if directory else len(node.content)
        entry.st_blocks = -(-entry.st_size // 512)
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = node.mtime_ns
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def _named(self, parent: int, name: bytes, node: Node) -> pyfuse3.EntryAttributes:
        self._paths[node.number] = self._path(parent, name)
        return self._attributes(node)

    async def lookup(self, parent_inode, name, ctx):
        await self._meet("lookup", self._path(parent_inode, name))
        with refusals():
            return self._named(parent_inode, name, self.disk.look_up(parent_inode, name))

    async def getattr(self, inode, ctx):
        await self._meet("getattr", self._paths[inode])
        return self._attributes(self._node(inode))

    async def setattr(self, inode, attr, fields, fh, ctx):
        await self._meet("setattr", self._paths[inode])
        if fields.update_size:
            self.disk.resize(self._node(inode).number, attr.st_size)
        if fields.update_mtime:
            self.disk.set_mtime(self._node(inode).number, attr.st_mtime_ns)
        if fields.update_mode:
            self.disk.set_mode(self._node(inode).number, attr.st_mode)
        return self._attributes(self._node(inode))

    async def access(self, inode, mode, ctx):
        if mode & os.W_OK:
            await self._meet("access", self._paths[inode])
        return True

    async def create(self, parent_inode, name, mode, flags, ctx):
        await self._meet("create", self._path(parent_inode, name))
        with refusals():
            node = self.disk.make(parent_inode, name, mode, directory=False)
        return self._opened(node.number), self._named(parent_inode, name, node)

    async def mkdir(self, parent_inode, name, mode, ctx):
        await self._meet("mkdir", self._path(parent_inode, name))
        with refusals():
            return self._named(parent_inode, name, self.disk.make(parent_inode, name, mode, directory=True))

    async def open(self, inode, flags, ctx):
        await self._meet("open", self._paths[inode])
        self._node(inode)
        if flags & os.O_TRUNC:
            self.disk.resize(inode, 0)
        return self._opened(inode)

    @staticmethod
    def _opened(inode: int) -> pyfuse3.FileInfo:
        return pyfuse3.FileInfo(fh=inode, direct_io=True, keep_cache=False)

    async def read(self, fh, off, size):
        effect = await self._meet("read", self._paths[fh])
        found = bytes(self._node(fh).content[off : off + size])
        if effect == "zeros":
            return bytes(len(found))
        return found[: max(len(found) // 2, 1)] if effect == "short" else found

    async def write(self, fh, off, buf):
        if await self._meet("write", self._paths[fh]) == "short":
            buf = buf[: max(len(buf) // 2, 1)]
        self.disk.write(self._node(fh).number, off, bytes(buf))
        return len(buf)

    async def fsync(self, fh, datasync):
        await self._meet("fsync", self._paths[fh])
        self.disk.sync(self._node(fh).number)

    async def opendir(self, inode, ctx):
        await self._meet("opendir", self._paths[inode])
        with refusals():
            return self.disk.directory(inode).number

    async def fsyncdir(self, fh, datasync):
        await self._meet("fsyncdir", self._paths[fh])
        self.disk.sync(self._node(fh).number)

    async def readdir(self, fh, start_id, token):
        await self._meet("readdir", self._paths[fh])
        entries = sorted((self._node(fh).entries or {}).items())
        for place, (name, number) in enumerate(entries[start_id:], start=start_id + 1):
            if not pyfuse3.readdir_reply(token, name, self._named(fh, name, self._node(number)), place):
                break

    async def rename(self, parent_inode_old, name_old, parent_inode_new, name_new, flags, ctx):
        await self._meet("rename", self._path(parent_inode_old, name_old))
        if flags & ~pyfuse3.RENAME_NOREPLACE:
            raise pyfuse3.FUSEError(errno.EINVAL)
        with refusals():
            self.disk.rename(parent_inode_old, name_old, parent_inode_new, name_new, replace=not flags)

    async def unlink(self, parent_inode, name, ctx):
        await self._meet("unlink", self._path(parent_inode, name))
        with refusals():
            self.disk.remove(parent_inode, name, directory=False)

    async def rmdir(self, parent_inode, name, ctx):
        await self._meet("rmdir", self._path(parent_inode, name))
        with refusals():
            self.disk.remove(parent_inode, name, directory=True)

    async def statfs(self, ctx):
        await self._meet("statfs", "")
        found = pyfuse3.StatvfsData()
        found.f_bsize = found.f_frsize = _BLOCK_BYTES
        found.f_blocks = found.f_bfree = found.f_bavail = SIZE_BYTES // _BLOCK_BYTES
        found.f_files = found.f_ffree = found.f_favail = 1 << 20
        found.f_namemax = 255
        return found

    async def flush(self, fh):
        """Nothing is held back."""

    async def release(self, fh):
        """Nothing is kept for a descriptor."""

    async def releasedir(self, fh):
        """Nothing is kept for a descriptor."""

    async def forget(self, inode_list):
        """Nodes stay: a cut may bring them back."""


@contextlib.contextmanager
def refusals():
    """What the disk refuses, as the kernel wants to hear it."""
    try:
        yield
    except DiskError as error:
        raise pyfuse3.FUSEError(error.errno) from None


class Control:
    """What a test may ask for; each method answers one request."""

    def __init__(self, system: FaultyDisk) -> None:
        self._system = system
        self._cut_from = system.disk
        self._armed = Fault("none", 0, 0)

    async def arm(self, **fault: Any) -> None:
        """Have one fault happen, in place of any other; operations are counted anew."""
        self._armed = self._system.fault = Fault(**fault)
        self._system.counts.clear()

    async def clear(self) -> int:
        """No fault any more; how often it has happened."""
        self._system.fault = None
        self._armed.released.set()
        return self._armed.fired

    async def fired(self) -> int:
        """How often the fault that was armed last has happened."""
        return self._armed.fired

    async def happened(self) -> None:
        """Wait until the fault has happened: until an operation is held, where that is what it does."""
        await self._armed.happened.wait()

    async def counts(self) -> dict[str, int]:
        """How many operations there were of each kind, where the fault that is armed might have happened."""
        return dict(self._system.counts)

    async def acts(self) -> list[str]:
        """The acts since the beginning, each by its name."""
        return [name.removeprefix("_") for name, _ in self._system.disk.acts]

    async def position(self) -> int:
        """How many acts there were since the beginning."""
        return len(self._system.disk.acts)

    async def reset(self) -> None:
        """An empty disk. No file may be open."""
        await self.clear()
        self._system.power_ends = None
        self._system.disk.format()
        await self.begin()

    async def begin(self) -> None:
        """Take what is there as durable, and count acts from here."""
        self._system.disk.begin()
        self._cut_from = self._system.disk

    async def end_power(self, acts: int) -> None:
        """Refuse everything from the act of that number on."""
        self._system.power_ends = acts

    async def cut(self, acts: int, kept: str) -> None:
        """Come up after a power loss behind so many acts of what was done since the last `begin`. No file may be open."""
        self._system.power_ends = None
        # no number twice: the kernel remembers those of the life after an earlier cut, too
        self._system.disk = self._cut_from.cut(acts, Kept(kept), unused=self._system.disk.unused)

    async def cuts(self, kept: str) -> list[int]:
        """After how many acts since the last `begin` a power loss leaves something else than one act earlier."""
        return list(self._cut_from.cuts(Kept(kept)))

    async def tree(self) -> dict[str, str | None]:
        """Every path, and the content of files as latin-1."""
        found = self._system.disk.tree()
        return {path: None if content is None else content.decode("latin-1") for path, content in found.items()}


def answer(value: Any) -> None:
    """One line."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


async def obey(control: Control) -> None:
    """Answer requests until there are no more; a test that ends while one waits for its answer ends that too."""

    async def answer_to(line: bytes) -> None:
        name, arguments = json.loads(line)
        answer(await getattr(control, name)(**arguments))

    buffer = b""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as requests, trio.open_nursery() as nursery:
        async for received in requests:
            buffer += received
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                nursery.start_soon(answer_to, line)
        nursery.cancel_scope.cancel()


async def main(mountpoint: str) -> None:
    """Serve until stdin ends."""
    system = FaultyDisk()
    options = set(pyfuse3.default_options) - {"default_permissions"} | {"fsname=faulty-disk"}
    pyfuse3.init(system, mountpoint, options)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3.main, 1, _HANDLERS)
            answer(None)  # it is there
            await obey(Control(system))
            nursery.cancel_scope.cancel()
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
