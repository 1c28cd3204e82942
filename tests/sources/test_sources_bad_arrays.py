"""Broken and hostile npz, npy and directories of npy: one clear error, never a crash, never a pickle."""

import os
import socket

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sources_builders import ZipMember, npy_bytes, npy_of, read_all, value_of, zip_bytes

from smdaemon.errors import DropError
from smdaemon.sources.formats import format_named, open_source

SMALL = npy_of(np.arange(3, dtype="<i4"))
PLAIN = b"{'descr': '<i2', 'fortran_order': False, 'shape': (2,), }\n"


def code_of(path, format_name="auto"):
    """The code that reading everything fails with."""
    with pytest.raises(DropError) as caught:
        read_all(path, format_name)
    assert caught.value.message == str(caught.value)
    assert caught.value.remedy
    return caught.value.code


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "source-truncated"),
        (b"\x93NUM", "source-truncated"),
        (b"not an array at all", "source-corrupt"),
        (npy_bytes(PLAIN, b"\0" * 4, version=1)[:6] + b"\x04\x00" + b"\0" * 20, "source-corrupt"),
        (npy_bytes(PLAIN, b"\0" * 3), "source-truncated"),
        (npy_bytes(PLAIN, b"\0" * 5), "source-corrupt"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + PLAIN, "source-header-too-large"),
        (b"\x93NUMPY\x01\x00\xff\xff" + PLAIN, "source-truncated"),
        (npy_bytes(b"\xff\xfe", version=3), "source-corrupt"),
        (npy_bytes(b"{" * 5000), "source-corrupt"),
        (npy_bytes(b"-" * 60000 + b"1"), "source-corrupt"),
        (npy_bytes(b"__import__('os').system('true')"), "source-corrupt"),
        (npy_bytes(b"[1, 2]"), "source-corrupt"),
        (npy_bytes(b"{'descr': '<i2', 'shape': ()}"), "source-corrupt"),
        (npy_bytes(b"{'descr': '<i2', 'fortran_order': False, 'shape': (), 'more': 1}"), "source-corrupt"),
        (npy_bytes(b"{'descr': '<i2', 'fortran_order': 0, 'shape': ()}"), "source-corrupt"),
        (npy_bytes(b"{'descr': '<i2', 'fortran_order': False, 'shape': (-1,)}"), "source-corrupt"),
        (npy_bytes(b"{'descr': '<i2', 'fortran_order': False, 'shape': (True,)}"), "source-corrupt"),
        (npy_bytes(b"{'descr': '<i2', 'fortran_order': False, 'shape': 3}"), "source-corrupt"),
        (npy_bytes(b"{'descr': '<i2', 'fortran_order': False, 'shape': (1, , 2), }\n"), "source-corrupt"),
        (
            npy_bytes(b"{'descr': '<i2', 'fortran_order': False, 'shape': (0, 99999999999999999999), }\n"),
            "source-corrupt",
        ),
        (
            npy_bytes(b"{'descr': '<i2', 'fortran_order': False, 'shape': (9999999999, 9999999999), }\n"),
            "source-truncated",
        ),
        (npy_bytes(b"{'descr': None, 'fortran_order': False, 'shape': ()}"), "source-corrupt"),
        (npy_bytes(b"{'descr': 'nonsense', 'fortran_order': False, 'shape': ()}"), "source-corrupt"),
        (npy_bytes(b"{'descr': '<f3', 'fortran_order': False, 'shape': (), }\n", b"abc"), "dtype-unsupported"),
        (npy_bytes(b"{'descr': '<f16', 'fortran_order': False, 'shape': (), }\n", b"0" * 16), "dtype-unsupported"),
        (npy_bytes(b"{'descr': '<U1', 'fortran_order': False, 'shape': (), }\n", b"\xff" * 4), "source-corrupt"),
        (npy_bytes(b"{'descr': '<U1', 'fortran_order': False, 'shape': (), }\n", b"\0\xd8\0\0"), "source-corrupt"),
        (npy_bytes(b"{'descr': '|S99999999', 'fortran_order': False, 'shape': (0,), }\n"), "dtype-unsupported"),
    ],
)
def test_bad_npy(tmp_path, content, code):
    """Each defect of an array file has its code."""
    (tmp_path / "x.npy").write_bytes(content)
    assert code_of(tmp_path / "x.npy") == code


@pytest.mark.parametrize(
    ("array", "code"),
    [
        (np.array([{"a": 1}], dtype=object), "source-pickled"),
        (np.zeros(2, dtype=[("a", "i4"), ("b", "f4")]), "dtype-unsupported"),
        (np.zeros(2, dtype="M8[s]"), "dtype-unsupported"),
        (np.zeros(2, dtype="m8[ms]"), "dtype-unsupported"),
        (np.zeros(2, dtype="V2"), "dtype-unsupported"),
        (np.zeros(2, dtype="g"), "dtype-unsupported"),
    ],
)
def test_arrays_that_tensorflow_cannot_store(tmp_path, array, code):
    """Objects are refused as pickles, other dtypes by name; the message names the tensor."""
    np.savez(tmp_path / "x.npz", good=np.arange(2), odd=array)
    with pytest.raises(DropError, match="'odd'") as caught:
        open_source(tmp_path / "x.npz")
    assert caught.value.code == code


def test_bfloat16_in_npy_names_the_way_out(tmp_path):
    """A .npy holds bfloat16 as nameless bytes: the remedy is another format."""
    import ml_dtypes

    np.save(tmp_path / "x.npy", np.zeros(2, dtype=ml_dtypes.bfloat16))
    with pytest.raises(DropError) as caught:
        open_source(tmp_path / "x.npy")
    assert caught.value.code == "dtype-unsupported"
    assert "safetensors" in caught.value.remedy


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ([], "source-empty"),
        ([ZipMember(b"a.npy", SMALL), ZipMember(b"a.npy", SMALL)], "name-clash"),
        ([ZipMember(b"../a.npy", SMALL)], "name-invalid"),
        ([ZipMember(b"a/../b.npy", SMALL)], "name-invalid"),
        ([ZipMember(b"/etc/a.npy", SMALL)], "name-invalid"),
        ([ZipMember(b"a\0b.npy", SMALL)], "name-invalid"),
        ([ZipMember(b".npy", SMALL)], "name-invalid"),
        ([ZipMember(b"data.pkl", b"\x80\x04.")], "source-corrupt"),
        ([ZipMember(b"\xff.npy", SMALL, flags=1 << 11)], "source-corrupt"),
        ([ZipMember(b"a.npy", SMALL, flags=1)], "source-corrupt"),
        ([ZipMember(b"a.npy", SMALL, method=12)], "source-corrupt"),
        ([ZipMember(b"a.npy", SMALL, crc=1)], "source-corrupt"),
        ([ZipMember(b"a.npy", SMALL, crc=1, method=8)], "source-corrupt"),
        ([ZipMember(b"a.npy", SMALL, unpacked_bytes=10**15)], "source-corrupt"),
        ([ZipMember(b"a.npy", SMALL[:20])], "source-corrupt"),
        ([ZipMember(b"a.npy", b"")], "source-corrupt"),
        ([ZipMember(b"a.npy", SMALL + b"\0")], "source-corrupt"),
        ([ZipMember(b"a.npy", SMALL, packed_bytes=10**6, unpacked_bytes=10**6)], "source-corrupt"),
        ([ZipMember(b"a.npy", SMALL), ZipMember(b"b.npy", SMALL, offset=5)], "source-corrupt"),
        ([ZipMember(b"a.npy", SMALL, offset=1)], "source-corrupt"),
        ([ZipMember(b"a.npy", SMALL, offset=0xFFFFFFFF)], "source-corrupt"),
    ],
)
def test_bad_npz(tmp_path, members, code):
    """Each defect of an archive has its code."""
    members = [m._replace(unpacked_bytes=min(m.unpacked_bytes, 0xFFFFFFF0)) if m.unpacked_bytes else m for m in members]
    (tmp_path / "x.npz").write_bytes(zip_bytes(members))
    assert code_of(tmp_path / "x.npz") == code


def _bomb(claimed, real):
    """A deflated member that claims an array of `claimed` bytes and unpacks to one of `real` bytes."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }\n" % claimed
    start = npy_bytes(header)
    return zip_bytes([ZipMember(b"a.npy", start + b"\0" * real, method=8, unpacked_bytes=len(start) + claimed)])


@pytest.mark.parametrize(("claimed", "real"), [(100, 10_000_000), (10_000_000, 100)])
def test_decompression_bombs_are_cut_at_the_declared_size(tmp_path, claimed, real):
    """A member that unpacks to more, or less, than its directory entry says is corrupt; no more than said is unpacked."""
    (tmp_path / "x.npz").write_bytes(_bomb(claimed, real))
    with open_source(tmp_path / "x.npz") as source:
        parts = source.tensors["a"].buffers()
        received = []
        with pytest.raises(DropError) as caught:
            received.extend(len(part) for part in parts)
    assert caught.value.code == "source-corrupt"
    assert sum(received) <= claimed


def test_highly_compressed_values_are_no_bomb(tmp_path):
    """Zeros shrink a thousandfold and are sound all the same."""
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros(3_000_001, "u1"))
    assert read_all(tmp_path / "x.npz") == {"a": value_of(np.zeros(3_000_001, "u1"))}


@settings(deadline=None, max_examples=300)
@given(
    content=st.sampled_from(
        [
            zip_bytes([ZipMember(b"a.npy", SMALL), ZipMember(b"b.npy", SMALL, method=8)]),
            SMALL,
            npy_of(np.asfortranarray(np.ones((2, 3)))),
            npy_of(np.array(["abc", "d"])),
        ]
    ),
    at=st.floats(0, 1, exclude_max=True),
    new=st.integers(0, 255),
)
def test_flipped_bytes_never_crash(content, at, new, tmp_path_factory):
    """A changed byte gives other values, or a DropError: nothing else, and no endless reading."""
    place = int(at * len(content))
    path = tmp_path_factory.getbasetemp() / ("flip.npz" if content[:2] == b"PK" else "flip.npy")
    path.write_bytes(content[:place] + bytes([new]) + content[place + 1 :])
    try:
        read_all(path)
        format_named(path.suffix[1:]).is_complete(path)
    except DropError:
        pass


def test_flipped_byte_in_a_stored_value_is_found(tmp_path):
    """The archive's checksum covers stored values, column-major ones too."""
    for array in (np.arange(1000), np.asfortranarray(np.ones((20, 30)))):
        content = bytearray(zip_bytes([ZipMember(b"a.npy", npy_of(array))]))
        content[1000] ^= 1
        (tmp_path / "x.npz").write_bytes(content)
        assert code_of(tmp_path / "x.npz") == "source-corrupt"


def test_bytes_before_or_after_the_archive_are_refused(tmp_path):
    """An archive with something glued to it is not what the trainer wrote."""
    content = zip_bytes([ZipMember(b"a.npy", SMALL)])
    (tmp_path / "before.npz").write_bytes(b"xx" + content)
    (tmp_path / "after.npz").write_bytes(content + b"xx")
    assert code_of(tmp_path / "before.npz") == "source-corrupt"
    assert code_of(tmp_path / "after.npz") == "source-truncated"
    with pytest.raises(DropError):
        format_named("npz").is_complete(tmp_path / "before.npz")
    assert not format_named("npz").is_complete(tmp_path / "after.npz")


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path):
    """A FIFO, a device, a socket or a directory in place of a file is an error at once."""
    os.mkfifo(tmp_path / "fifo.npz")
    (tmp_path / "device.npz").symlink_to("/dev/zero")
    (tmp_path / "folder.npz").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.npz"))
        for name in ("fifo.npz", "device.npz", "folder.npz", "socket.npz"):
            assert code_of(tmp_path / name, "npz") == "source-not-regular"
    (tmp_path / "loop.npz").symlink_to("loop.npz")
    assert code_of(tmp_path / "loop.npz", "npz") == "source-not-regular"


def test_links_are_followed_at_the_drop_but_not_inside(tmp_path):
    """The drop itself may be a link; a link inside a directory drop leads out of it and is refused."""
    np.savez(tmp_path / "real.npz", a=np.arange(2))
    (tmp_path / "link.npz").symlink_to("real.npz")
    assert set(read_all(tmp_path / "link.npz")) == {"a"}
    (tmp_path / "drop").mkdir()
    np.save(tmp_path / "outside.npy", np.arange(2))
    (tmp_path / "drop" / "a.npy").symlink_to("../outside.npy")
    assert code_of(tmp_path / "drop", "npydir") == "source-not-regular"
    (tmp_path / "drop" / "a.npy").unlink()
    (tmp_path / "drop" / "b").symlink_to(tmp_path)
    assert code_of(tmp_path / "drop", "npydir") == "source-not-regular"


@pytest.mark.parametrize("name", ["a..b", "x\udcff"])
def test_bad_file_names_in_a_directory(tmp_path, name):
    """File names that cannot be tensor names are refused."""
    (tmp_path / f"{name}.npy").write_bytes(SMALL)
    assert code_of(tmp_path, "npydir") == "name-invalid"


def test_empty_directory(tmp_path):
    """A directory without arrays is empty, a file is no directory."""
    assert code_of(tmp_path, "npydir") == "source-empty"
    (tmp_path / "x.npy").write_bytes(SMALL)
    assert code_of(tmp_path / "x.npy", "npydir") == "source-missing"
