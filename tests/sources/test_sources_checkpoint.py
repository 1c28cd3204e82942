"""TensorFlow's checkpoints and SavedModels as sources."""

import numpy as np
import pytest

from smdaemon.errors import DropError
from smdaemon.sources.formats import claiming, detect, open_source
from smdaemon.sources.tf_checkpoint import TfCheckpointFormat
from smdaemon.tensorbundle import ArrayTensor, PartitionedTensor, TensorSlice, write_bundle


def written(prefix, shards=1, **arrays):
    """A checkpoint by names at `prefix`."""
    prefix.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name.replace("__", "/"): ArrayTensor(np.asarray(value)) for name, value in arrays.items()}
    write_bundle(prefix, tensors or {"w": ArrayTensor(np.arange(6.0).reshape(2, 3))}, shards=shards, sync=False)
    return prefix


def state(directory, named):
    """A state file that names `named` as the latest checkpoint."""
    (directory / "checkpoint").write_text(f'model_checkpoint_path: "{named}"\nall_model_checkpoint_paths: "{named}"\n')


def values(source):
    """All values of a source by name."""
    return {
        name: np.frombuffer(b"".join(bytes(part) for part in tensor.buffers()), tensor.dtype.numpy).reshape(
            tensor.shape
        )
        for name, tensor in source.tensors.items()
    }


def code_of(act, *arguments):
    """The code of the DropError that `act` raises."""
    with pytest.raises(DropError) as caught:
        act(*arguments)
    return caught.value.code


def test_a_checkpoint_is_named_by_any_of_its_files_its_prefix_or_its_directory(tmp_path):
    """Index, data file, graph, prefix and the directory with a state file mean the same checkpoint."""
    prefix = written(tmp_path / "model.ckpt-100", w=[1.0, 2.0])
    state(tmp_path, "model.ckpt-100")
    for path in (
        prefix,
        tmp_path / "model.ckpt-100.index",
        tmp_path / "model.ckpt-100.data-00000-of-00001",
        tmp_path / "model.ckpt-100.meta",
        tmp_path,
    ):
        with open_source(path) as source:
            assert source.format == "tf-checkpoint"
            assert source.prefix == prefix
            assert source.metadata == {"step": "100"}
            assert values(source)["w"].tolist() == [1.0, 2.0]
            source.check_unchanged()


def test_an_index_with_data_beside_it_is_the_drop(tmp_path):
    """Of a checkpoint's files only the index is a drop; other indexes, and those of a writer at work, are nobody's."""
    prefix = written(tmp_path / "ckpt-7", shards=2, a=[1], b=[2])
    for name in ("ckpt-7.meta", "checkpoint", "faiss.index", "graph.pbtxt"):
        (tmp_path / name).touch()
    claimed = [path.name for path in sorted(tmp_path.iterdir()) if claiming(path)]
    assert claimed == ["ckpt-7.index"]
    assert claiming(tmp_path / "ckpt-7.index").is_complete(prefix.with_name("ckpt-7.index"))
    written(tmp_path / "3" / "variables" / "variables")
    written(tmp_path / "ckpt-8_temp" / "part-00000-of-00001")
    assert claiming(tmp_path / "3/variables/variables.index") is None
    assert claiming(tmp_path / "ckpt-8_temp/part-00000-of-00001.index") is None
    assert claiming(tmp_path / "3") is None
    assert claiming(tmp_path) is None


def test_a_checkpoint_is_complete_with_all_its_bytes(tmp_path):
    """However far the files have been copied, it is complete only at the last byte."""
    prefix = written(tmp_path / "ckpt-7", shards=2, a=np.arange(100.0), b=np.arange(50.0))
    known = TfCheckpointFormat()
    index = prefix.with_name("ckpt-7.index")
    for name in ("ckpt-7.index", "ckpt-7.data-00000-of-00002", "ckpt-7.data-00001-of-00002"):
        path = tmp_path / name
        content = path.read_bytes()
        for length in (0, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:length])
            assert not known.is_complete(index)
        if name != "ckpt-7.index":
            path.unlink()
            assert not known.is_complete(index)
        path.write_bytes(content)
        assert known.is_complete(index)
    content = bytearray(index.read_bytes())
    content[3] ^= 1
    index.write_bytes(content)
    assert code_of(known.is_complete, index) == "bundle-corrupt"


def test_who_needs_the_graph_waits_for_it(tmp_path):
    """TensorFlow 1 writes the graph last."""
    prefix = written(tmp_path / "model.ckpt-1")
    known = TfCheckpointFormat(wait_for_graph=True)
    assert not known.is_complete(prefix)
    (tmp_path / "model.ckpt-1.meta").touch()
    assert known.is_complete(prefix)


@pytest.mark.parametrize("named", ["../other/ckpt-1", "/nowhere/ckpt-9", "{other}/ckpt-1", ""])
def test_a_state_file_does_not_lead_out_of_its_directory(tmp_path, named):
    """What lies elsewhere is not read, unless the operator says so."""
    written(tmp_path / "other" / "ckpt-1")
    (tmp_path / "run").mkdir()
    state(tmp_path / "run", named.format(other=tmp_path / "other"))
    assert code_of(open_source, tmp_path / "run") == "checkpoint-state-invalid"
    if "other" in named:
        with TfCheckpointFormat(state_anywhere=True).open(tmp_path / "run") as source:
            assert source.metadata == {"step": "1"}


def test_a_link_does_not_lead_out_of_the_directory_either(tmp_path):
    """Links in the path of the state file are followed before it is judged."""
    written(tmp_path / "other" / "ckpt-1")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "other")
    state(tmp_path / "run", "link/ckpt-1")
    assert code_of(open_source, tmp_path / "run") == "checkpoint-state-invalid"


@pytest.mark.parametrize(("named", "code"), [("loop", "source-missing"), ("loop/ckpt-1", "source-not-regular")])
def test_links_that_lead_round_in_a_circle_lead_to_no_checkpoint(tmp_path, named, code):
    """Neither where the state file names one, nor where the way to the checkpoint leads through one."""
    (tmp_path / "loop").symlink_to("loop")
    state(tmp_path, named)
    assert code_of(open_source, tmp_path) == code


def test_a_directory_may_be_moved(tmp_path):
    """A state file with the checkpoint's old absolute path means the one that moved with it."""
    written(tmp_path / "run" / "ckpt-4")
    state(tmp_path / "run", str(tmp_path / "gone" / "ckpt-4"))
    with open_source(tmp_path / "run") as source:
        assert source.prefix == tmp_path / "run" / "ckpt-4"


@pytest.mark.parametrize(
    "content", ["", "{", "\xff", "x: 1", "model_checkpoint_path: 3", 'model_checkpoint_path: "a\\000b"']
)
def test_a_state_file_that_is_none_is_refused(tmp_path, content):
    """Anything but a CheckpointState that names a checkpoint."""
    (tmp_path / "checkpoint").write_bytes(content.encode("latin-1"))
    assert code_of(open_source, tmp_path) == "checkpoint-state-invalid"


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda prefix: prefix.with_name("ckpt-1.data-00000-of-00001").unlink(), "bundle-missing-shard"),
        (lambda prefix: prefix.with_name("ckpt-1.data-00000-of-00001").write_bytes(b"x"), "bundle-corrupt"),
        (lambda prefix: prefix.with_name("ckpt-1.index").write_bytes(b"x" * 60), "bundle-corrupt"),
        (lambda prefix: prefix.with_name("ckpt-1.index").write_bytes(b""), "bundle-corrupt"),
        (lambda prefix: prefix.with_name("ckpt-1.index").unlink(), "source-missing"),
    ],
)
def test_a_spoiled_checkpoint_is_refused(tmp_path, spoil, code):
    """An index without data, data without an index, and what was cut."""
    prefix = written(tmp_path / "ckpt-1", w=np.arange(100.0))
    spoil(prefix)
    assert code_of(open_source, prefix, "tf-checkpoint") == code


def test_a_checkpoint_of_the_first_format_is_told_from_one_that_is_missing(tmp_path):
    """TensorFlow's first format is one file without an index."""
    (tmp_path / "model.ckpt-1").write_bytes(b"x" * 100)
    assert code_of(open_source, tmp_path / "model.ckpt-1", "tf-checkpoint") == "source-unknown-format"


def test_a_checkpoint_that_changes_while_it_is_read_is_noticed(tmp_path):
    """Each of its files counts."""
    for name in ("ckpt-1.index", "ckpt-1.data-00000-of-00001"):
        prefix = written(tmp_path / name / "ckpt-1")
        with open_source(prefix) as source:
            source.check_unchanged()
            with (prefix.parent / name).open("ab") as file:
                file.write(b"x")
            assert code_of(source.check_unchanged) == "source-changed"


def test_slices_are_joined_and_steps_are_found_in_the_name_or_a_counter(tmp_path):
    """A partitioned variable is one tensor; the name's number goes before `global_step`."""
    whole = np.arange(12.0, dtype=np.float32).reshape(4, 3)
    parts = [
        (TensorSlice(((0, 1), (0, -1))), ArrayTensor(whole[:1])),
        (TensorSlice(((1, 3), (0, -1))), ArrayTensor(whole[1:])),
    ]
    tensors = {
        "part": PartitionedTensor(ArrayTensor(whole).dtype, whole.shape, parts),
        "global_step": ArrayTensor(np.int64(41)),
    }
    for name, step in (("model.ckpt-100", "100"), ("best", "41")):
        write_bundle(tmp_path / name, tensors, sync=False)
        with open_source(tmp_path / name) as source:
            assert source.metadata == {"step": step}
            assert values(source)["part"].tolist() == whole.tolist()
            assert len(source.tensors) == 2


def test_formats_of_directories_are_told_apart(tmp_path):
    """A SavedModel goes before a checkpoint, a checkpoint before arrays."""
    np.save(tmp_path / "x.npy", np.arange(2))
    assert detect(tmp_path).name == "npydir"
    state(tmp_path, "ckpt-1")
    assert detect(tmp_path).name == "tf-checkpoint"
    (tmp_path / "saved_model.pb").touch()
    assert detect(tmp_path).name == "saved-model"
