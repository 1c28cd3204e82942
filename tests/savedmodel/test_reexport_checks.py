"""What a re-export refuses and what it leaves alone."""

import os

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from reexport_models import exported, run_v2, save_affine, tensors_named  # noqa: E402 - TensorFlow is absent on some machines

from smdaemon.errors import DropError  # noqa: E402 - see above
from smdaemon.savedmodel.mismatch import Mismatch  # noqa: E402 - see above
from smdaemon.savedmodel.reexport import reexport  # noqa: E402 - see above
from smdaemon.savedmodel.writer import write_saved_model  # noqa: E402 - see above

GOOD = {"layer/kernel": [[3.0, 4.0]], "layer/bias": [1.0, -1.0]}


@pytest.fixture(scope="module")
def affine(tmp_path_factory):
    """A tf.Module with a function, saved by TensorFlow 2."""
    return save_affine(tmp_path_factory.mktemp("affine") / "template")


def problems_of(template, tensors, **options):
    """All that does not fit."""
    with pytest.raises(Mismatch) as caught:
        reexport(template, tensors_named(tensors), **options)
    assert caught.value.code == "template-mismatch"
    assert len(caught.value.message) < 2000
    return list(caught.value.problems)


def test_everything_that_does_not_fit_is_listed_together(affine):
    """A wrong dtype, a missing variable and an unused tensor in one error."""
    assert problems_of(affine, {"layer/kernel": np.zeros((1, 2)), "x": 1.0}) == [
        "'layer/kernel' is float64, the template's 'layer/kernel/.ATTRIBUTES/VARIABLE_VALUE' is float32",
        "no tensor is the value of 'layer/bias/.ATTRIBUTES/VARIABLE_VALUE'",
        "the tensor 'x' belongs to no variable",
    ]


def test_a_wrong_shape_is_told_with_both(affine):
    """Also where partitions do not make the whole."""
    assert problems_of(affine, GOOD | {"layer/bias": [1.0, 2.0, 3.0]}) == [
        "'layer/bias' has shape (3,), the template's 'layer/bias/.ATTRIBUTES/VARIABLE_VALUE' (2,)"
    ]
    bias = "layer/bias/.ATTRIBUTES/VARIABLE_VALUE"
    parts = {"layer/kernel": [[3.0, 4.0]], "layer/bias/part_0": [1.0, 2.0], "layer/bias/part_1": [1.0]}
    assert problems_of(affine, parts) == [
        f"'layer/bias/part_0' and its other partitions, of shapes (2,), (1,), do not make {bias!r} of (2,)"
    ]


def test_a_long_list_is_cut_in_the_message_and_whole_in_the_error(affine):
    """A message stays short; `problems` has all, the remedy as many as are useful."""
    with pytest.raises(Mismatch) as caught:
        reexport(affine, tensors_named(GOOD | {f"x{number}": 1.0 for number in range(5000)}))
    assert len(caught.value.problems) == 5000
    assert caught.value.message.endswith("; and 4997 more")
    assert len(caught.value.message) < 500
    assert "'x1684'" in caught.value.remedy
    assert len(caught.value.remedy) < 40_000


@pytest.fixture(scope="module")
def half_used(tmp_path_factory):
    """Two unnamed variables of zeros, `used` by the function and `idle` not."""
    module = tf.Module()
    module.used, module.idle = tf.Variable([0.0, 0.0]), tf.Variable([0.0, 0.0])
    module.serve = tf.function(lambda x: x + module.used, [tf.TensorSpec([2])])
    path = tmp_path_factory.mktemp("half_used") / "template"
    tf.saved_model.save(module, str(path))
    return path


def test_a_variable_that_no_function_uses_is_missed_like_any_other(half_used):
    """That it has the name and the value of another does not make it a copy of that; nor does their name mean both."""
    used, idle = (f"{name}/.ATTRIBUTES/VARIABLE_VALUE" for name in ("used", "idle"))
    assert problems_of(half_used, {"used": [1.0, 2.0]}) == [f"no tensor is the value of {idle!r}"]
    assert problems_of(half_used, {"Variable": [1.0, 2.0]}, missing="keep") == [
        f"'Variable' is the name of 2 variables: {used!r}, {idle!r}"
    ]


def test_a_variable_that_no_function_uses_keeps_its_own_value(half_used, tmp_path):
    """With missing="keep" it does not take that of another variable which looked like it."""
    path = exported(tmp_path / "1", half_used, tensors_named({"used": [1.0, 2.0]}), missing="keep")
    model = tf.saved_model.load(str(path))
    assert (model.used.numpy().tolist(), model.idle.numpy().tolist()) == ([1.0, 2.0], [0.0, 0.0])


def test_unused_tensors_may_be_ignored(affine, tmp_path):
    """The optimizer's slots, say."""
    new = tensors_named(GOOD | {"optimizer/m": 1.0})
    path = exported(tmp_path / "1", affine, new, unused="ignore")
    assert run_v2(path, x=np.float32([[2.0]]))["y"].tolist() == [[7.0, 7.0]]


def test_tensors_of_another_model_are_refused_whatever_may_be_missing(affine):
    """Else the template itself would be published; without any tensors its copy is what was asked for."""
    options = {"missing": "keep", "unused": "ignore"}
    assert problems_of(affine, {"other/w": 1.0, "other/v": 1.0}, **options) == [
        "not one of the 2 tensors, such as 'other/v', is the value of a variable"
    ]
    assert len(reexport(affine, {}, **options).tensors) == len(reexport(affine, tensors_named(GOOD)).tensors)


def test_unknown_tags_are_answered_with_those_that_exist(affine):
    """`tags` are exactly one meta graph's."""
    with pytest.raises(DropError, match="there are \\['serve'\\]") as caught:
        reexport(affine, tensors_named(GOOD), tags=["serve", "gpu"])
    assert caught.value.code == "tags-not-found"


def test_a_variable_of_open_shape_takes_any_that_fits(tmp_path):
    """shape=[None, 2] is what the variable declares; the template's value has 1 row, the new one 3."""
    module = tf.Module()
    module.rows = tf.Variable([[1.0, 2.0]], shape=[None, 2])
    tf.saved_model.save(module, str(tmp_path / "template"))
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    path = exported(tmp_path / "1", tmp_path / "template", tensors_named({"rows": rows}))
    assert np.array_equal(tf.saved_model.load(str(path)).rows, rows)
    assert len(problems_of(tmp_path / "template", {"rows": np.zeros((3, 3), np.float32)})) == 1


@pytest.mark.parametrize("policy", [None, "strip"])
def test_what_newer_protobufs_added_survives(affine, tmp_path, policy):
    """Fields that are unknown here are written as they were read, at every level, whether the model is edited or not."""
    import shutil

    from smdaemon.placement import parse_policy
    from smdaemon.proto.tensorflow import SavedModel

    template = tmp_path / "template"
    shutil.copytree(affine, template)
    unknown = b"\xfa\x7f\x05novel"  # field 2047, five bytes
    model = SavedModel.FromString((template / "saved_model.pb").read_bytes() + unknown)
    for message in (
        model.meta_graphs[0],
        model.meta_graphs[0].graph_def.node[0],
        model.meta_graphs[0].graph_def.library.function[0],
        model.meta_graphs[0].object_graph_def.nodes[0],
    ):
        message.MergeFromString(unknown)
    (template / "saved_model.pb").write_bytes(model.SerializeToString())
    path = exported(tmp_path / "1", template, tensors_named(GOOD), policy=policy and parse_policy(policy))
    content = (path / "saved_model.pb").read_bytes()
    assert content.count(unknown) == 5
    assert SavedModel.FromString(content).meta_graphs[0].graph_def.node[0].SerializeToString().endswith(unknown)


def test_an_unedited_model_stays_the_same_message(affine, tmp_path):
    """saved_model.pb is the template's but for the order of map entries; twice the same gives the same bytes."""
    from smdaemon.proto.tensorflow import SavedModel

    one, two = (exported(tmp_path / name, affine, tensors_named(GOOD)) for name in "12")
    content = (one / "saved_model.pb").read_bytes()
    assert content == (two / "saved_model.pb").read_bytes()
    assert SavedModel.FromString(content) == SavedModel.FromString((affine / "saved_model.pb").read_bytes())
    assert (one / "fingerprint.pb").read_bytes() == (two / "fingerprint.pb").read_bytes()


def test_the_templates_files_are_closed_after_the_export(affine, tmp_path):
    """They stay open as long as the contents live, and no longer."""
    import gc
    from contextlib import suppress
    from pathlib import Path

    contents = reexport(affine, tensors_named({"layer/bias": [1.0, 1.0]}), missing="keep")

    def open_files():
        found = []
        for link in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):  # the descriptor of the listing itself
                found.append(link.readlink())
        return [target for target in found if target.is_relative_to(affine)]

    write_saved_model(tmp_path / "1", contents, sync=False)
    assert open_files()
    del contents
    gc.collect()
    assert not open_files()


def test_debug_info_that_would_break_loaders_is_refused(affine, tmp_path):
    """TensorFlow's loaders fail on a damaged one; without debug info the model is exported."""
    import shutil

    template = tmp_path / "template"
    shutil.copytree(affine, template)
    (template / "debug").mkdir()
    (template / "debug/saved_model_debug_info.pb").write_bytes(b"\xff\xff")
    with pytest.raises(DropError) as caught:
        reexport(template, tensors_named(GOOD))
    assert caught.value.code == "savedmodel-corrupt"
    assert reexport(template, tensors_named(GOOD), debug_info=False).debug_info is None


@pytest.mark.parametrize("name", ["saved_model.pb", "variables/variables.index"])
def test_a_damaged_template_is_an_error_of_ours(affine, tmp_path, name):
    """Cut or with some bytes changed, at random: an export or an error with a code, nothing else."""
    import random
    import shutil

    template = tmp_path / "template"
    shutil.copytree(affine, template)
    sound = (template / name).read_bytes()
    chance = random.Random(5)
    codes = set()
    for number in range(60):
        content = bytearray(sound)
        if number % 3:
            for _ in range(chance.randrange(1, 6)):
                content[chance.randrange(len(content))] = chance.randrange(256)
        else:
            del content[chance.randrange(len(content)) :]
        (template / name).write_bytes(content)
        try:
            exported(tmp_path / str(number), template, tensors_named(GOOD), missing="keep", unused="ignore")
        except DropError as error:
            codes.add(error.code)
    assert codes


@pytest.mark.parametrize("folder", ["assets", "assets.extra", "assets.extra/deeper"])
def test_assets_that_cannot_be_listed_are_an_error(tmp_path, monkeypatch, folder):
    """A template with them gives no model without them."""
    template = save_affine(tmp_path / "template")
    (template / folder).mkdir(parents=True, exist_ok=True)
    scandir = os.scandir

    def refused(path):
        if os.fspath(path) == os.fspath(template / folder):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(PermissionError):
        reexport(template, tensors_named(GOOD))
