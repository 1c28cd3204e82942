"""Where operations were made: kept when it is asked for, nowhere in the model otherwise."""

import os
from pathlib import Path

import numpy as np
import pytest
from jax_kit import KEY, PARAMS, B, W, X, run_everywhere

from smdaemon.proto.tensorflow import GraphDebugInfo
from smdaemon.savedmodel.function_bundle import decode_functions
from smdaemon.savedmodel.jax import describe, save, symbolic
from smdaemon.savedmodel.options import SaveOptions

tf = pytest.importorskip("tensorflow")
LINES = Path(__file__).read_text().splitlines()


def predict(params, x):
    """Two lines that are looked for."""
    product = x @ params["w"]  # here: dot_general
    return product + params["b"]  # here: add


def line_of(operation):
    """The number of the line above that makes an operation."""
    (line,) = [number for number, text in enumerate(LINES, 1) if text.endswith(f"# here: {operation}")]
    return line


def traces(path):
    """The stacks of the nodes of a model: of each call the file, the line, the function."""
    info = GraphDebugInfo.FromString((path / "debug" / "saved_model_debug_info.pb").read_bytes())
    frames = {key: (info.files[frame.file_index], frame.line, frame.func) for key, frame in info.frames_by_id.items()}
    return {
        name: [frames[frame] for frame in info.traces_by_id[key].frame_id]
        for name, key in info.name_to_trace_id.items()
    }


@pytest.fixture(scope="module")
def debugged(tmp_path_factory):
    """A model with debug info."""
    path = tmp_path_factory.mktemp("debug") / "model"
    inputs = {"x": symbolic("batch, 3", "float32")}
    save(predict, PARAMS, path, inputs, options=SaveOptions(save_debug_info=True), sync=False)
    return path


@pytest.mark.parametrize("operation", ["dot_general", "add"])
def test_the_lines_of_the_jax_source_are_found(debugged, operation):
    """Each operation has its stack, the line of the function last; its name tells the node and the function."""
    found = {
        stack[-1]
        for name, stack in traces(debugged).items()
        if name.startswith(f"XlaCallModule/{operation}_") and "@__xla_serving_default_" in name
    }
    assert (__file__, line_of(operation), "predict") in found


def test_the_node_has_what_its_operations_share(debugged):
    """The one that calls the module: the calls down to the function."""
    (stack,) = [stack for name, stack in traces(debugged).items() if name.startswith("XlaCallModule@")]
    assert (stack[-1][0], stack[-1][2]) == (__file__, "predict")


def test_loaders_take_a_model_with_debug_info(debugged, cpp_load):
    """A file that they could not read would make them fail."""
    found = run_everywhere(tf, cpp_load, debugged, {"x": X})
    np.testing.assert_allclose(found["output_0"], X @ W + B, rtol=1e-6)
    assert tf.saved_model.load(str(debugged)).graph_debug_info.files


def test_no_path_of_the_machine_is_in_a_model(tmp_path, debugged):
    """Neither in the graph of a model with debug info, nor anywhere in one without."""
    inputs = {"x": symbolic("batch, 3", "float32")}
    save({"f": predict}, PARAMS, tmp_path / "model", {"f": inputs}, vjp_order=1, sync=False)
    assert not (tmp_path / "model" / "debug").exists()
    content = describe(predict, PARAMS, inputs)
    for each in [debugged / "saved_model.pb", *(tmp_path / "model").rglob("*.*")]:
        content += each.read_bytes()
    home = Path(__file__).parents[2]
    for trace in (__file__, Path(__file__).name, str(home), os.sep + "site-packages", ".py", "test_no_path"):
        assert trace.encode() not in content


def test_a_bundle_keeps_stacks_where_it_is_asked(debugged):
    """They are those that `save` writes."""
    inputs = {"x": symbolic("batch, 3", "float32")}
    assert not decode_functions(describe(predict, PARAMS, inputs), "it").has_debug_info
    bundle = decode_functions(describe(predict, PARAMS, inputs, debug_info=True), "it")
    assert bundle.has_debug_info
    kept = {f"{node}@__xla_{KEY}_0" for node in bundle.functions[KEY].traces}
    assert kept == {*traces(debugged)}
