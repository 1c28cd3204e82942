"""Orbax: what its checkpointers and its manager write is what we read, in every layout."""

import shutil
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from orbax_kit import entry, metadata, write_array, write_item, write_step
from sources_builders import Value, open_descriptors, read_all, value_of

from smdaemon.errors import ConfigError, DropError
from smdaemon.sources import orbax_values
from smdaemon.sources.chunks import Grid, boxes
from smdaemon.sources.files import READ_BYTES
from smdaemon.sources.formats import claiming, detect, format_named, open_source
from smdaemon.sources.step import step_of

FORMAT = format_named("orbax")
KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)
EXPECTED = {
    "params/a/b": value_of(KERNEL),
    "params/bf": value_of(np.arange(4).astype(ml_dtypes.bfloat16)),
    "params/f8": value_of(np.ones(3, ml_dtypes.float8_e4m3fn)),
    "params/i4": value_of(np.array([-1, 2, 3]).astype(ml_dtypes.int4)),
    "params/bool": value_of(np.array([True, False])),
    "params/c": value_of(np.array([1 + 2j], np.complex64)),
    "list/0": value_of(np.float32(1)),
    "list/1": value_of(np.arange(2)),
    "step": value_of(np.int64(7)),
    "lr": value_of(np.float64(0.5)),
    "opt/0/count": value_of(np.int32(0)),
    "opt/0/mu/w": value_of(np.zeros(2, np.float32)),
    "opt/0/nu/w": value_of(np.zeros(2, np.float32)),
}


@pytest.fixture(scope="module")
def orbax():
    """orbax.checkpoint."""
    import orbax.checkpoint

    return orbax.checkpoint


@pytest.fixture(scope="module")
def tree():
    """A state of a training job; a key may hold a slash."""
    import jax.numpy as jnp
    import optax

    return {
        "params": {
            "a/b": jnp.asarray(KERNEL),
            "bf": jnp.arange(4, dtype=jnp.bfloat16),
            "f8": jnp.ones(3, jnp.float8_e4m3fn),
            "i4": jnp.array([-1, 2, 3], jnp.int4),
            "bool": np.array([True, False]),
            "c": np.array([1 + 2j], np.complex64),
        },
        "list": [np.float32(1), np.arange(2)],
        "step": 7,
        "lr": 0.5,
        "none": None,
        "empty": {},
        "opt": optax.adam(1e-3).init({"w": jnp.ones(2)}),
    }


@pytest.fixture(scope="module")
def saved(orbax, tree, tmp_path_factory):
    """A folder with one checkpoint of each layout."""
    root = tmp_path_factory.mktemp("orbax")
    named = {**tree, "name": "hello", "notes": {"a/b": "slashed"}}
    for name, options in {
        "ocdbt": {},
        "zarr": {"use_ocdbt": False},
        "zarr3": {"use_ocdbt": False, "use_zarr3": True},
        "ocdbt-zarr3": {"use_zarr3": True},
    }.items():
        orbax.PyTreeCheckpointer(**options).save(root / name, named)
    with orbax.StandardCheckpointer() as checkpointer:
        checkpointer.save(root / "standard", tree)
    with orbax.CheckpointManager(root / "runs") as manager:
        manager.save(41, args=orbax.args.StandardSave(tree))
        manager.wait_until_finished()
    with orbax.CheckpointManager(
        root / "several", options=orbax.CheckpointManagerOptions(step_prefix="step")
    ) as manager:
        items = {
            "state": orbax.args.StandardSave(tree),
            "ema": orbax.args.PyTreeSave({"w": KERNEL, "name": "hello"}),
            "notes": orbax.args.JsonSave({"x": 1}),
        }
        manager.save(4, args=orbax.args.Composite(**items), metrics={"loss": 0.1})
        manager.wait_until_finished()
    return root


def code_of(path):
    """The code that reading everything fails with."""
    with pytest.raises(DropError) as caught:
        read_all(path)
    return caught.value.code


@pytest.mark.parametrize("layout", ["ocdbt", "zarr", "zarr3", "ocdbt-zarr3", "standard", "runs/41"])
def test_every_layout_is_read(saved, layout):
    """Names, dtypes, shapes and values are those that were saved; None and what is empty is left out."""
    path = saved / layout
    assert claiming(path) is FORMAT
    assert detect(path) is FORMAT
    assert FORMAT.is_complete(path)
    assert read_all(path) == EXPECTED


@pytest.mark.filterwarnings("ignore:Sharding info not provided")
def test_the_library_restores_what_we_read(saved, orbax):
    """Orbax itself gives the same values for the same names."""
    restored = orbax.PyTreeCheckpointer().restore(saved / "ocdbt")
    values = read_all(saved / "ocdbt")
    assert values["params/bf"] == value_of(np.asarray(restored["params"]["bf"]))
    assert values["params/i4"] == value_of(np.asarray(restored["params"]["i4"]))
    assert values["opt/0/count"] == value_of(np.asarray(restored["opt"][0]["count"]))


def test_strings_and_the_step_are_metadata(saved):
    """Under the names of their leaves; where the directory's name is a step, that is the step."""
    for layout in ("ocdbt", "zarr3"):
        with open_source(saved / layout) as source:
            assert source.metadata == {"step": "7", "name": "hello", "notes/a/b": "slashed"}
    with open_source(saved / "runs" / "41") as source:
        assert step_of(source.path, source.metadata) == 41
    item = saved / "runs" / "41" / "default"
    with open_source(item) as source:
        assert step_of(item, source.metadata) == 41
        assert source.tensors.keys() == EXPECTED.keys()


def test_several_items_stand_before_the_names(saved):
    """Those that hold tensors, in the order of their names; metrics and JSON are none."""
    path = saved / "several" / "step_4"
    values = read_all(path)
    assert values == {"ema/w": value_of(KERNEL)} | {f"state/{name}": value for name, value in EXPECTED.items()}
    with open_source(path) as source:
        assert step_of(path, source.metadata) == 4
        assert source.metadata["ema/name"] == "hello"


def test_an_item_that_is_named_is_read_by_itself(saved):
    """Its names have no item before them."""
    assert read_all(saved / "several" / "step_4" / "ema") == {"w": value_of(KERNEL)}


def test_the_new_interface_of_orbax_is_read(orbax, tmp_path):
    """Its directory has an item of another name; a random key is its data."""
    import jax
    from orbax.checkpoint.experimental import v1

    key = jax.random.key(3)
    v1.save(tmp_path / "41", {"w": KERNEL, "key": key})
    values = read_all(tmp_path / "41")
    assert values == {"w": value_of(KERNEL), "key": value_of(np.asarray(jax.random.key_data(key)))}


def test_chunks_are_joined(orbax, tmp_path):
    """An array that Orbax cut along several axes streams in row-major order."""
    array = np.random.default_rng(0).integers(0, 1 << 60, (7, 33, 9))
    checkpointer = orbax.PyTreeCheckpointer(use_zarr3=True)
    save_args = {"w": orbax.SaveArgs(chunk_byte_size=500)}
    checkpointer.save(tmp_path / "41", {"w": array}, save_args=save_args)
    assert read_all(tmp_path / "41") == {"w": value_of(array)}


SHAPES = st.lists(st.integers(1, 6), max_size=4).map(tuple)


@settings(deadline=None, max_examples=200)
@given(data=st.data(), shape=SHAPES, elements=st.integers(1, 40))
def test_boxes_and_bands_follow_each_other_in_row_major_order(data, shape, elements):
    """Boxes make up the array in its order and are no larger than asked for; bands, too, of whole chunks each met once."""
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    parts = [array[box] for box in boxes(shape, elements)]
    assert [value for part in parts for value in part.flat] == list(array.flat)
    assert all(part.size <= elements for part in parts)
    chunk = tuple(data.draw(st.integers(1, 7)) for _ in shape)
    grid = Grid(shape, chunk, 1)
    bands = list(grid.bands())
    assert [value for band in bands for value in array[band].flat] == list(array.flat)
    met = [box for band in bands for box in grid.chunks_in(band)]
    assert len(met) == np.prod([-(-length // size) for length, size in zip(shape, chunk, strict=True)], dtype=int)
    assert sorted(value for box in met for value in array[box].flat) == list(array.flat)
    assert all(len(list(grid.chunks_in(band))) <= grid.band_chunks for band in bands)


def test_boxes_are_made_one_by_one():
    """An array may claim any size."""
    assert next(boxes((1 << 50, 1 << 40), 1 << 20)) == (slice(0, 1), slice(0, 1 << 20))
    assert list(boxes((3, 0), 10)) == list(boxes((0,), 10)) == []
    assert next(Grid((1 << 50,), (1,), 1).bands()) == (slice(0, 1),)


@pytest.mark.parametrize("zarr3", [False, True])
@pytest.mark.parametrize("chunks", [(350, 2000), (100, 2000), (20, 300), (349, 999), (350, 50), (1, 2000), (512, 4096)])
@pytest.mark.parametrize("band_bytes", [1 << 30, 1])
def test_a_value_streams_in_small_buffers(tmp_path, monkeypatch, chunks, zarr3, band_bytes):
    """However it was cut, out of memory or, where a row of chunks is too large for that, out of a temporary file."""
    monkeypatch.setattr(orbax_values, "BAND_BYTES", band_bytes)
    array = np.random.default_rng(0).integers(0, 1000, (350, 2000)).astype(np.int16)
    write_item(tmp_path / "41", {"w": array}, chunks, use_zarr3=zarr3)
    with open_source(tmp_path / "41") as source:
        tensor = source.tensors["w"]
        for _ in range(2):
            parts = [bytes(part) for part in tensor.buffers()]
            assert b"".join(parts) == array.tobytes()
            assert max(map(len, parts)) <= READ_BYTES


def test_the_memory_of_a_band_is_said_and_counted(tmp_path, monkeypatch):
    """It is that of the most demanding array: all of a chunk for a byte of it, or one chunk where a band goes to a file."""
    large, small = np.zeros((600, 1000)), np.zeros(10)
    write_item(tmp_path / "41", {"w": large, "b": small})
    with open_source(tmp_path / "41") as source:
        assert large.nbytes < source.working_bytes < 2 * large.nbytes + (16 << 20)
    write_item(tmp_path / "42", {"w": large}, (600, 100))
    monkeypatch.setattr(orbax_values, "BAND_BYTES", 1)
    with open_source(tmp_path / "42") as source:
        assert source.working_bytes == 600 * 100 * 8


def test_a_chunk_is_decoded_once(tmp_path, monkeypatch):
    """A large chunk that gives many buffers is kept until the next is needed; so its file may be gone meanwhile."""
    array = np.random.default_rng(0).standard_normal((600, 1000))
    write_item(tmp_path / "41", {"w": array}, (600, 1000))
    with open_source(tmp_path / "41") as source:
        buffers = source.tensors["w"].buffers()
        parts = [bytes(next(buffers))]
        (tmp_path / "41" / "w" / "0.0").unlink()
        parts += map(bytes, buffers)
        assert b"".join(parts) == array.tobytes()
        with pytest.raises(DropError, match="removed"):
            source.check_unchanged()


@pytest.mark.parametrize("zarr3", [False, True])
def test_arrays_without_elements(tmp_path, zarr3):
    """Orbax refuses to save them; where they are, they are tensors without bytes."""
    item = write_item(tmp_path / "41", {"w": KERNEL}, use_zarr3=zarr3)
    write_array(item / "z", np.zeros((0, 3), np.float32), (1, 3), zarr3=zarr3)
    (item / "_METADATA").write_text(metadata(entry("w"), entry("z"), use_zarr3=zarr3))
    assert read_all(item) == {"w": value_of(KERNEL), "z": Value("float32", (0, 3), b"")}


def test_a_chunk_that_is_missing_is_no_zeros(tmp_path):
    """Unless the checkpoint is of a release that did not store zeros."""
    item = write_item(tmp_path / "41", {"w": KERNEL}, (1, 3))
    (item / "w" / "1.0").unlink()
    assert code_of(item) == "source-corrupt"
    (item / "_METADATA").write_text(metadata(entry("w"), store_array_data_equal_to_fill_value=False))
    assert read_all(item) == {"w": value_of(np.array([[0, 1, 2], [0, 0, 0]], np.float32))}


def test_values_of_the_aggregate_file_of_older_releases(orbax, tmp_path):
    """They are read from msgpack; what it names by a placeholder lies elsewhere, and what is empty is nothing."""
    from orbax.checkpoint import msgpack_utils

    item = write_item(tmp_path / "41", {"w": KERNEL})
    entries = (
        entry("w"),
        entry("opt", "m", skip=True),
        entry("n", skip=True),
        entry("e", value_type="Dict", skip=True),
    )
    (item / "_METADATA").write_text(metadata(*entries))
    values = {
        "w": "PLACEHOLDER://w",
        "opt": {"m": np.arange(3)},
        "n": 4,
        "e": {},
        "note": "text",
        "other": np.arange(2),
    }
    (item / "checkpoint").write_bytes(msgpack_utils.msgpack_serialize(values))
    assert read_all(item) == {"w": value_of(KERNEL), "opt/m": value_of(np.arange(3)), "n": value_of(np.int64(4))}
    with open_source(item) as source:
        assert source.metadata == {"note": "text"}
        assert item / "checkpoint" in source.files()
    assert detect(item) is FORMAT


def test_custom_metadata_is_metadata(orbax, tmp_path):
    """Its plain values, as text."""
    checkpointer = orbax.Checkpointer(orbax.PyTreeCheckpointHandler())
    args = orbax.args.PyTreeSave({"w": KERNEL}, custom_metadata={"model": "ranker", "depth": 3, "more": {"a": 1}})
    checkpointer.save(tmp_path / "best", args=args, custom_metadata={"global_step": 12})
    with open_source(tmp_path / "best") as source:
        assert source.metadata == {"model": "ranker", "depth": "3", "global_step": "12"}
        assert step_of(source.path, source.metadata) == 12


@pytest.mark.parametrize("layout", ["ocdbt", "zarr"])
def test_any_changed_file_is_noticed(saved, tmp_path, layout):
    """Every file that values come from is one of the source's; a read that fails because one went away says so."""
    shutil.copytree(saved / layout, tmp_path / "41")
    with open_source(tmp_path / "41") as source:
        for tensor in source.tensors.values():
            list(tensor.buffers())
        source.check_unchanged()
        data = next(file for file in source.files() if file.name in {"0", "0.0"} or file.parent.name == "d")
        data.write_bytes(data.read_bytes())
        with pytest.raises(DropError) as caught:
            source.check_unchanged()
        assert caught.value.code == "source-changed"
        if layout == "ocdbt":
            return  # small values lie in the manifest, which was read
        shutil.rmtree(tmp_path / "41")
        with pytest.raises(DropError) as caught:
            list(source.tensors["params/a/b"].buffers())
        assert caught.value.code == "source-changed"


def test_without_tensorstore_the_error_names_the_extra(tmp_path, monkeypatch):
    """It is asked for when values are wanted; whether a checkpoint is there and complete is told without it."""
    write_step(tmp_path / "41", "default")
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    assert claiming(tmp_path / "41") is FORMAT
    assert FORMAT.is_complete(tmp_path / "41")
    with pytest.raises(ConfigError) as caught:
        open_source(tmp_path / "41")
    assert caught.value.code == "extra-missing"
    assert "smdaemon[orbax]" in caught.value.remedy


def test_no_descriptor_is_left_open(tmp_path):
    """Neither a source that was read nor one that failed to open holds a file."""
    write_step(tmp_path / "41", "default")
    read_all(tmp_path / "41")
    before = open_descriptors()
    read_all(tmp_path / "41")
    (tmp_path / "41" / "default" / "w" / ".zarray").unlink()
    assert code_of(tmp_path / "41") == "source-corrupt"
    assert open_descriptors() == before
