"""What the builder writes, loaded and run by TensorFlow, and beside what TensorFlow's builder writes."""

import numpy as np
import pytest
from builder_graphs import VALUES, X, Y, affine, node, read_model, signature

from smdaemon.proto.tensorflow import AttrValue
from smdaemon.savedmodel import verify
from smdaemon.savedmodel.builder import Builder

tf = pytest.importorskip("tensorflow")
v1 = tf.compat.v1


def built(export_dir, graph=None, *, as_text=False, **options):
    """The affine model at `export_dir`."""
    builder = Builder(export_dir)
    builder.add_meta_graph_and_variables(
        affine() if graph is None else graph, VALUES, ["serve"], {"serving_default": signature()}, **options
    )
    builder.save(as_text)
    return export_dir


def run_v1(export_dir, fetch="y:0", tags=("serve",), feeds=None):
    """What the v1 loader's session gives for X."""
    with v1.Session(graph=tf.Graph()) as session:
        v1.saved_model.loader.load(session, list(tags), str(export_dir))
        return session.run(fetch, {"x:0": X} if feeds is None else feeds)


def run_v2(export_dir):
    """What the v2 loader's signature gives for X."""
    model = tf.saved_model.load(str(export_dir))
    return model.signatures["serving_default"](x=tf.constant(X))["y"].numpy()


@pytest.mark.parametrize("as_text", [False, True])
def test_a_graph_without_a_saver_runs_in_every_loader(tmp_path, cpp_load, as_text):
    """Resource and reference variables are restored by the ops that the builder adds."""
    export_dir = built(tmp_path / "model", as_text=as_text)
    assert verify(export_dir).tensors == 2
    assert (export_dir / "saved_model.pbtxt").exists() is as_text
    np.testing.assert_allclose(run_v1(export_dir), Y)
    np.testing.assert_allclose(run_v2(export_dir), Y)
    (result,) = cpp_load.run(cpp_load.load(export_dir), {"x:0": (X, 1)}, [("y:0", np.float32)])
    np.testing.assert_allclose(result, Y)


@pytest.mark.parametrize("strip", [False, True])
def test_the_meta_graph_is_that_of_tensorflows_builder(tmp_path, strip):
    """From the same MetaGraphDef, values and options; versions aside."""
    vocabulary = tmp_path / "vocabulary.txt"
    vocabulary.write_text("a\nb\n")
    with v1.Session(graph=tf.Graph()) as session:
        kernel = v1.get_variable("kernel", initializer=VALUES["kernel"], use_resource=True)
        bias = v1.get_variable("bias", initializer=VALUES["bias"], use_resource=False)
        x = v1.placeholder(tf.float32, [None, 2], name="x")
        with tf.device("/device:CPU:0"):
            y = tf.add(tf.matmul(x, kernel), bias, name="y")
        path = tf.constant(str(vocabulary), name="vocabulary")
        start = tf.group(name="start")
        session.run(v1.global_variables_initializer())
        saver = v1.train.Saver(sharded=True, allow_empty=True)
        exported = saver.export_meta_graph()
        theirs_signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        theirs = v1.saved_model.Builder(str(tmp_path / "theirs"))
        theirs.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": theirs_signature},
            assets_collection=[path],
            main_op=start,
            strip_default_attrs=strip,
            saver=saver,
        )
        theirs.save()
    ours = Builder(tmp_path / "ours")
    ours.add_meta_graph_and_variables(
        exported,
        VALUES,
        ["serve"],
        {"serving_default": theirs_signature},
        assets_collection=["vocabulary"],
        main_op="start",
        strip_default_attrs=strip,
    )
    ours.save()
    found, wanted = (read_model(tmp_path / name).meta_graphs[0] for name in ("ours", "theirs"))
    for meta_graph in (found, wanted):
        meta_graph.meta_info_def.ClearField("tensorflow_version")
        meta_graph.meta_info_def.ClearField("tensorflow_git_version")
        meta_graph.graph_def.ClearField("versions")
        meta_graph.graph_def.ClearField("library")  # empty in both, but present in theirs when attributes are stripped
    assert str(found) == str(wanted)
    assert (tmp_path / "ours/assets/vocabulary.txt").read_text() == "a\nb\n"
    np.testing.assert_allclose(run_v1(tmp_path / "ours"), Y)


def test_partitioned_variables_are_restored_from_pieces_or_whole(tmp_path):
    """The pieces of a partitioned variable are saved as slices of one tensor, as the graph's collections say."""
    whole = np.arange(8, dtype=np.float32).reshape(4, 2)
    with tf.Graph().as_default() as graph:
        variable = v1.get_variable(
            "w", [4, 2], partitioner=v1.fixed_size_partitioner(2), use_resource=True, dtype=tf.float32
        )
        tf.identity(tf.convert_to_tensor(variable), name="y")
        exported = v1.train.export_meta_graph(graph=graph)
    exported.ClearField("saver_def")
    for name, values in (("whole", {"w": whole}), ("pieces", {"w/part_0": whole[:2], "w/part_1": whole[2:]})):
        builder = Builder(tmp_path / name)
        builder.add_meta_graph_and_variables(exported, values, ["serve"])
        builder.save()
        verify(tmp_path / name)
        np.testing.assert_array_equal(run_v1(tmp_path / name, feeds={}), whole)


def test_further_meta_graphs_share_the_variables(tmp_path, cpp_load):
    """Each is chosen by its tags and uses those variables that it has."""
    builder = Builder(tmp_path / "model")
    builder.add_meta_graph_and_variables(affine(), VALUES, ["serve"], {"serving_default": signature()})
    doubled = affine()
    node(doubled, "z", "AddV2", ["y", "y"], T=AttrValue(type=1))
    builder.add_meta_graph(doubled, ["train"], {"double": signature()}, train_op="z", main_op="z")
    builder.save()
    verify(tmp_path / "model")
    np.testing.assert_allclose(run_v1(tmp_path / "model"), Y)
    model = read_model(tmp_path / "model").meta_graphs[1]
    assert model.signature_def["__saved_model_train_op"].outputs["__saved_model_train_op"].name == "z"
    assert list(model.collection_def["saved_model_main_op"].node_list.value) == ["z"]


def test_the_init_op_runs_when_the_model_is_loaded(tmp_path):
    """An assignment after the restore shows in the result, whether kept as a signature or in a collection."""
    for number, option in enumerate(("init_op", "main_op", "legacy_init_op")):
        graph = affine()
        kind = AttrValue(type=1)
        negated = ["bias", "negated"]
        node(graph, "negated", "Neg", ["bias/read"], T=kind)
        node(graph, "start", "Assign", negated, T=kind, use_locking=AttrValue(b=True), validate_shape=AttrValue(b=True))
        export_dir = built(tmp_path / str(number), graph, **{option: "start"})
        np.testing.assert_allclose(run_v1(export_dir), X @ VALUES["kernel"] - VALUES["bias"])


@pytest.mark.parametrize(("where", "init"), [("assets_list", "init_op"), ("assets_collection", "main_op")])
def test_an_asset_is_found_where_the_export_lies(tmp_path, where, init):
    """The op that fills a lookup table is fed with the path of the copy, also after the export has moved."""
    source = tmp_path / "words.txt"
    source.write_text("the\nwords")
    with tf.Graph().as_default() as graph:
        path = tf.constant(str(source), name="path")
        rows = tf.lookup.TextFileInitializer(
            path, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
        )
        table = tf.lookup.StaticHashTable(rows, -1)
        word = v1.placeholder(tf.string, [None], name="word")
        tf.identity(table.lookup(word), name="row")
        v1.tables_initializer(name="start")
    builder = Builder(tmp_path / "first")
    builder.add_meta_graph_and_variables(graph.as_graph_def(), {}, ["serve"], **{where: ["path:0"], init: "start"})
    builder.save()
    source.unlink()
    moved = (tmp_path / "first").rename(tmp_path / "moved")
    verify(moved)
    feeds = {"word:0": np.array(["words", "the", "none"])}
    np.testing.assert_array_equal(run_v1(moved, "row:0", feeds=feeds), [1, 0, -1])
    assert not (moved / "variables").exists()


def test_cleared_devices_are_gone_from_functions_too(tmp_path):
    """A model placed on devices that do not exist runs after clear_devices, and does not without."""
    far = "/job:worker/task:3/device:GPU:1"
    graph = affine(device=far)
    doubled = graph.library.function.add()
    doubled.signature.name = "doubled"
    for argument in (doubled.signature.input_arg.add(name="x"), doubled.signature.output_arg.add(name="y")):
        argument.type = 1
    made = node(doubled, "sum", "AddV2", ["x", "x"], far, T=AttrValue(type=1))
    doubled.ret["y"] = f"{made.name}:z:0"
    placed, cleared = built(tmp_path / "placed", graph), built(tmp_path / "cleared", graph, clear_devices=True)
    with pytest.raises(tf.errors.InvalidArgumentError):
        run_v1(placed)
    np.testing.assert_allclose(run_v1(cleared), Y)
    assert b"device:GPU" not in (cleared / "saved_model.pb").read_bytes()


def test_a_function_library_with_values_becomes_a_model_with_variables(tmp_path):
    """Without nodes there is a variable for each value, in an object tree that tf.saved_model.load gives back."""
    concrete = tf.function(lambda x: x + 1).get_concrete_function(tf.TensorSpec([], tf.float32))
    library = concrete.graph.as_graph_def().library
    library.function.append(concrete.function_def)
    builder = Builder(tmp_path / "model")
    builder.add_meta_graph_and_variables(library, {"layer/w": np.ones(3, np.float32)}, ["serve"])
    builder.save()
    verify(tmp_path / "model")
    loaded = tf.saved_model.load(str(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.layer.w.numpy(), np.ones(3))
    assert len(read_model(tmp_path / "model").meta_graphs[0].graph_def.library.function) == 1
