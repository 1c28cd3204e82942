"""The writer: threads and shards, progress and failure, and what it refuses."""

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from traceback import StackSummary, walk_stack
from typing import Any

import numpy as np
import pytest

from smdaemon.errors import DropError
from smdaemon.tensorbundle import (
    STRING,
    ArrayTensor,
    Buffer,
    BundleReader,
    DType,
    PartitionedTensor,
    TensorSlice,
    dtype_named,
    write_bundle,
)
from smdaemon.tensorbundle import files as output_files
from smdaemon.tensorbundle.writer import writing_threads

FLOAT32 = dtype_named("float32")


class FakeTensor:
    """A tensor that gives the buffers it is told to, whatever its shape promises."""

    def __init__(self, dtype: DType, shape: tuple[int, ...], *passes: list[bytes]) -> None:
        self.dtype = dtype
        self.shape = shape
        self._passes = list(passes)

    @property
    def nbytes(self) -> int:
        """The bytes of the next pass."""
        return sum(map(len, self._passes[0]))

    def buffers(self) -> Iterator[Buffer]:
        """The next pass; the last one again and again."""
        yield from self._passes[0] if len(self._passes) == 1 else self._passes.pop(0)


def arrays(count: int, elements: int) -> dict[str, ArrayTensor]:
    """`count` tensors of `elements` float32."""
    return {f"w{index:02d}": ArrayTensor(np.full(elements, index, np.float32)) for index in range(count)}


@pytest.mark.parametrize("shards", [2, 3, 7])
def test_several_shards_hold_runs_of_the_sorted_tensors(shards: int, tmp_path: Path):
    """Tensors of equal size fill the shards evenly, in the order of their names, and read back."""
    tensors = arrays(21, 50_000)
    files = write_bundle(tmp_path / "v", tensors, shards=shards, sync=False)
    assert [path.name for path in files.paths] == [f"v.data-{n:05d}-of-{shards:05d}" for n in range(shards)] + [
        "v.index"
    ]
    assert {path.stat().st_size for path in files.paths[:-1]} == {21 * 200_000 // shards} if 21 % shards == 0 else True
    with BundleReader(tmp_path / "v") as reader:
        reader.verify()
        shard_of = [entry.shard for _, entry in reader.entries()]
        assert shard_of == sorted(shard_of)
        assert set(shard_of) == set(range(shards))
        for index, key in enumerate(reader.keys()):
            assert (reader.array(key) == index).all()


def test_one_large_tensor_has_a_shard_of_its_own(tmp_path: Path):
    """Shards are balanced by bytes, and a tensor is never cut."""
    tensors = arrays(10, 10)
    tensors["w05"] = ArrayTensor(np.ones(1_000_000, np.float32))
    write_bundle(tmp_path / "v", tensors, shards=2, sync=False)
    with BundleReader(tmp_path / "v") as reader:
        assert reader.entry("w05").size == 4_000_000
        reader.verify()


def test_more_shards_than_tensors_are_files_without_bytes(tmp_path: Path):
    """Shards that nothing falls to exist and are empty; even a bundle of nothing has its files."""
    write_bundle(tmp_path / "one", arrays(1, 4), shards=4, sync=False)
    with BundleReader(tmp_path / "one") as reader:
        reader.verify()
        assert reader.header.shards == 4
    write_bundle(tmp_path / "none", {}, sync=True)
    with BundleReader(tmp_path / "none") as reader:
        reader.verify()
        assert reader.keys() == []


def test_the_order_of_the_mapping_does_not_matter(tmp_path: Path):
    """The same tensors give the same bytes."""
    tensors = arrays(9, 10)
    first = write_bundle(tmp_path / "a", tensors, sync=False)
    second = write_bundle(tmp_path / "b", dict(reversed(tensors.items())), sync=False)
    assert [path.read_bytes() for path in first.paths] == [path.read_bytes() for path in second.paths]


@pytest.mark.parametrize("processors", [1, 3])
def test_no_more_threads_write_than_there_are_processors(
    processors: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """However many the data files are; these are the same everywhere."""
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    threads: set[int] = set()

    def on_bytes(_count: int) -> None:
        threads.add(threading.get_ident())

    files = write_bundle(tmp_path / "v", arrays(20, 100_000), shards=5, on_bytes=on_bytes, sync=False)
    assert len(threads) <= writing_threads(5) == processors
    assert len(files.paths) == 6


def test_progress_adds_up_to_the_data(tmp_path: Path):
    """`on_bytes` is told every byte of the data files, from the threads that write."""
    lock = threading.Lock()
    told: list[int] = []

    def on_bytes(count: int) -> None:
        with lock:
            told.append(count)

    files = write_bundle(tmp_path / "v", arrays(8, 1_000_000), shards=2, on_bytes=on_bytes, sync=False)
    assert sum(told) == 8 * 4_000_000 == files.bytes_written - len(files.index)
    assert len(told) >= 8


@pytest.mark.parametrize("shards", [1, 2])
def test_what_progress_raises_stops_everything(shards: int, tmp_path: Path):
    """The exception comes out as it is; nothing is reported after it by that thread, and no file is left."""
    stop = RuntimeError("cancelled")

    def on_bytes(count: int) -> None:
        raise stop

    with pytest.raises(RuntimeError) as caught:
        write_bundle(tmp_path / "v", arrays(8, 1_000_000), shards=shards, on_bytes=on_bytes, sync=False)
    assert caught.value is stop
    assert list(tmp_path.iterdir()) == []


def test_a_failure_in_one_thread_stops_the_other(tmp_path: Path):
    """After the first failure another thread writes nothing further, though it has work for ever."""
    failed = threading.Event()

    class Endless(FakeTensor):
        def buffers(self) -> Iterator[Buffer]:
            while True:
                failed.wait(10)
                yield bytes(1 << 20)

    class Failing(FakeTensor):
        def buffers(self) -> Iterator[Buffer]:
            failed.set()
            raise OSError(errno.EIO, "gone")
            yield b""

    tensors = {"a": Endless(FLOAT32, (1 << 50,), [b"x" * 8]), "b": Failing(FLOAT32, (2,), [b"x" * 8])}
    with pytest.raises(OSError, match="gone"):
        write_bundle(tmp_path / "v", tensors, shards=2, sync=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["v.data-00000-of-00002", "v.data-00001-of-00002", "v.index"])
def test_a_file_that_exists_is_left_alone(name: str, tmp_path: Path):
    """No file is overwritten; those made before the collision are removed, the other's stays."""
    (tmp_path / name).write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        write_bundle(tmp_path / "v", arrays(2, 10), shards=2, sync=False)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"theirs"]


@pytest.mark.parametrize(
    "promised",
    [
        (FLOAT32, (2,), [b"1234"]),
        (FLOAT32, (2,), [b"1234", b"12345"]),
        (FLOAT32, (2,), []),
        (STRING, (2,), [b"a"]),
        (STRING, (1,), [b"a"], [b"bb"]),
        (STRING, (2,), [b"a", b"b"], [b"a"]),
        (STRING, (1,), [b"a"], [b"a", b"b"]),
    ],
)
def test_a_tensor_that_breaks_its_promise_is_refused(promised: tuple[Any, ...], tmp_path: Path):
    """Too few bytes, too many, or strings that change between the passes: the source changed."""
    with pytest.raises(DropError, match="'x'") as caught:
        write_bundle(tmp_path / "v", {"x": FakeTensor(*promised)}, sync=False)
    assert caught.value.code == "source-changed"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "\0a", "\ud800"])
def test_names_that_can_be_no_key_are_refused(name: str, tmp_path: Path):
    """The empty key is the header's, NUL begins the keys of slices, and a key is UTF-8."""
    with pytest.raises(DropError) as caught:
        write_bundle(tmp_path / "v", {name: ArrayTensor(np.ones(1))}, sync=False)
    assert caught.value.code == "name-invalid"


def test_shapes_that_tensorflow_cannot_have_are_refused(tmp_path: Path):
    """Negative dimensions and ranks beyond 254."""
    for shape in ((-1,), (1,) * 255):
        with pytest.raises(DropError) as caught:
            write_bundle(tmp_path / "v", {"x": FakeTensor(FLOAT32, shape, [bytes(4)])}, sync=False)
        assert caught.value.code == "bundle-invalid"
    write_bundle(tmp_path / "v", {"x": FakeTensor(FLOAT32, (1,) * 254, [bytes(4)])}, sync=False)
    with BundleReader(tmp_path / "v") as reader:
        assert reader.entry("x").shape == (1,) * 254


@pytest.mark.parametrize(
    ("dtype", "shape", "specs"),
    [
        ("float16", (4,), ["0,2", "2,2"]),
        ("float32", (4,), ["0,2", "1,2"]),
        ("float32", (4,), ["0,2"]),
        ("float32", (4,), []),
        ("float32", (4,), ["0,2", "3,2"]),
        ("float32", (2, 2), ["0,1:-", "0,1:0,2"]),
        ("float32", (4,), ["0,2:-", "2,2:-"]),
    ],
)
def test_partitions_that_are_none_are_refused(dtype: str, shape: tuple[int, ...], specs: list[str]):
    """Slices that overlap, miss something or lie outside, and dtypes that TensorFlow cannot join."""
    kind = dtype_named(dtype)
    slices = [TensorSlice.parse(spec) for spec in specs]
    parts = [
        (part, FakeTensor(kind, tuple(length if length >= 0 else 2 for _, length in part.extents), []))
        for part in slices
    ]
    with pytest.raises(DropError) as caught:
        PartitionedTensor(kind, shape, parts)
    assert caught.value.code == "bundle-invalid"


def test_slices_read_from_text_and_back():
    """TensorFlow's notation; what is no slice is refused."""
    for spec in ("", "-", "0,4:-", "3,1:0,2:-"):
        assert str(TensorSlice.parse(spec)) == spec
    for spec in ("a", "1", "1,2,3", "0,4:"):
        with pytest.raises(DropError):
            TensorSlice.parse(spec)


def test_arrays_in_any_order_are_written_in_row_major_little_endian(tmp_path: Path):
    """Transposed, strided, big-endian and read-only arrays keep their values."""
    base = np.arange(24, dtype=np.int32).reshape(4, 6)
    frozen = base.copy()
    frozen.flags.writeable = False
    arrays = {"t": base.T, "s": base[::2, 1::2], "b": base.astype(">i4"), "f": np.asfortranarray(base), "r": frozen}
    write_bundle(tmp_path / "v", {name: ArrayTensor(array) for name, array in arrays.items()}, sync=False)
    with BundleReader(tmp_path / "v") as reader:
        for name, array in arrays.items():
            np.testing.assert_array_equal(reader.array(name), array)


def test_a_short_write_is_carried_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the system takes only a part of a buffer, the rest follows."""
    whole = os.write
    monkeypatch.setattr(os, "write", lambda fd, buffer: whole(fd, memoryview(buffer)[: max(1, len(buffer) // 2)]))
    write_bundle(tmp_path / "v", arrays(3, 100_000), sync=False)
    with BundleReader(tmp_path / "v") as reader:
        reader.verify()


def test_an_index_that_reads_back_in_pieces_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the system gives only a part of what was asked for, the rest is asked for."""
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: whole(fd, min(count, 7), at))
    files = write_bundle(tmp_path / "v", arrays(3, 10), sync=False)
    assert (tmp_path / "v.index").read_bytes() == files.index


def test_what_is_written_is_synced_unless_that_is_not_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Every data file and the index."""
    synced: list[str] = []
    whole = os.fdatasync

    def fdatasync(fd: int) -> None:
        synced.append(Path(f"/proc/self/fd/{fd}").readlink().name)
        whole(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    write_bundle(tmp_path / "a", arrays(3, 10), sync=False)
    assert synced == []
    write_bundle(tmp_path / "v", arrays(3, 10), shards=2)
    assert sorted(synced) == ["v.data-00000-of-00002", "v.data-00001-of-00002", "v.index"]


def test_the_disk_is_set_to_work_on_every_part_of_a_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The parts follow each other from the start of the file."""
    advised: list[tuple[int, int]] = []
    monkeypatch.setattr(output_files, "_WRITEBACK_BYTES", 3 << 20)
    monkeypatch.setattr(os, "posix_fadvise", lambda _fd, start, count, _advice: advised.append((start, count)))
    write_bundle(tmp_path / "v", arrays(2, 2 << 20))
    assert advised == [(start << 20, 3 << 20) for start in range(0, 15, 3)]
    advised.clear()
    write_bundle(tmp_path / "w", arrays(2, 2 << 20), sync=False)
    assert advised == []


def test_every_thread_writes_in_the_context_of_the_caller(tmp_path: Path):
    """What confines reading here confines it there."""
    confinement = ContextVar("confinement", default="none")
    seen: list[str] = []

    class Looking(FakeTensor):
        def buffers(self) -> Iterator[Buffer]:
            seen.append(confinement.get())
            return super().buffers()

    confinement.set("root")
    tensors = {name: Looking(FLOAT32, (1,), [bytes(4)]) for name in "ab"}
    write_bundle(tmp_path / "v", tensors, shards=2, sync=False)
    assert seen == ["root", "root"]


def test_a_signal_that_another_thread_receives_is_handled_while_it_is_written(tmp_path: Path):
    """Its handler runs in the main thread, which waits for those that write: it is not put off until one of them has ended."""

    class StoppedError(Exception):
        pass

    def handler(*_: object) -> None:
        handled.set()
        raise StoppedError

    def main_waits() -> bool:
        stack = StackSummary.extract(
            walk_stack(sys._current_frames()[threading.main_thread().ident]), lookup_lines=False
        )
        names = [frame.name for frame in stack]
        return names[0] == "wait" and "_write_shards" in names and "submit" not in names

    class Signalled(FakeTensor):
        def buffers(self) -> Iterator[Buffer]:
            while not main_waits():
                pass
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            seen.append(handled.wait(60))
            return super().buffers()

    handled, seen = threading.Event(), []
    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(StoppedError):
            write_bundle(
                tmp_path / "v", {name: Signalled(FLOAT32, (1,), [bytes(4)]) for name in "ab"}, shards=2, sync=False
            )
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert all(seen)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [([bytes(4)], "promises 8 bytes and gives 4$"), ([bytes(12)], "promises 8 bytes and gives at least 12$")],
)
def test_a_tensor_that_breaks_its_promise_is_told_of_by_bytes(content: list[bytes], told: str, tmp_path: Path):
    """What it promised, and what it gave as far as that was asked for."""
    with pytest.raises(DropError, match=told):
        write_bundle(tmp_path / "v", {"x": FakeTensor(FLOAT32, (2,), content)}, sync=False)


def test_arrays_of_text_become_strings(tmp_path: Path):
    """UTF-8, whatever holds them; an array with anything else in it is refused, and its types are named."""
    texts = ["a", "ß", ""]
    write_bundle(
        tmp_path / "v", {"u": ArrayTensor(np.array(texts)), "o": ArrayTensor(np.array(texts, object))}, sync=False
    )
    with BundleReader(tmp_path / "v") as reader:
        for name in "uo":
            assert reader.string_elements(name) == [text.encode() for text in texts]
    with pytest.raises(DropError, match="holds NoneType, int, not only strings") as caught:
        ArrayTensor(np.array(["a", 1, None], object))
    assert caught.value.code == "dtype-unsupported"


def test_an_index_that_reads_back_otherwise_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The index is read back before the bundle counts as written."""
    whole = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: bytes(len(whole(fd, count, at))))
    with pytest.raises(OSError, match="reads back") as caught:
        write_bundle(tmp_path / "v", arrays(1, 1), sync=False)
    assert caught.value.errno == errno.EIO
    assert list(tmp_path.iterdir()) == []


def test_writing_plain_bytes_imports_neither_numpy_nor_protobuf(tmp_path: Path):
    """Who only moves bytes pays for no numpy and no protobuf."""
    code = """
import sys
from smdaemon.tensorbundle import write_bundle, dtype_named
class Plain:
    dtype, shape, nbytes = dtype_named("float32"), (2,), 8
    def buffers(self):
        yield bytes(8)
write_bundle(sys.argv[1], {"x": Plain()})
heavy = {"numpy", "ml_dtypes", "google.protobuf", "trio", "concurrent.futures"} & set(sys.modules)
sys.exit(f"imported {heavy}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "v")], check=True)


def test_keys_that_are_no_utf8_survive(tmp_path: Path):
    """A name with an undecodable byte, as Python holds it, is that byte in the index; slices of it are found."""
    whole = np.arange(4, dtype=np.float32)
    parts = [(TensorSlice.parse("0,2"), ArrayTensor(whole[:2])), (TensorSlice.parse("2,2"), ArrayTensor(whole[2:]))]
    files = write_bundle(tmp_path / "v", {"a\udcff": PartitionedTensor(FLOAT32, (4,), parts)}, sync=False)
    assert b"a\xff" in files.index
    with BundleReader(tmp_path / "v") as reader:
        assert reader.keys() == ["a\udcff"]
        np.testing.assert_array_equal(reader.array("a\udcff"), whole)
