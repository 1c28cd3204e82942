"""On which file systems does the kernel see every change? Not where another host, or a server behind FUSE, can write."""

import ctypes
import os

# statfs(2), f_type; the numbers stand in <linux/magic.h> and in the sources of the file systems named.
_REMOTE = {
    0x00006969: "nfs",
    0x0000517B: "smb",
    0xFF534D42: "cifs",
    0xFE534D42: "smb2",
    0x65735546: "fuse",
    0x01021997: "9p",
    0x0BD00BD0: "lustre",
    0x00C36400: "ceph",
    0x47504653: "gpfs",
    0x19830326: "beegfs",
    0xAAD7AAEA: "panfs",
    0x5346414F: "afs",
    0x6B414653: "afs",
    0x73757245: "coda",
    0x7461636F: "ocfs2",
    0x01161970: "gfs2",
    0x20030528: "orangefs",
    0x786F4256: "vboxsf",
}

# struct statfs is 120 bytes on 64-bit Linux; f_type comes first, as one machine word.
_STATFS_BYTES = 512


def type_of(path: str) -> int:
    """The file system's magic number; OSError where the path cannot be reached."""
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if libc.statfs(ctypes.c_char_p(os.fsencode(path)), buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    word = ctypes.c_long.from_buffer(buffer).value
    return word & 0xFFFFFFFF


def remote_kind(path: str) -> str | None:
    """The name of a file system on which others can write behind the kernel's back; None for a local one."""
    return _REMOTE.get(type_of(path))
