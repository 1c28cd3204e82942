"""Function bundles: what they hold, checkpoints that fit them and do not, and bundles that are damaged or lie."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax_kit import KEY, PARAMS, B, W, X, affine
from jax_process_models import arguments, described

from smdaemon.errors import CODES, DropError
from smdaemon.proto import v1
from smdaemon.savedmodel.encode_structure import encoded
from smdaemon.savedmodel.exported_function import Operand
from smdaemon.savedmodel.function_bundle import decode_functions, encode_functions
from smdaemon.savedmodel.function_model import function_contents, parameter_values
from smdaemon.savedmodel.jax import describe, save
from smdaemon.savedmodel.mismatch import Mismatch
from smdaemon.savedmodel.structure import NamedTuple, TensorSpec
from smdaemon.savedmodel.values import tensors_of
from smdaemon.savedmodel.writer import write_saved_model


@pytest.fixture(scope="module")
def content():
    """A bundle of one function, for the CPU."""
    return describe(affine, PARAMS, {"x": X}, platforms=("cpu",), debug_info=True)


def contents_of(content, values=PARAMS, **options):
    """The SavedModel of a bundle and the tensors of a checkpoint, as an export makes it."""
    bundle = decode_functions(content, "it.functions")
    bundle.check()
    return function_contents(bundle, parameter_values(bundle.parameters, tensors_of(values), **options))


def changed(content, change):
    """The bundle with a change made to its message."""
    message = v1.FunctionBundle.FromString(content)
    change(message)
    return message.SerializeToString()


def test_a_bundle_holds_everything_but_the_values(content):
    """Parameters, inputs, outputs, operands by place and name, the structures of a call."""
    bundle = decode_functions(content, "it.functions")
    assert bundle.parameters == (TensorSpec("b", "float32", (2,)), TensorSpec("w", "float32", (3, 2)))
    assert bundle.producer.startswith("jax ")
    (function,) = bundle.functions.values()
    x, y = TensorSpec("x", "float32", (2, 3)), TensorSpec("output_0", "float32", (2, 2))
    assert (function.inputs, function.outputs) == ((x,), (y,))
    assert (dict(function.arguments), function.returned) == ({"x": x}, y)
    assert function.operands == (Operand(parameter="b"), Operand(parameter="w"), Operand(0))
    assert (function.attribute, function.platforms) == ("__call__", ("cpu",))
    assert b"".join(value.tobytes() for value in PARAMS.values()) not in content


def test_what_is_encoded_is_decoded(content):
    """All of it, also the order of arguments and the kinds of containers."""
    bundle = decode_functions(content, "it")
    assert encode_functions(bundle) == content
    assert decode_functions(encode_functions(bundle), "it") == bundle
    one = np.zeros(1, np.float32)
    inputs = {"z": one, "a": [one, (one, None)], "m": {"k": one}}
    nested = describe(lambda p, **given: given, {}, inputs)
    function = decode_functions(nested, "it").functions[KEY]
    assert [*function.arguments] == ["z", "a", "m"]
    assert isinstance(function.arguments["a"], list)
    assert isinstance(function.arguments["a"][1], tuple)
    assert encode_functions(decode_functions(nested, "it")) == nested


def test_shapes_are_enough_to_describe(content):
    """The bundle of abstract parameters is that of their values."""
    import jax

    shapes = jax.eval_shape(lambda: PARAMS)
    assert describe(affine, shapes, {"x": X}, platforms=("cpu",), debug_info=True).count(b"affine") > 0
    options = {"inputs": {"x": X}, "platforms": ("cpu",)}
    assert describe(affine, shapes, **options) == describe(affine, PARAMS, **options)


def test_a_bundle_and_a_checkpoint_make_what_save_makes(tmp_path):
    """The same files, byte for byte, from the same values."""
    functions, params, inputs = arguments()
    save(functions, params, tmp_path / "saved", inputs, vjp_order=1, sync=False)
    write_saved_model(tmp_path / "made", contents_of(described(), params), sync=False)
    for name in ("saved_model.pb", "fingerprint.pb", "variables/variables.index"):
        assert (tmp_path / "made" / name).read_bytes() == (tmp_path / "saved" / name).read_bytes(), name


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ({"w": W, "b": B, "opt/mu": W}, {}),
        ({"params/w": W, "params/b": B}, {"name_map": {"params/*": "*"}}),
        ({"kernel": W, "b": B}, {"name_map": {"kernel": "w"}, "unused": "error"}),
    ],
)
def test_tensors_are_found_by_name_or_name_map(content, values, options):
    """What is no parameter is passed over, unless it is not to be."""
    found = contents_of(content, values, **options).tensors
    assert {"b/.ATTRIBUTES/VARIABLE_VALUE", "w/.ATTRIBUTES/VARIABLE_VALUE"} < found.keys()


def test_nested_parameters_are_found_by_dots():
    """PyTorch's names have dots where JAX's paths have slashes."""
    params = {"layers": [{"w": W}]}
    content = describe(lambda p, x: x @ p["layers"][0]["w"], params, {"x": X})
    assert "layers/0/w/.ATTRIBUTES/VARIABLE_VALUE" in contents_of(content, {"layers.0.w": W}).tensors


def test_everything_that_does_not_fit_is_told_at_once(content):
    """Shapes, dtypes, missing and surplus tensors in one error, with the name map that would help."""
    params = {"a": W, "b": B, "c": W, "d": B}
    content = describe(lambda p, x: x, params, {"x": X})
    values = {"a": W.T, "b": B.astype("float64"), "model/c": W, "extra": B}
    with pytest.raises(Mismatch) as caught:
        contents_of(content, values, unused="error")
    assert caught.value.code == "parameters-mismatch"
    wanted = [
        "'a' is float32 of (2, 3), and was float32 of (3, 2)",
        "'b' is float64 of (2,), and was float32 of (2,)",
        "no tensor is the parameter 'c' (there is 'model/c': a name map of 'model/*' to '*' would take it)",
        "no tensor is the parameter 'd'",
        "the tensor 'extra' is no parameter",
        "the tensor 'model/c' is no parameter",
    ]
    assert [*caught.value.problems] == wanted
    assert "and 3 more" in caught.value.message
    assert all(problem in caught.value.remedy for problem in wanted)
    content_of_nested = describe(lambda p, x: x, {"a": {"b": B}}, {"x": X})
    with pytest.raises(Mismatch, match=r"'model\.a\.b': a name map of 'model\.\*' to '\*' would take it"):
        contents_of(content_of_nested, {"model.a.b": B})
    contents_of(content_of_nested, {"model.a.b": B}, name_map={"model.*": "*"})
    with pytest.raises(Mismatch, match=r"'other' is float32 of \(2,\), and the parameter 'a' was float32 of \(3, 2\)"):
        contents_of(content, {"other": B, "b": B, "c": W, "d": B}, name_map={"other": "a"})


def function_of(message):
    """The message of the one function."""
    return message.functions[KEY]


def replaced(field, value):
    """A change that sets a field of the function."""
    return lambda message: setattr(function_of(message), field, value)


def swapped_structure(message):
    """The structure of another input."""
    function_of(message).arguments.CopyFrom(encoded((("x", TensorSpec("x", "int32", (2, 3))),)))


def no_pairs(message):
    """Arguments that are no pairs of name and structure."""
    function_of(message).arguments.CopyFrom(encoded([TensorSpec("x", "float32", (2, 3))]))


def endless(message):
    """A structure that is nested too deep."""
    nested = TensorSpec("output_0", "float32", (2, 2))
    for _ in range(70):
        nested = [nested]
    function_of(message).returned.CopyFrom(encoded(nested))


def other_name(message):
    """A parameter that the function needs has another name."""
    message.parameters[0].name = "other"


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (lambda message: message.functions.clear(), "function-invalid", "no function"),
        (lambda message: setattr(message, "format", 2), "function-invalid", "layout 2 where 1 is known"),
        (lambda message: setattr(message, "format", 0), "function-invalid", "no function bundle"),
        (lambda message: setattr(message, "serving_tensorflow", "9.9"), "function-target-unknown", "'9.9'"),
        (replaced("module", b"garbage"), "function-invalid", "portable artifact"),
        (replaced("calling_convention_version", 11), "function-too-new", "11"),
        (replaced("calling_convention_version", 0), "function-invalid", "at least"),
        (replaced("attribute", "w"), "name-clash", "'w'"),
        (replaced("attribute", "variables"), "name-clash", "'variables'"),
        (replaced("attribute", "__class__"), "name-clash", "'__class__'"),
        (replaced("attribute", "a/b"), "function-invalid", "'a/b'"),
        (lambda message: function_of(message).ClearField("platforms"), "function-invalid", "no platform"),
        (lambda message: setattr(function_of(message).operands[2], "input", 1), "function-invalid", "input 1 of 1"),
        (lambda message: setattr(function_of(message).operands[2], "input", -1), "function-invalid", "input -1"),
        (lambda message: function_of(message).operands[2].Clear(), "function-invalid", "neither"),
        (lambda message: setattr(function_of(message).operands[0], "parameter", "q"), "function-invalid", "'q'"),
        (lambda message: message.parameters.add(name="b", dtype="int8"), "function-invalid", "one name"),
        (lambda message: message.ClearField("parameters"), "function-invalid", "the parameter 'b'"),
        (lambda message: function_of(message).inputs.add(name="z", dtype="int8"), "function-invalid", "inputs"),
        (lambda message: function_of(message).ClearField("outputs"), "function-invalid", "outputs"),
        (lambda message: setattr(function_of(message).inputs[0], "dtype", "int3"), "function-invalid", "inputs"),
        (lambda message: function_of(message).arguments.Clear(), "savedmodel-corrupt", "no known kind"),
        (lambda message: function_of(message).ClearField("returned"), "savedmodel-corrupt", "no known kind"),
        (swapped_structure, "function-invalid", "structure"),
        (no_pairs, "function-invalid", "malformed"),
        (endless, "function-invalid", "no function bundle"),
        (other_name, "parameters-mismatch", "'other'"),
    ],
)
def test_a_bundle_that_contradicts_itself_is_refused(content, change, code, says):
    """Each contradiction with its code, before anything is written."""
    with pytest.raises(DropError) as caught:
        contents_of(changed(content, change))
    assert caught.value.code == code, caught.value
    assert says in caught.value.message


@pytest.mark.parametrize("content", [b"", b"\0", b"\xff" * 40, b"not a bundle", b"\x08\x01"])
def test_what_is_no_bundle_is_refused(content):
    """The error names the file."""
    with pytest.raises(DropError, match=r"it\.functions") as caught:
        decode_functions(content, "it.functions")
    assert caught.value.code == "function-invalid"


def test_a_name_may_have_very_many_parts():
    """More than Python has frames."""
    name = "/".join(["a"] * 2000)
    content = describe(lambda p, x: x, {name: B}, {"x": X})
    assert len(contents_of(content, {name: B}).tensors) == 2


def code_of(content):
    """The code of the DropError that a bundle raises; None for one that makes a model."""
    try:
        contents_of(content)
    except DropError as error:
        return error.code
    return None


def test_a_bundle_that_is_cut_short_is_refused(content):
    """At every byte; but for the release and the producer at the end, which have defaults."""
    whole = code_of(content)
    assert whole is None
    tail = len(content) - content.rindex(b"2.19")
    sound = [length for length in range(len(content)) if code_of(content[:length]) is None]
    assert all(length > len(content) - tail - 4 for length in sound)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0), st.integers(1, 4))
def test_a_bundle_with_damaged_bytes_raises_nothing_else(content, seed, count):
    """Whatever is damaged: a model, or an error that has a code."""
    damaged = bytearray(content)
    chosen = random.Random(seed)
    for _ in range(count):
        damaged[chosen.randrange(len(damaged))] = chosen.randrange(256)
    assert code_of(bytes(damaged)) in {None, *CODES}


def test_structures_of_every_kind_survive(content):
    """Named tuples and values of Python are kept in what a call takes and gives."""
    pair = NamedTuple("Pair", {"b": TensorSpec("output_0", "float32", (2, 2)), "n": 3})

    def change(message):
        function_of(message).returned.CopyFrom(encoded({"pair": pair, "none": None, "text": ("a", 1.5, True)}))

    bundle = decode_functions(changed(content, change), "it")
    assert bundle.functions[KEY].returned == {"pair": pair, "none": None, "text": ("a", 1.5, True)}
    assert code_of(changed(content, change)) is None
