"""What the builder demands and refuses, and that what it writes fits together."""

import numpy as np
import pytest
from builder_graphs import VALUES, affine, asset_constant, handle, info, read_model, signature

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import GraphDef, MetaGraphDef, SaverDef, SignatureDef
from smdaemon.savedmodel import verify
from smdaemon.savedmodel.asset_files import Asset
from smdaemon.savedmodel.builder import Builder
from smdaemon.savedmodel.graph_input import meta_graph_of
from smdaemon.savedmodel.writer import Contents, write_saved_model
from smdaemon.tensorbundle.tensors import ArrayTensor


def refused(code, call, *arguments, **options):
    """The message of the DropError of that code that the call raises."""
    with pytest.raises(DropError) as caught:
        call(*arguments, **options)
    assert caught.value.code == code
    return caught.value.message


def first(export_dir, **options):
    """A builder with its first meta graph."""
    builder = Builder(export_dir)
    builder.add_meta_graph_and_variables(affine(), VALUES, ["serve"], **options)
    return builder


def test_an_export_directory_may_be_empty_or_absent_but_nothing_else(tmp_path):
    """A directory with content and a file are refused at once; missing parents are made."""
    (tmp_path / "file").touch()
    refused("export-dir-exists", Builder, tmp_path)
    refused("export-dir-exists", Builder, tmp_path / "file")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "new/deep"):
        assert first(str(path)).save() == path / "saved_model.pb"
        verify(path)


def test_nothing_is_written_before_save(tmp_path):
    """A builder that is given up leaves no directory."""
    first(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_what_fills_the_directory_meanwhile_is_left_alone(tmp_path):
    """A directory that another made since the builder was made is refused in save."""
    builder = first(tmp_path / "model")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/other").touch()
    refused("export-dir-exists", builder.save)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["other"]


def test_variables_come_once_and_first(tmp_path):
    """A second time, never, or after a meta graph without them is out of order."""
    builder = Builder(tmp_path / "model")
    refused("builder-order", builder.add_meta_graph, affine(), ["serve"])
    refused("builder-order", builder.save)
    builder.add_meta_graph_and_variables(affine(), VALUES, ["serve"])
    refused("builder-order", builder.add_meta_graph_and_variables, affine(), VALUES, ["train"])
    refused("builder-order", builder.add_meta_graph, affine(), ["serve"])
    builder.save()
    refused("builder-order", builder.save)


def test_a_failed_addition_leaves_the_builder_as_it_was(tmp_path):
    """After a refusal the same call with sound arguments succeeds."""
    builder = Builder(tmp_path / "model")
    (tmp_path / "words").touch()
    graph = affine()
    asset_constant(graph, "path", tmp_path / "words")
    add = builder.add_meta_graph_and_variables
    refused("savedmodel-inconsistent", add, affine(), {}, ["serve"])
    lost = SignatureDef(outputs={"y": info("lost:0")})
    refused("savedmodel-inconsistent", add, graph, VALUES, ["serve"], {"s": lost}, assets_list=["path"])
    add(affine(), VALUES, ["serve"])
    builder.save()
    verify(tmp_path / "model")
    assert not (tmp_path / "model/assets").exists()


def test_every_variable_has_a_value_and_every_value_a_variable(tmp_path):
    """Missing values, values of another shape or type, and values that no graph restores are named."""
    builder = Builder(tmp_path / "model")

    def add(values):
        return refused("savedmodel-inconsistent", builder.add_meta_graph_and_variables, affine(), values, ["serve"])

    assert "'bias'" in add({"kernel": VALUES["kernel"]})
    assert "(3, 2)" in add(VALUES | {"kernel": VALUES["kernel"].T})
    assert "float64" in add(VALUES | {"bias": VALUES["bias"].astype(np.float64)})
    builder = Builder(tmp_path / "model")
    builder.add_meta_graph_and_variables(affine(), VALUES | {"momentum": np.zeros(2)}, ["serve"])
    assert "'momentum'" in refused("savedmodel-inconsistent", builder.save)
    assert not (tmp_path / "model").exists()


def test_a_later_graph_cannot_restore_what_the_first_did_not_bring(tmp_path):
    """Its variables are a subset of those that are saved."""
    builder = first(tmp_path / "model")
    grown = affine()
    handle(grown, "more", 2)
    assert "'more'" in refused("savedmodel-inconsistent", builder.add_meta_graph, grown, ["train"])


@pytest.mark.parametrize(
    ("key", "broken", "word"),
    [
        ("__saved_model_init_op", signature(), "reserved"),
        ("__saved_model_train_op", signature(), "reserved"),
        ("s", SignatureDef(inputs={"x": info("", 1)}), "neither a name"),
        ("s", SignatureDef(outputs={"y": {"name": "y:0"}}), "no dtype"),
        ("s", SignatureDef(outputs={"y": {"composite_tensor": {"components": [{"name": "y:0"}]}}}), "component"),
    ],
)
def test_signatures_are_checked(tmp_path, key, broken, word):
    """Reserved keys, and tensors without a name or a dtype, are refused."""
    if key == "s" and "x" in broken.inputs:
        broken.inputs["x"].ClearField("encoding")
    builder = Builder(tmp_path / "model")
    message = refused(
        "signature-invalid", builder.add_meta_graph_and_variables, affine(), VALUES, ["serve"], {key: broken}
    )
    assert word in message


def test_what_a_signature_or_a_saver_names_must_be_in_the_graph(tmp_path):
    """Tensors of signatures, ops of the saver, the main op."""
    builder = Builder(tmp_path / "model")
    lost = SignatureDef(outputs={"y": info("lost:0")})
    add = builder.add_meta_graph_and_variables
    for options in (
        {"signature_def_map": {"s": lost}},
        {"saver": SaverDef(restore_op_name="lost")},
        {"main_op": "lost"},
        {"init_op": "lost"},
    ):
        assert "'lost" in refused("savedmodel-inconsistent", add, affine(), VALUES, ["serve"], **options)


def test_a_second_main_op_is_refused(tmp_path):
    """A graph whose collection has one already gets no other."""
    meta_graph = MetaGraphDef(graph_def=affine())
    meta_graph.collection_def["legacy_init_op"].node_list.value.append("y")
    add = Builder(tmp_path / "model").add_meta_graph_and_variables
    assert "legacy_init_op" in refused("builder-order", add, meta_graph, VALUES, ["serve"], main_op="y")


def test_graphs_are_taken_in_every_form(tmp_path):
    """Messages and their serialisations; of other bytes it is said that they are none."""
    graph = affine()
    forms = [graph, MetaGraphDef(graph_def=graph)]
    for form in (*forms, *(form.SerializeToString() for form in forms)):
        assert meta_graph_of(form).graph_def.node == graph.node
    library = GraphDef().library
    library.function.add().signature.name = "f"
    assert meta_graph_of(library.SerializeToString()).graph_def.library == library
    for other in (b"", b"nothing", 3, SignatureDef()):
        refused("savedmodel-corrupt", meta_graph_of, other)


def test_tags_are_kept_in_their_order_once_each(tmp_path):
    """A single string is one tag, not its letters."""
    builder = Builder(tmp_path / "model")
    builder.add_meta_graph_and_variables(affine(), VALUES, "serve")
    builder.add_meta_graph(affine(), ["train", "gpu", "train"])
    builder.save()
    tags = [list(found.meta_info_def.tags) for found in read_model(tmp_path / "model").meta_graphs]
    assert tags == [["serve"], ["train", "gpu"]]


def assets_of(tmp_path, *contents):
    """Files `words` in folders of their own."""
    paths = []
    for number, content in enumerate(contents):
        path = tmp_path / f"folder{number}" / "words"
        path.parent.mkdir()
        path.write_text(content)
        paths.append(path)
    return paths


def test_assets_of_one_base_name_keep_apart_what_differs(tmp_path):
    """The same content is kept once, other content under another name."""
    graph = affine()
    paths = assets_of(tmp_path, "one", "two", "one", "two")
    for number, path in enumerate(paths):
        asset_constant(graph, f"path{number}", path)
    builder = Builder(tmp_path / "model")
    names = [f"path{number}:0" for number in range(4)]
    builder.add_meta_graph_and_variables(graph, VALUES, ["serve"], assets_list=names)
    builder.save()
    listed = read_model(tmp_path / "model").meta_graphs[0].asset_file_def
    assert [(asset.tensor_info.name, asset.filename) for asset in listed] == [
        ("path0:0", "words"),
        ("path1:0", "words_1"),
        ("path2:0", "words"),
        ("path3:0", "words_1"),
    ]
    assert {path.name: path.read_text() for path in (tmp_path / "model/assets").iterdir()} == {
        "words": "one",
        "words_1": "two",
    }


def test_a_later_graph_has_some_of_the_first_graphs_assets(tmp_path):
    """One of the same name is the first one's; any other is refused."""
    known, other = assets_of(tmp_path, "one", "two")
    stranger = tmp_path / "stranger"
    stranger.touch()
    graph = affine()
    asset_constant(graph, "path", known)
    builder = Builder(tmp_path / "model")
    builder.add_meta_graph_and_variables(graph, VALUES, ["serve"], assets_list=["path"])
    add = builder.add_meta_graph
    refused("asset-invalid", add, graph, ["train"], assets_list=[Asset("path", stranger)])
    add(graph, ["train"], assets_list=[Asset("path", other)])
    builder.save()
    assert read_model(tmp_path / "model").meta_graphs[1].asset_file_def[0].filename == "words"
    assert (tmp_path / "model/assets/words").read_text() == "one"


def test_assets_are_regular_files_that_constants_name(tmp_path):
    """Links, directories, pipes, missing files and tensors that hold no path are refused."""
    import os

    target = tmp_path / "target"
    target.touch()
    (tmp_path / "link").symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    graph = affine()
    builder = Builder(tmp_path / "model")
    for number, name in enumerate(("link", "pipe", ".", "missing")):
        asset_constant(graph, f"path{number}", tmp_path / name)
        refused(
            "asset-invalid",
            builder.add_meta_graph_and_variables,
            graph,
            VALUES,
            ["serve"],
            assets_list=[f"path{number}"],
        )
    for tensor in ("x:0", "nowhere:0"):
        refused("asset-invalid", builder.add_meta_graph_and_variables, graph, VALUES, ["serve"], assets_list=[tensor])


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../up", "a/../../b", "a//b", "a/.", "nul\0", "a/", "\udc80\ud800"]
)
def test_no_extra_asset_leaves_its_folder(tmp_path, name):
    """Absolute paths, `..`, NUL and what names no file are refused."""
    builder = first(tmp_path / "model")
    refused("asset-invalid", builder.add_extra_asset, name, b"")
    contents = Contents(read_model_bytes(), assets={name: b""})
    refused("asset-invalid", write_saved_model, tmp_path / "other", contents)
    assert not (tmp_path / "other").exists()


def read_model_bytes():
    """The smallest SavedModel, serialised."""
    from smdaemon.proto.tensorflow import SavedModel

    return SavedModel(saved_model_schema_version=1, meta_graphs=[MetaGraphDef()]).SerializeToString()


def test_extra_assets_lie_where_they_are_told(tmp_path):
    """Files and contents, nested destinations; two for one place are refused."""
    (tmp_path / "source").write_text("from a file")
    builder = first(tmp_path / "model")
    builder.add_extra_asset("notes/deep/a.txt", tmp_path / "source")
    builder.add_extra_asset("b.txt", b"given")
    builder.add_model_description('{"class_name": "Sequential"}')
    refused("asset-invalid", builder.add_extra_asset, "b.txt", b"again")
    builder.save()
    extra = tmp_path / "model/assets.extra"
    assert (extra / "notes/deep/a.txt").read_text() == "from a file"
    assert (extra / "b.txt").read_bytes() == b"given"
    assert (tmp_path / "model/assets/saved_model.json").read_text() == '{"class_name": "Sequential"}'
    assert {path.as_posix() for path in builder.written.files} == {
        path.relative_to(tmp_path / "model").as_posix() for path in (tmp_path / "model").rglob("*") if path.is_file()
    }


def test_an_asset_that_goes_before_save_leaves_nothing_behind(tmp_path):
    """All that was written is removed, directories too; an empty directory that was there stays."""
    source = tmp_path / "source"
    source.touch()
    (tmp_path / "model").mkdir()
    builder = first(tmp_path / "model")
    builder.add_extra_asset("a/first", b"1")
    builder.add_extra_asset("b/second", source)
    source.unlink()
    refused("asset-invalid", builder.save)
    assert list((tmp_path / "model").iterdir()) == []


def test_a_source_that_changed_while_it_was_read_makes_no_model(tmp_path):
    """What the source says at the end is asked before the model becomes whole."""

    class Source:
        def __init__(self):
            self.tensors = {name: ArrayTensor(value) for name, value in VALUES.items()}

        def check_unchanged(self):
            assert (tmp_path / "model/variables/variables.index").exists()
            raise DropError("source-changed", "it did")

    builder = Builder(tmp_path / "model")
    builder.add_meta_graph_and_variables(affine(), Source(), ["serve"])
    refused("source-changed", builder.save)
    assert not (tmp_path / "model").exists()


def test_a_model_that_nobody_could_parse_is_refused_with_its_biggest_part(tmp_path, monkeypatch):
    """Before anything is written, for messages and for bytes."""
    from smdaemon.savedmodel import writer

    monkeypatch.setattr(writer, "MESSAGE_BYTES_LIMIT", 5000)
    builder = Builder(tmp_path / "model")
    graph = affine()
    asset_constant(graph, "huge", "x" * 6000)
    builder.add_meta_graph_and_variables(graph, VALUES, ["serve"])
    assert "node 'huge' of meta graph 0" in refused("savedmodel-too-large", builder.save)
    assert not (tmp_path / "model").exists()


def test_the_same_input_gives_the_same_bytes(tmp_path):
    """Order of the mapping aside."""
    contents = []
    for name, values in (("a", VALUES), ("b", dict(reversed(VALUES.items())))):
        builder = Builder(tmp_path / name)
        builder.add_meta_graph_and_variables(affine(), values, ["serve"], {"s": signature()})
        builder.save()
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        contents.append([path.read_bytes() for path in files])
    assert contents[0] == contents[1]
