"""Checkpoints of TensorFlow 1 sessions, exported with their graphs: all of TensorFlow's loaders compute what the session did."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from smdaemon.errors import DropError
from smdaemon.placement import count_devices, parse_policy
from smdaemon.proto.tensorflow import MetaGraphDef
from smdaemon.savedmodel.meta_graph import GraphOptions, export_checkpoint_with_graph
from smdaemon.savedmodel.reader import read_saved_model
from smdaemon.savedmodel.signatures_request import SignatureRequest, SparseNames
from smdaemon.savedmodel.verify import verify
from smdaemon.savedmodel.writer import write_saved_model
from smdaemon.tensorbundle import BundleReader

tf = pytest.importorskip("tensorflow")
v1 = tf.compat.v1

PREDICT = {
    "serving_default": SignatureRequest(
        {"words": "words:0", "x": "x"}, {"score": "score:0", "ids": "ids", "probe": "probe"}
    )
}
WORDS = np.array([b"b", b"zebra", b"a"])
X = np.arange(12, dtype=np.float32).reshape(3, 4)


def trained(directory, *, resource=True, sharded=False, partitions=2, device="", text=False):
    """A session's checkpoint: a table with its vocabulary, a partitioned variable, Adam's slots, dropout-like training ops.

    Gives the prefix and what the session computes for WORDS and X.
    """
    directory.mkdir(parents=True, exist_ok=True)
    vocabulary = directory / "vocab.txt"
    vocabulary.write_text("a\nb\nc\n")
    with (
        tf.Graph().as_default(),
        v1.Session(config=v1.ConfigProto(allow_soft_placement=True)) as session,
        tf.device(device),
    ):
        words = v1.placeholder(tf.string, [None], name="words")
        x = v1.placeholder(tf.float32, [None, 4], name="x")
        table = tf.lookup.StaticHashTable(
            tf.lookup.TextFileInitializer(
                str(vocabulary),
                tf.string,
                tf.lookup.TextFileIndex.WHOLE_LINE,
                tf.int64,
                tf.lookup.TextFileIndex.LINE_NUMBER,
            ),
            3,
        )
        ids = tf.identity(table.lookup(words), name="ids")
        tf.identity(table.lookup(tf.constant(["c", "b"])), name="probe")
        with v1.variable_scope("net", use_resource=resource):
            embedding = v1.get_variable(
                "embedding",
                [5, 4],
                partitioner=v1.fixed_size_partitioner(partitions),
                initializer=v1.random_uniform_initializer(seed=3),
            )
            bias = v1.get_variable("bias", initializer=tf.constant([0.5]))
        found = v1.nn.embedding_lookup(embedding, ids, partition_strategy="div")
        score = tf.add(tf.reduce_sum(found * x, axis=1), bias, name="score")
        step = v1.train.get_or_create_global_step()
        train = v1.train.AdamOptimizer(0.1).minimize(tf.reduce_sum(score**2), global_step=step)
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        feed = {words: WORDS, x: X}
        session.run(train, feed)
        saver = v1.train.Saver(sharded=sharded)
        prefix = saver.save(session, str(directory / "model.ckpt"), global_step=step)
        if text:
            Path(f"{prefix}.meta").unlink()
            saver.export_meta_graph(f"{prefix}.meta", as_text=True)
        return Path(prefix), session.run({"score": score, "ids": ids}, feed)


def exported(prefix, export_dir, **options):
    """The verified export."""
    meta = options.pop("meta", None)
    with export_checkpoint_with_graph(prefix, GraphOptions(signatures=PREDICT, **options), meta=meta) as contents:
        write_saved_model(export_dir, contents, sync=False)
    verify(export_dir)
    return export_dir


@pytest.fixture(name="check_runs")
def check_runs_(cpp_load):
    """The function that holds an export to what the session computed."""
    return lambda export_dir, expected: ran(export_dir, expected, cpp_load)


def ran(export_dir, expected, cpp_load):
    """All three loaders load the model and compute `expected`; the model as TensorFlow 2 has it."""
    model = tf.saved_model.load(str(export_dir))
    results = model.signatures["serving_default"](words=tf.constant(WORDS), x=tf.constant(X))
    found = [{name: value.numpy() for name, value in results.items()}]
    with tf.Graph().as_default(), v1.Session() as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = v1.saved_model.loader.load(session, ["serve"], str(export_dir))
        signature = loaded.signature_def["serving_default"]
        feed = {signature.inputs["words"].name: WORDS, signature.inputs["x"].name: X}
        found.append(session.run({name: info.name for name, info in signature.outputs.items()}, feed))
    for values in found:
        assert np.array_equal(values["ids"], expected["ids"])
        assert np.allclose(values["score"], expected["score"], rtol=1e-6)
        assert values["probe"].tolist() == [2, 1]
    # strings cannot be fed here: the table is asked by a constant
    feeds = {"ids:0": (expected["ids"], 9), "x:0": (X, 1)}
    score, probe = cpp_load.run(cpp_load.load(export_dir), feeds, [("score:0", np.float32), ("probe:0", np.int64)])
    assert np.allclose(score, expected["score"], rtol=1e-6)
    assert probe.tolist() == [2, 1]
    return model


@pytest.mark.parametrize("resource", [True, False], ids=["resource", "ref"])
@pytest.mark.parametrize("pruned", [True, False], ids=["pruned", "whole"])
def test_a_checkpoint_with_its_graph_serves(tmp_path, check_runs, resource, pruned):
    """Signatures by tensor names, tables filled from an asset, partitioned variables: the session's numbers."""
    prefix, expected = trained(tmp_path / "run", resource=resource)
    export_dir = exported(prefix, tmp_path / "model", prune=pruned)
    (tmp_path / "run" / "vocab.txt").unlink()
    model = check_runs(export_dir, expected)
    assert (export_dir / "assets" / "vocab.txt").read_text() == "a\nb\nc\n"
    # TensorFlow 2 lists resource variables only, as those of a SavedModel that TensorFlow 1 wrote
    assert len(model.variables) == (12 if resource else 1)
    assert model.signatures["serving_default"].output_shapes["score"].as_list() == [None]


def test_pruning_drops_what_serving_does_not_need(tmp_path):
    """The training ops go, and the graph is a third of what it was."""
    prefix, _ = trained(tmp_path / "run")
    counts = []
    for pruned in (False, True):
        with export_checkpoint_with_graph(prefix, GraphOptions(signatures=PREDICT, prune=pruned)) as contents:
            nodes = contents.model.meta_graphs[0].graph_def.node
            counts.append((len(nodes), any("gradients" in node.name for node in nodes)))
    (whole, trains), (pruned, still_trains) = counts
    assert trains
    assert not still_trains
    assert pruned < 0.7 * whole


def test_sharded_checkpoints_text_graphs_and_stripped_attrs(tmp_path, check_runs):
    """A sharded saver, a graph in text format, default attrs stripped."""
    prefix, expected = trained(tmp_path / "run", sharded=True, text=True, partitions=3)
    export_dir = exported(prefix, tmp_path / "model", strip_default_attrs=True)
    check_runs(export_dir, expected)


def test_devices_are_cleared_on_the_way(tmp_path, check_runs):
    """A graph placed on a machine that is not here serves once its devices are stripped."""
    prefix, expected = trained(tmp_path / "run", device="/device:GPU:1")
    export_dir = exported(prefix, tmp_path / "model", devices=parse_policy("strip"))
    with export_checkpoint_with_graph(prefix, GraphOptions(signatures=PREDICT)) as contents:
        assert any(count_devices(contents.model.meta_graphs[0]).values())
    check_runs(export_dir, expected)


def test_another_graph_may_be_named(tmp_path, check_runs):
    """Savers that write the graph once: later checkpoints are exported with the first one's."""
    prefix, expected = trained(tmp_path / "run")
    Path(f"{prefix}.meta").rename(tmp_path / "first.meta")
    with pytest.raises(DropError) as caught:
        exported(prefix, tmp_path / "model")
    assert caught.value.code == "checkpoint-graph-missing"
    check_runs(exported(prefix, tmp_path / "model", meta=tmp_path / "first.meta"), expected)


def test_a_moved_directory_brings_its_assets(tmp_path, check_runs):
    """The graph has the asset's old path: it is found beside the checkpoint; elsewhere only where the operator says so."""
    prefix, expected = trained(tmp_path / "run")
    moved = (tmp_path / "run").rename(tmp_path / "moved")
    check_runs(exported(moved / prefix.name, tmp_path / "model"), expected)
    (moved / "vocab.txt").rename(tmp_path / "vocab.txt")
    with pytest.raises(DropError, match=r"vocab.txt' of the tensor .* is not beneath") as caught:
        exported(moved / prefix.name, tmp_path / "model2")
    assert caught.value.code == "asset-invalid"
    check_runs(exported(moved / prefix.name, tmp_path / "model2", asset_dirs=[tmp_path]), expected)


@pytest.mark.parametrize("named", ["a circle", "NUL", "a long name"])
def test_an_asset_that_is_no_file_is_refused_by_name(tmp_path, named):
    """Links that lead to each other, and text that can name no file."""
    prefix, _ = trained(tmp_path / "run")
    vocabulary = tmp_path / "run" / "vocab.txt"
    vocabulary.unlink()
    vocabulary.symlink_to(vocabulary.name)
    path = {"a circle": os.fsencode(vocabulary), "NUL": b"a\0b", "a long name": b"a" * 300}[named]
    meta = MetaGraphDef.FromString(Path(f"{prefix}.meta").read_bytes())
    (asset,) = meta.collection_def["asset_filepaths"].node_list.value
    (node,) = (node for node in meta.graph_def.node if f"{node.name}:0" == asset)
    node.attr["value"].tensor.string_val[0] = path
    Path(f"{prefix}.meta").write_bytes(meta.SerializeToString())
    with pytest.raises(DropError, match="is not beneath") as caught:
        exported(prefix, tmp_path / "model", asset_dirs=[vocabulary])
    assert caught.value.code == "asset-invalid"


@pytest.fixture(params=[False, True], ids=["while", "enter-exit"])
def old_loops(request):
    """Whether loops are rings of nodes, as TensorFlow 1 had them, or functions."""
    if request.param:
        v1.disable_control_flow_v2()
    yield request.param
    v1.enable_control_flow_v2()


def test_local_variables_sparse_inputs_loops_and_functions(tmp_path, cpp_load, old_loops):
    """What no checkpoint holds is initialised after loading; input pipelines are not; loops and functions survive pruning."""
    (tmp_path / "train.csv").write_text("1\n")
    with tf.Graph().as_default(), v1.Session() as session:
        pipeline = v1.data.make_initializable_iterator(tf.data.TextLineDataset(str(tmp_path / "train.csv")))
        v1.add_to_collection(v1.GraphKeys.TABLE_INITIALIZERS, pipeline.initializer)
        record = tf.strings.to_number(pipeline.get_next())
        sparse = v1.sparse_placeholder(tf.float32, [None, 3], name="sparse")
        w = v1.get_variable("w", initializer=tf.constant([1.0, 2.0, 3.0]), use_resource=True)
        offset = v1.get_variable(
            "offset", initializer=tf.constant(10.0), collections=[v1.GraphKeys.LOCAL_VARIABLES], use_resource=False
        )

        @tf.function
        def doubled(value):
            return tf.function(lambda inner: inner * 2.0)(value)

        dense = tf.sparse.to_dense(sparse)
        looped = v1.while_loop(lambda i, _: i < 3, lambda i, value: (i + 1, value + dense), [tf.constant(0), dense])[1]
        tf.add(doubled(tf.linalg.matvec(looped, w)), offset, name="y")
        loss = tf.reduce_sum(w * record)
        v1.train.GradientDescentOptimizer(0.1).minimize(loss)
        session.run([v1.global_variables_initializer(), v1.local_variables_initializer()])
        prefix = Path(v1.train.Saver().save(session, str(tmp_path / "model.ckpt")))
        feed = {sparse: v1.SparseTensorValue([[0, 1], [1, 2]], [5.0, 7.0], [2, 3])}
        expected = session.run("y:0", feed)
        indices, values, dense_shape = (part.name for part in (sparse.indices, sparse.values, sparse.dense_shape))
    (tmp_path / "train.csv").unlink()
    request = {"serving_default": SignatureRequest({"x": SparseNames(indices, values, dense_shape)}, {"y": "y"})}
    for pruned in (True, False):
        export_dir = tmp_path / f"model_{pruned}"
        options = GraphOptions(signatures=request, prune=pruned)
        with export_checkpoint_with_graph(prefix, options) as contents:
            if pruned:
                left = {node.op for node in contents.model.meta_graphs[0].graph_def.node}
                assert not left & {"IteratorGetNext", "MakeIterator", "ResourceApplyGradientDescent"}
                functions = contents.model.meta_graphs[0].graph_def.library.function
                assert len(functions) == (2 if old_loops else 4)  # one in another; condition and body of a loop
            write_saved_model(export_dir, contents, sync=False)
        verify(export_dir)
        serve = tf.saved_model.load(str(export_dir)).signatures["serving_default"]
        parts = {"x_indices": [[0, 1], [1, 2]], "x_dense_shape": [2, 3]}
        given = {name: tf.constant(part, tf.int64) for name, part in parts.items()}
        assert serve(x_values=tf.constant([5.0, 7.0]), **given)["y"].numpy().tolist() == expected.tolist()
        with tf.Graph().as_default(), v1.Session() as session, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            v1.saved_model.loader.load(session, ["serve"], str(export_dir))
            fed = {indices: [[0, 1], [1, 2]], values: [5.0, 7.0], dense_shape: [2, 3]}
            assert session.run("y:0", fed).tolist() == expected.tolist()
        feeds = {
            indices: (np.array([[0, 1], [1, 2]]), 9),
            values: (np.array([5.0, 7.0], np.float32), 1),
            dense_shape: (np.array([2, 3]), 9),
        }
        (found,) = cpp_load.run(cpp_load.load(export_dir), feeds, [("y:0", np.float32)])
        assert found.tolist() == expected.tolist()


def test_the_same_checkpoint_as_tensorflow_exports_it(tmp_path):
    """Signatures, variables and assets are those that TensorFlow's own builder writes for the same session."""
    prefix, _ = trained(tmp_path / "run")
    exported(prefix, tmp_path / "ours")
    with tf.Graph().as_default(), v1.Session() as session, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        v1.train.import_meta_graph(f"{prefix}.meta").restore(session, str(prefix))
        graph = session.graph
        info = v1.saved_model.build_tensor_info
        signature = v1.saved_model.build_signature_def(
            {"words": info(graph.get_tensor_by_name("words:0")), "x": info(graph.get_tensor_by_name("x:0"))},
            {name: info(graph.get_tensor_by_name(f"{name}:0")) for name in ("score", "ids", "probe")},
            "tensorflow/serving/predict",
        )
        builder = v1.saved_model.Builder(str(tmp_path / "theirs"))
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": signature},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
        )
        builder.save()
    (_, ours), (_, theirs) = (read_saved_model(tmp_path / name) for name in ("ours", "theirs"))
    (ours,), (theirs,) = ours.meta_graphs, theirs.meta_graphs
    assert ours.signature_def["serving_default"] == theirs.signature_def["serving_default"]
    assert ours.meta_info_def.tags == theirs.meta_info_def.tags
    for name in ("variables", "trainable_variables", "saved_model_assets"):
        assert ours.collection_def[name] == theirs.collection_def[name]
    with (
        BundleReader(tmp_path / "ours/variables/variables") as first,
        BundleReader(tmp_path / "theirs/variables/variables") as second,
    ):
        assert first.keys() == second.keys()
        for key in first.keys():  # noqa: SIM118 - a reader is no mapping
            assert np.array_equal(first.array(key), second.array(key))
