"""Who may have the control socket's path, and what happens to what is there already."""

import os
import socket
import stat

import pytest

from smdaemon.control.sockets import open_listeners, open_tcp
from smdaemon.errors import ConfigError
from smdaemon.settings import SOCKET_PATH_BYTES
from smdaemon.unix_socket import open_unix


def listening(path):
    """A socket that somebody else listens on."""
    other = socket.socket(socket.AF_UNIX)
    other.bind(str(path))
    other.listen()
    return other


def refusal(code, path):
    """The ConfigError with which `path` is refused."""
    with pytest.raises(ConfigError) as caught:
        open_unix(path, 0o600, setting="control_socket")
    assert caught.value.code == code
    return caught.value


@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_mode_despite_umask(tmp_path, mode):
    """The file has exactly the permission bits that are asked for, and the umask is left alone."""
    before = os.umask(0o027)
    try:
        with open_unix(tmp_path / "s", mode, setting="control_socket"):
            assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == mode
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)


@pytest.mark.skipif(os.getuid() != 0, reason="gives a file another group: needs root")
@pytest.mark.parametrize("group", ["daemon", "1"])
def test_group_by_name_or_id(tmp_path, group):
    """The file is that group's, with the bits that are asked for."""
    with open_unix(tmp_path / "s", 0o660, group=group, setting="control_socket"):
        found = (tmp_path / "s").stat()
        assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (1, 0o660)


def test_a_group_that_may_not_have_it_is_told(tmp_path, monkeypatch):
    """As in the sandbox of the service, which knows no chown; nothing is left."""

    def refuse(*_arguments):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(ConfigError, match="cannot be given to the group 1") as refused:
        open_unix(tmp_path / "s", 0o660, group="1", setting="control_socket")
    assert "SocketGroup=" in refused.value.remedy
    assert not (tmp_path / "s").exists()
    open_unix(tmp_path / "s", 0o660, setting="control_socket").close()


def test_a_group_that_there_is_not_is_refused(tmp_path):
    """By the name of its key, before anything is made."""
    with pytest.raises(ConfigError, match="handoff_group: there is no group 'nobody-at-all'") as refused:
        open_unix(tmp_path / "s", 0o660, group="nobody-at-all", setting="handoff_socket")
    assert refused.value.code == "config-invalid"
    assert not (tmp_path / "s").exists()


def test_stale_socket_is_replaced(tmp_path):
    """A socket that nobody answers on was left by a dead daemon and is replaced."""
    path = tmp_path / "s"
    listening(path).close()
    with open_unix(path, 0o600, setting="control_socket"), socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(path))


def test_live_socket_is_refused(tmp_path):
    """A socket that somebody answers on is theirs."""
    path = tmp_path / "s"
    with listening(path):
        refusal("socket-in-use", path)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))


def test_live_socket_with_a_full_queue_is_refused(tmp_path):
    """A daemon too busy to accept is alive all the same."""
    path = tmp_path / "s"
    with listening(path) as busy:
        busy.listen(0)
        callers = []
        for _ in range(3):
            caller = socket.socket(socket.AF_UNIX)
            caller.setblocking(False)
            callers.append(caller)
            caller.connect_ex(str(path))
        refusal("socket-in-use", path)
        for caller in callers:
            caller.close()


@pytest.mark.parametrize("kind", ["file", "directory", "symlink"])
def test_foreign_file_is_never_touched(tmp_path, kind):
    """What is not a socket stays, even a link to a stale socket."""
    path = tmp_path / "s"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    else:
        listening(tmp_path / "real").close()
        path.symlink_to(tmp_path / "real")
    before = path.lstat()
    refusal("socket-path", path)
    assert path.lstat() == before


def test_parent_is_made_but_no_tree(tmp_path):
    """One missing directory is made; a missing path above it is a mistake."""
    with open_unix(tmp_path / "run" / "s", 0o600, setting="control_socket"):
        pass
    refusal("socket-path", tmp_path / "no" / "such" / "s")
    assert not (tmp_path / "no").exists()


def test_parent_is_a_file(tmp_path):
    """A parent that is no directory is named as the mistake."""
    (tmp_path / "run").write_text("")
    assert "not a directory" in str(refusal("socket-path", tmp_path / "run" / "s")).lower()


def test_longest_path(tmp_path, monkeypatch):
    """107 bytes are taken, one more is refused with the remedy, also when its characters are fewer."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / ("s" * (SOCKET_PATH_BYTES - len(os.fsencode(tmp_path)) - 1))
    with open_unix(path, 0o600, setting="control_socket"):
        assert path.is_socket()
    error = refusal("socket-path", path.with_name(path.name[:-1] + "é"))
    assert "108 bytes" in error.message
    assert "shorter path" in error.remedy


def test_own_file_is_removed_at_the_end(tmp_path):
    """At the end the file goes, and the sockets are closed."""
    path = tmp_path / "s"
    with open_listeners(path, 0o600, "127.0.0.1:0", []) as opened:
        assert path.is_socket()
    assert not path.exists()
    assert [each.fileno() for each in opened] == [-1, -1]


def test_file_of_a_successor_is_left(tmp_path):
    """A socket that another daemon has put in the place of ours is not removed."""
    path = tmp_path / "s"
    with open_listeners(path, 0o600, None, []):
        path.rename(tmp_path / "ours")  # keeps the inode in use, so that the successor's differs
        successor = listening(path)
    assert path.is_socket()
    successor.close()


def test_nothing_is_left_after_a_refusal(tmp_path):
    """When one address is refused the others are closed again."""
    with (
        pytest.raises(ConfigError),
        listening(tmp_path / "taken"),
        open_listeners(tmp_path / "taken", 0o600, "127.0.0.1:0", []),
    ):
        pytest.fail("it opened")


@pytest.mark.parametrize("address", ["127.0.0.1:0", "localhost:0", "[::1]:0", "127.8.8.8:0"])
def test_loopback_addresses(address):
    """The loopback network may be listened on, by either protocol."""
    try:
        open_tcp(address).close()
    except ConfigError as error:
        if "[::1]" not in address:
            raise
        pytest.skip(f"no IPv6 here: {error}")


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:80", ":80", "[::]:80", "10.1.2.3:80", "example.org:80", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:65536"],
)
def test_other_addresses_are_refused(address):
    """Everything that other machines reach, and what is no address, is refused."""
    with pytest.raises(ConfigError) as caught:
        open_tcp(address)
    assert caught.value.code == "config-invalid"


def test_taken_port():
    """A port that somebody listens on is reported as in use."""
    with open_tcp("127.0.0.1:0") as first, pytest.raises(ConfigError) as caught:
        open_tcp(f"127.0.0.1:{first.getsockname()[1]}")
    assert caught.value.code == "socket-in-use"


def test_inherited_socket_must_be_loopback():
    """A socket of the service manager that other machines reach is refused too."""
    inherited = socket.create_server(("0.0.0.0", 0))
    with pytest.raises(ConfigError) as caught, open_listeners(None, 0o600, None, [inherited]):
        pytest.fail("it opened")
    assert caught.value.code == "config-invalid"
    assert inherited.fileno() == -1
