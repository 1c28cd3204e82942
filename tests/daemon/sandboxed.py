"""A command inside the sandbox of a unit, as far as it can be had without systemd as process 1: `sandboxed.py UNIT WRITABLE COMMAND...`.

Root starts it in mount and network namespaces of its own, by unshare(1). It reads the unit and does what systemd would: /proc of own processes
only, no homes, nothing writable but one directory, a user without rights, no new executable memory, the unit's system calls and sockets.
"""

import ctypes
import errno
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

NOBODY = 65534
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_SET_MDWE = 24, 38, 65
_LAST_CAPABILITY = 40
_ALLOW, _ERRNO, _NOT_EQUAL, _EQUAL = 0x7FFF0000, 0x00050000, 1, 4


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp of <seccomp.h>."""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def settings(unit: Path) -> dict[str, list[str]]:
    """The unit's keys, each with its values in order."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def call(*command: str) -> None:
    """Run a command of the system."""
    subprocess.run(command, check=True)


def confine_files(unit: dict[str, list[str]], writable: Path) -> None:
    """ProtectHome, ProtectSystem=strict with one directory writable, ProtectProc."""
    if unit["ProtectHome"] == ["yes"]:
        hide_homes()
    if unit["ProtectSystem"] == ["strict"]:
        call("mount", "--bind", str(writable), str(writable))
        call("mount", "-o", "remount,bind,ro", "/")
    call("mount", "-t", "proc", "-o", f"hidepid={unit['ProtectProc'][0]}", "proc", "/proc")


def hide_homes() -> None:
    """Empty directories over /root and /home, but for the Python that runs this, where it lies there."""
    prefix = Path(sys.base_prefix)
    at_home = prefix.is_relative_to("/root") or prefix.is_relative_to("/home")
    if at_home:
        call("mount", "--bind", str(prefix), "/mnt")
    for home in ("/root", "/home"):
        call("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", home)
    if at_home:
        prefix.mkdir(parents=True)
        call("mount", "--bind", "/mnt", str(prefix))


def drop_rights() -> None:
    """CapabilityBoundingSet=, NoNewPrivileges, User; whoever is in no group and has no capability."""
    prctl = ctypes.CDLL(None).prctl
    for capability in range(_LAST_CAPABILITY + 1):
        prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    if prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError("no_new_privs is refused")


def deny_executable_memory() -> None:
    """MemoryDenyWriteExecute; kernels before 6.3 cannot."""
    if ctypes.CDLL(None).prctl(_PR_SET_MDWE, 1, 0, 0, 0):
        sys.stderr.write("MemoryDenyWriteExecute is not tried: the kernel is too old\n")


def allowed_calls(unit: dict[str, list[str]]) -> set[str]:
    """The system calls of SystemCallFilter."""
    allowed: set[str] = set()
    for line in unit["SystemCallFilter"]:
        named = {call for group in line.lstrip("~").split() for call in expand(group)}
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed | expand("@default")


def expand(group: str) -> set[str]:
    """A group of system calls, as systemd has it."""
    if not group.startswith("@"):
        return {group}
    listed = subprocess.run(["systemd-analyze", "syscall-filter", group], check=True, capture_output=True, text=True)
    names = [line.strip() for line in listed.stdout.splitlines()[1:]]
    inner = {each for name in names if name.startswith("@") for each in expand(name)}
    return inner | {name for name in names if name and name[0] not in "@#"}


def filter_calls(unit: dict[str, list[str]], allowed: set[str]) -> None:
    """SystemCallFilter with SystemCallErrorNumber, and RestrictAddressFamilies=AF_UNIX."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    refused = _ERRNO | getattr(errno, unit["SystemCallErrorNumber"][0])
    context = ctypes.c_void_p(library.seccomp_init(refused))
    for name in allowed - {"socket"}:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:
            library.seccomp_rule_add(context, _ALLOW, number, 0)
    assert unit["RestrictAddressFamilies"] == ["AF_UNIX"]
    socket_call = library.seccomp_syscall_resolve_name(b"socket")
    rule = library.seccomp_rule_add_array
    for comparison, action in ((_EQUAL, _ALLOW), (_NOT_EQUAL, _ERRNO | errno.EAFNOSUPPORT)):
        family = _Comparison(0, comparison, socket.AF_UNIX, 0)
        assert rule(context, action, socket_call, 1, ctypes.byref(family)) == 0
    assert library.seccomp_load(context) == 0


def main() -> None:
    """Confine, then become the command."""
    unit, writable = settings(Path(sys.argv[1])), Path(sys.argv[2])
    allowed = allowed_calls(unit)
    confine_files(unit, writable)
    os.umask(int(unit["UMask"][0], 8))
    drop_rights()
    deny_executable_memory()
    filter_calls(unit, allowed)
    os.execv(sys.argv[3], sys.argv[3:])


if __name__ == "__main__":
    main()
