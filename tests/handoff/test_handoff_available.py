"""How much memory there is for handoffs, by the files in which the kernel tells it."""

import pytest

from smdaemon.handoff.available import available_bytes

MIB = 1 << 20


@pytest.fixture
def machine(tmp_path):
    """A machine with 1000 MiB left; a function that makes a control group on it."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {1000 << 10} kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/pod/container\n")

    def group(path, *, limit, used=0, cache=0):
        folder = tmp_path / "sys/fs/cgroup" / path
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used * MIB}\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache * MIB}\n")

    return tmp_path, group


def test_without_limits_the_machine_counts(machine):
    """No control group at all, one without a limit, an older kernel's groups."""
    root, group = machine
    assert available_bytes(root) == 1000 * MIB
    group("pod/container", limit="max", used=1)
    assert available_bytes(root) == 1000 * MIB
    (root / "proc/self/cgroup").write_text("4:memory:/pod\n")
    assert available_bytes(root) == 1000 * MIB
    (root / "proc/self/cgroup").unlink()
    assert available_bytes(root) == 1000 * MIB


def test_the_limit_of_a_container_counts_where_it_is_lower(machine):
    """Less what is used, but the page cache of idle files can be had."""
    root, group = machine
    group("pod/container", limit=500 * MIB, used=300, cache=100)
    assert available_bytes(root) == 300 * MIB


def test_the_limit_of_a_group_around_it_counts_too(machine):
    """A pod's limit holds for all of its containers together."""
    root, group = machine
    group("pod/container", limit=500 * MIB, used=100)
    group("pod", limit=450 * MIB, used=430)
    assert available_bytes(root) == 20 * MIB


def test_inside_a_container_its_group_is_the_top(machine):
    """With a namespace of its own the path is / and the limit is in the top directory."""
    root, group = machine
    (root / "proc/self/cgroup").write_text("0::/\n")
    group(".", limit=64 * MIB, used=65)
    assert available_bytes(root) == 0


def test_this_machine_tells():
    """The real files."""
    assert 0 < available_bytes() < 1 << 62
