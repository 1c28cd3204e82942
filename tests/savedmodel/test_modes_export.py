"""Train, eval and predict graphs in one export, loaded and run by TensorFlow."""

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from reexport_models import run_cpp, tensors_of, v1  # noqa: E402 - TensorFlow is absent on some machines

from smdaemon.errors import DropError  # noqa: E402 - see above
from smdaemon.savedmodel.mismatch import Mismatch  # noqa: E402 - see above
from smdaemon.savedmodel.modes import Mode, ModeGraph, export_all, modes_of, write_modes  # noqa: E402 - see above
from smdaemon.savedmodel.reexport import reexport  # noqa: E402 - see above
from smdaemon.savedmodel.verify import verify  # noqa: E402 - see above
from smdaemon.savedmodel.writer import write_saved_model  # noqa: E402 - see above

VALUES = {"w": 3.0, "b": 1.0, "slot": 0.5}


def graph(mode, *, saver=False, extra=False):
    """The graph of a mode as the trainer makes it: prediction, loss, or a step of training with a slot variable."""
    with tf.Graph().as_default() as made:
        x = v1.placeholder(tf.float32, [None], name="x")
        w, b = (v1.get_variable(name, [], use_resource=True) for name in "wb")
        y = tf.add(w * x, b, name="y")
        inputs, outputs = {"x": x}, {"y": y}
        train_op = None
        if mode is not Mode.PREDICT:
            outputs = {"loss": tf.reduce_mean(y * y, name="loss")}
        if mode is Mode.TRAIN:
            slot = v1.get_variable("slot", [], use_resource=True)
            train_op = w.assign_sub(slot, read_value=False, name="step").name
        if extra:
            v1.get_variable("only_here", [], use_resource=True)
        signature = v1.saved_model.predict_signature_def(inputs, outputs)
        meta_graph = v1.train.Saver().export_meta_graph() if saver else made.as_graph_def()
    return ModeGraph(meta_graph, {"serving_default": signature}, train_op=train_op)


def all_modes(**options):
    """One graph for each mode."""
    return {mode: graph(mode, **options) for mode in Mode}


def run(path, tag):
    """The output of one mode for x = [2] in a session."""
    with tf.Graph().as_default(), v1.Session() as session:
        signature = v1.saved_model.load(session, [tag], str(path)).signature_def["serving_default"]
        fetches = {name: info.name for name, info in signature.outputs.items()}
        return session.run(fetches, {signature.inputs["x"].name: np.array([2.0], np.float32)})


@pytest.mark.parametrize("saver", [False, True])
def test_three_modes_share_their_variables(tmp_path, cpp_load, saver):
    """Each mode loads under its own tag and computes with the same values; variables/ holds the trainer's."""
    paths = export_all(tmp_path / "base", all_modes(saver=saver), tensors_of(**VALUES), step=41)
    path = tmp_path / "base" / "41"
    assert paths == dict.fromkeys(Mode, path)
    assert run(path, "serve")["y"].tolist() == [7.0]
    assert run(path, "eval")["loss"] == 49.0
    assert run(path, "train")["loss"] == 49.0
    assert run_cpp(cpp_load, path, ("serve",), x=[2.0])["y"].tolist() == [7.0]
    names = [name for name, _ in tf.train.list_variables(str(path / "variables/variables"))]
    assert names == ["b", "slot", "w"]


def test_the_train_op_trains(tmp_path):
    """A loaded train graph runs its step: the export is where training goes on."""
    path = write_modes(tmp_path / "1", all_modes(), tensors_of(**VALUES))
    with tf.Graph().as_default(), v1.Session() as session:
        meta_graph = v1.saved_model.load(session, ["train"], str(path))
        session.run(meta_graph.signature_def["__saved_model_train_op"].outputs["__saved_model_train_op"].name)
        assert session.run("w/Read/ReadVariableOp:0") == 2.5


def test_without_a_train_graph_eval_gives_the_variables(tmp_path):
    """The first mode of train, eval, predict that is there saves; what it has no use for may be ignored."""
    modes = {mode: graph(mode) for mode in (Mode.PREDICT, Mode.EVAL)}
    path = write_modes(tmp_path / "1", modes, tensors_of(**VALUES), unused="ignore")
    assert [name for name, _ in tf.train.list_variables(str(path / "variables/variables"))] == ["b", "w"]
    assert run(path, "eval")["loss"] == 49.0
    with pytest.raises(DropError, match="slot"):
        write_modes(tmp_path / "2", modes, tensors_of(**VALUES))


def test_a_mode_with_variables_of_its_own_is_refused(tmp_path):
    """All such variables are listed, and nothing is left behind."""
    modes = all_modes() | {Mode.EVAL: graph(Mode.EVAL, extra=True), Mode.PREDICT: graph(Mode.PREDICT, extra=True)}
    with pytest.raises(Mismatch) as caught:
        export_all(tmp_path / "base", modes, tensors_of(**VALUES), step=1)
    assert caught.value.code == "savedmodel-inconsistent"
    assert caught.value.problems == (
        "eval has the variable 'only_here', which train has not",
        "predict has the variable 'only_here', which train has not",
    )
    assert list((tmp_path / "base").iterdir()) == []


def test_a_name_map_renames_the_values(tmp_path):
    """As for a re-export."""
    modes = {Mode.PREDICT: graph(Mode.PREDICT)}
    values = {f"model/{name}": tensor for name, tensor in tensors_of(w=3.0, b=1.0).items()}
    path = write_modes(tmp_path / "1", modes, values, name_map={"model/*": "*"})
    assert run(path, "serve")["y"].tolist() == [7.0]
    with pytest.raises(Mismatch) as caught:
        write_modes(tmp_path / "2", modes, tensors_of(w=3.0, v=3.0, b=1.0), name_map={"v": "w", "nothing": "b"})
    assert caught.value.problems == (
        "it names 'nothing', which is not among the tensors",
        "it calls both 'w' and 'v' 'w'",
    )


def test_the_directory_is_named_by_time_or_step(tmp_path, monkeypatch):
    """Without a name the seconds now, or the next number that is free; a given name must be free."""
    modes = {Mode.PREDICT: graph(Mode.PREDICT)}
    values = tensors_of(w=3.0, b=1.0)
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.9)
    names = [export_all(tmp_path, modes, values, sync=False)[Mode.PREDICT].name for _ in range(2)]
    assert names == ["1700000000", "1700000001"]
    assert export_all(tmp_path, modes, values, timestamp=5, sync=False)[Mode.PREDICT] == tmp_path / "5"
    with pytest.raises(DropError) as caught:
        export_all(tmp_path, modes, values, step=5, sync=False)
    assert caught.value.code == "export-dir-exists"
    with pytest.raises(DropError) as caught:
        export_all(tmp_path, modes, values, step=5, timestamp=6)
    assert caught.value.code == "request-invalid"
    with pytest.raises(DropError) as caught:
        export_all(tmp_path, modes, values, step=-1)
    assert caught.value.code == "version-invalid"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1700000000", "1700000001", "5"]


def test_a_failure_leaves_no_draft(tmp_path):
    """Neither a directory of that number nor a hidden one."""

    def fail(_count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export_all(tmp_path, {Mode.PREDICT: graph(Mode.PREDICT)}, tensors_of(w=3.0, b=1.0), step=1, on_bytes=fail)
    assert list(tmp_path.iterdir()) == []


def test_nothing_to_export_is_refused(tmp_path):
    """A request names at least one mode."""
    with pytest.raises(DropError) as caught:
        write_modes(tmp_path / "1", {}, {})
    assert caught.value.code == "request-invalid"


def test_an_export_of_all_modes_is_a_template_for_the_next(tmp_path):
    """`modes_of` gives the modes of an existing export; new values are matched by name, assets come along."""
    first = write_modes(tmp_path / "1", all_modes(), tensors_of(**VALUES))
    modes = modes_of(first)
    assert list(modes) == list(Mode)
    values = {f"{name}:0": tensor for name, tensor in tensors_of(w=4.0, b=2.0, slot=1.0).items()}
    path = write_modes(tmp_path / "2", modes, values)
    assert run(path, "serve")["y"].tolist() == [10.0]
    assert run(path, "eval")["loss"] == 100.0


def test_a_template_without_modes_is_refused(tmp_path):
    """Its tags say nothing of train, eval or serve."""
    path = tmp_path / "1"
    builder = v1.saved_model.Builder(str(path))
    with tf.Graph().as_default(), v1.Session() as session:
        v1.get_variable("w", [])
        session.run(v1.global_variables_initializer())
        builder.add_meta_graph_and_variables(session, ["other"])
        builder.save()
    with pytest.raises(DropError) as caught:
        modes_of(path)
    assert caught.value.code == "tags-not-found"


def test_the_assets_of_templates_come_along(tmp_path):
    """A file that both modes read is copied once, and both find it."""
    words = tmp_path / "words.txt"
    words.write_text("red\ngreen\n")
    path = tmp_path / "template"
    builder = v1.saved_model.Builder(str(path))
    for tags in (["train"], ["serve"]):
        with tf.Graph().as_default(), v1.Session() as session:
            rows = v1.get_variable("rows", [2], use_resource=True)
            table = tf.lookup.StaticHashTable(
                tf.lookup.TextFileInitializer(
                    str(words),
                    tf.string,
                    tf.lookup.TextFileIndex.WHOLE_LINE,
                    tf.int64,
                    tf.lookup.TextFileIndex.LINE_NUMBER,
                ),
                0,
            )
            x = v1.placeholder(tf.string, [None])
            y = tf.gather(rows, table.lookup(x))
            signatures = {"serving_default": v1.saved_model.predict_signature_def({"x": x}, {"y": y})}
            session.run([v1.global_variables_initializer(), v1.tables_initializer()])
            options = {
                "assets_collection": v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
                "main_op": v1.tables_initializer(),
            }
            if tags == ["train"]:
                builder.add_meta_graph_and_variables(session, tags, signatures, **options)
            else:
                builder.add_meta_graph(tags, signatures, **options)
    builder.save()
    words.unlink()
    new = write_modes(tmp_path / "1", modes_of(path), tensors_of(rows=[5.0, 7.0]))
    assert [file.name for file in (new / "assets").iterdir()] == ["words.txt"]
    for tag in ("train", "serve"):
        with tf.Graph().as_default(), v1.Session() as session:
            signature = v1.saved_model.load(session, [tag], str(new)).signature_def["serving_default"]
            got = session.run(signature.outputs["y"].name, {signature.inputs["x"].name: ["green", "red"]})
            assert got.tolist() == [7.0, 5.0]


def test_one_mode_of_a_template_is_exported_alone(tmp_path):
    """By its tags: the other meta graphs go, and so do the variables that only they use."""
    template = write_modes(tmp_path / "template", all_modes(), tensors_of(**VALUES))
    contents = reexport(template, tensors_of(w=4.0, b=2.0), tags=["serve"])
    assert sorted(contents.tensors) == ["b", "w"]
    write_saved_model(tmp_path / "1", contents)
    assert run(tmp_path / "1", "serve")["y"].tolist() == [10.0]
    with pytest.raises(RuntimeError, match="train"):
        run(tmp_path / "1", "train")
    assert verify(tmp_path / "1").tensors == 2


def test_all_modes_of_a_template_can_be_exported_again(tmp_path):
    """Without tags every meta graph stays, over one set of new values."""
    template = write_modes(tmp_path / "template", all_modes(), tensors_of(**VALUES))
    write_saved_model(tmp_path / "1", reexport(template, tensors_of(w=4.0, b=2.0, slot=1.0)))
    assert run(tmp_path / "1", "serve")["y"].tolist() == [10.0]
    assert run(tmp_path / "1", "train")["loss"] == 100.0
