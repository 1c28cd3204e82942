"""Arrays of numpy, the threads that copy them, and where parts of arrays lie."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from staging_kit import same, segment_for, stage

from smdaemon.errors import DropError
from smdaemon.staging import host
from smdaemon.staging.host import HostStager
from smdaemon.staging.shards import rows_of

DTYPES = ["float32", "float64", "float16", "int8", "uint16", "int64", "uint64", "bool", "complex64", "complex128"]
EXTENDED = ["bfloat16", "float8_e5m2", "float8_e4m3fn", "int4", "uint4"]


@pytest.mark.parametrize("name", DTYPES + EXTENDED)
def test_every_dtype_is_staged_bit_by_bit(name: str) -> None:
    """What lies in the buffer afterwards is the array."""
    dtype = np.dtype(getattr(ml_dtypes, name) if name in EXTENDED else name)
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    assert HostStager().spec(array).dtype == name
    [got] = stage(HostStager(), [array])
    same(got, array)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(4, 6).T,
        np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-1],
        np.asfortranarray(np.arange(24).reshape(2, 3, 4)),
        np.arange(12, dtype=">f8").reshape(3, 4),
        np.arange(12).astype(ml_dtypes.bfloat16).reshape(3, 4).T,
        np.broadcast_to(np.float32(3), (4, 5)),
        np.float32(2.5),
        np.zeros((3, 0), np.float32),
        np.array(7),
    ],
    ids=["transposed", "strided", "fortran", "big-endian", "bfloat16", "broadcast", "scalar", "empty", "0-d"],
)
def test_arrays_that_are_not_rows_of_bytes_are_staged(array: np.ndarray) -> None:
    """Strides and byte order are those of the buffer afterwards."""
    [got] = stage(HostStager(), [array])
    assert np.array_equal(got, array)
    assert got.dtype.isnative


def test_numbers_are_tensors() -> None:
    """Python's numbers have the dtypes that numpy gives them."""
    got = stage(HostStager(), [True, 3, 2.5, 1j])
    assert [each.dtype.name for each in got] == ["bool", "int64", "float64", "complex128"]
    assert [each.item() for each in got] == [True, 3, 2.5, 1j]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_large_arrays_are_copied_in_pieces(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of threads and pieces, all bytes arrive; also of arrays that are cut into rows."""
    monkeypatch.setattr(host, "PIECE_BYTES", 100)
    monkeypatch.setattr(host, "THREAD_BYTES", 1000)
    arrays = [np.arange(1000), np.arange(999).reshape(27, 37).T, np.arange(7, dtype=np.uint8)]
    for got, array in zip(stage(HostStager(), arrays, threads=threads), arrays, strict=True):
        same(got, array)


@pytest.mark.parametrize("least", [1, 1 << 20])
def test_an_error_of_one_copy_is_raised(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a thread is the caller's."""
    monkeypatch.setattr(host, "THREAD_BYTES", least)
    pieces = [(np.zeros(3), np.zeros(4)), *((np.zeros(3), np.ones(3)) for _ in range(5))]
    with pytest.raises(ValueError, match="broadcast"):
        host.copy_pieces(pieces, 3)


@pytest.mark.parametrize(
    "array",
    [
        np.array(["text"]),
        np.array([object()]),
        np.zeros(2, "datetime64[s]"),
        np.zeros(2, "f4, i4"),
        np.zeros(2, np.longdouble),
        np.zeros(2, ml_dtypes.float8_e4m3),
        np.zeros(2, ml_dtypes.float8_e3m4),
        np.zeros(2, ml_dtypes.float8_e8m0fnu),
        np.zeros(2, ml_dtypes.float8_e4m3fnuz),
        np.zeros(2, ml_dtypes.float8_e5m2fnuz),
        np.zeros(2, ml_dtypes.float8_e4m3b11fnuz),
    ],
    ids=lambda array: array.dtype.name,
)
def test_what_tensorflow_has_no_variables_of_is_refused(array: np.ndarray) -> None:
    """The error names the dtype."""
    with pytest.raises(DropError) as caught:
        HostStager().spec(array)
    assert caught.value.code == "dtype-unsupported"
    assert array.dtype.name in caught.value.message


@st.composite
def parts(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[slice, ...]]:
    """A shape, and a part of it."""
    shape = tuple(draw(st.lists(st.integers(1, 4), max_size=5)))
    index = []
    for size in shape:
        start = draw(st.integers(0, size - 1))
        stop = draw(st.integers(start, size))
        index.append(draw(st.sampled_from([slice(start, stop), slice(None)])))
    return shape, tuple(index)


@given(parts())
def test_rows_put_a_part_where_numpy_has_it(part: tuple[tuple[int, ...], tuple[slice, ...]]) -> None:
    """Copying by rows is assigning to the slice; one copy for each place in front of the last but one cut dimension."""
    shape, index = part
    wanted = np.zeros(shape, np.int32)
    values = np.arange(1, wanted[index].size + 1, dtype=np.int32).reshape(wanted[index].shape)
    wanted[index] = values
    got = bytearray(wanted.nbytes)
    copies = list(rows_of(shape, index, 4))
    for rows in copies:
        for row in range(rows.rows):
            target, source = rows.target + row * rows.target_pitch, rows.source + row * rows.source_pitch
            got[target : target + rows.width] = values.tobytes()[source : source + rows.width]
    assert bytes(got) == wanted.tobytes()
    cut = [axis for axis, size in enumerate(values.shape) if size != shape[axis]]
    assert len(copies) == (math.prod(values.shape[: cut[-2]] if cut[1:] else ()) if values.size else 0)


def test_a_cut_last_dimension_takes_one_copy() -> None:
    """A column of a matrix is one copy with a pitch."""
    [rows] = rows_of((4, 6), (slice(None), slice(2, 4)), 8)
    assert rows == (16, 48, 0, 16, 16, 4)


def test_views_of_a_buffer_end_with_the_copy() -> None:
    """Nothing that a stager keeps hinders a segment from being unmapped."""
    segment, into = segment_for([80])
    HostStager().copy([np.arange(10)], into, 2)
    for buffer in into:
        buffer.release()
    segment.release()
