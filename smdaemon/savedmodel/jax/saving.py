"""`save`, which writes JAX functions and their parameters as a SavedModel, and `describe`, which makes a function bundle of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smdaemon.errors import DropError
from smdaemon.savedmodel.constants import DEFAULT_SERVING_SIGNATURE_DEF_KEY, SERVING
from smdaemon.savedmodel.exported_function import ExportedFunction
from smdaemon.savedmodel.function_bundle import FunctionBundle, encode_functions
from smdaemon.savedmodel.function_model import check_functions, function_contents
from smdaemon.savedmodel.jax import tracing
from smdaemon.savedmodel.jax.gradients import gradient_of
from smdaemon.savedmodel.jax.pytrees import named_leaves
from smdaemon.savedmodel.options import SaveOptions, refuse
from smdaemon.savedmodel.serving_target import DEFAULT_SERVING, serving_target
from smdaemon.savedmodel.sharding import sharded
from smdaemon.savedmodel.values import tensor_of
from smdaemon.savedmodel.writer import WrittenModel, write_saved_model
from smdaemon.tensorbundle.tensors import Tensor
from smdaemon.tensorbundle.writer import ShardItem

KNOWN_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")
"""Where TensorFlow runs a compiled function."""

PLATFORMS = ("cpu", "cuda")
"""Where an export runs unless it says otherwise: where TensorFlow Serving does."""

GRADIENT_SUFFIX = "_gradient"
"""What is put behind a signature's key for that of its gradient."""


@dataclass(frozen=True)
class SavedFunctions:
    """What `save` wrote: the files, the signature keys, and of each key whether there is a gradient, or why there is none."""

    written: WrittenModel
    signatures: tuple[str, ...]
    gradients: Mapping[str, str]


def save(
    fn: Any,
    params: Any,
    export_dir: str | Path,
    inputs: Any = None,
    *,
    platforms: Sequence[str] = PLATFORMS,
    serving_tensorflow: str = DEFAULT_SERVING,
    vjp_order: int = 0,
    allow_custom_calls: Sequence[str] = (),
    tags: Sequence[str] = (SERVING,),
    options: SaveOptions | None = None,
    shards: int = 1,
    on_bytes: Callable[[int], None] | None = None,
    sync: bool = True,
) -> SavedFunctions:
    """Write `fn(params, **inputs)` as the SavedModel `export_dir`, which must not exist or be empty.

    `fn` is a function (jitted or not), a `jax.export.Exported` or its serialised bytes, or a mapping of signature keys to these; a
    single one is `serving_default`, and the loaded model itself can be called. Functions of a mapping are attributes of the loaded model, by
    their keys. `params` is any pytree of arrays and numbers; each becomes a variable, named by its path ("layers/0/kernel"), of the dtype
    that JAX gives it: unless jax_enable_x64 is set, 64 bits become 32, for inputs too. An array that is in several places is one variable.

    `inputs` are the function's arguments by name (or a sequence, for positional arguments): arrays, `jax.ShapeDtypeStruct` or pytrees
    of them; sizes may be symbolic (`symbolic`). What is no array is static: a Python value that the function is compiled with. With
    several functions, `inputs` are by signature key. An `Exported` has its own; `inputs` may name its positional ones. Nested inputs and outputs are named by their paths,
    "obs/image".

    The model runs on `platforms` (cpu, cuda, rocm, tpu) and on TensorFlow `serving_tensorflow` or later; an `Exported` runs on the
    platforms it was exported for. `vjp_order` of 1 adds, for each signature, one with "_gradient" behind its key: it takes the inputs and
    the gradient of each output that is a float ("gradient/output_0") and gives the gradients of the inputs ("x") and parameters
    ("params/layers/0/kernel") that are. Where there is none, the result's `gradients` say why. `allow_custom_calls` names custom calls that the
    server has and TensorFlow has not. With `options.save_debug_info`, the lines of the JAX source that made each operation are kept.
    `shards`, `on_bytes` and `sync` are those of `write_saved_model`.

    Raises DropError before anything is written: `function-unsupported` with what no TensorFlow can run (callbacks, LAPACK, several devices,
    text), `function-target-unknown`, `function-invalid`, `parameters-mismatch` for an `Exported` of other parameters, `dtype-unsupported`, `name-clash`,
    `option-refused` for platforms that there are not and the like.
    What the function itself raises while it is traced comes as it is.
    """
    options = options or SaveOptions()
    if isinstance(tags, str):
        refuse("tags", f"{tags!r} is a string, not a list of them")
    wanted = _wanted(platforms, serving_tensorflow, allow_custom_calls, debug_info=options.save_debug_info)
    bundle, gradients = _compiled(fn, params, inputs, wanted, vjp_order)
    contents = function_contents(bundle, _values(params), tags=tags, options=options)
    placed: int | Sequence[Sequence[ShardItem]] = shards
    if options.experimental_sharding_callback is not None:
        tensors, placed = sharded(dict(contents.tensors), options.experimental_sharding_callback, {})
        contents = replace(contents, tensors=tensors)
    Path(export_dir).parent.mkdir(parents=True, exist_ok=True)
    written = write_saved_model(
        Path(export_dir), contents, shards=placed, on_bytes=on_bytes, sync=sync, into_empty=True
    )
    return SavedFunctions(written, tuple(bundle.functions), gradients)


def describe(
    fn: Any,
    params: Any,
    inputs: Any = None,
    *,
    platforms: Sequence[str] = PLATFORMS,
    serving_tensorflow: str = DEFAULT_SERVING,
    vjp_order: int = 0,
    allow_custom_calls: Sequence[str] = (),
    debug_info: bool = False,
) -> bytes:
    """The function bundle of what `save` takes: everything of the SavedModel but the values.

    Write it to a file once, and name that file as `function` of a model in smdaemon's configuration: each checkpoint of the
    parameters becomes a servable version. `params` may be shapes (`jax.eval_shape`) instead of arrays. Raises DropError as `save`.
    """
    wanted = _wanted(platforms, serving_tensorflow, allow_custom_calls, debug_info=debug_info)
    bundle, _ = _compiled(fn, params, inputs, wanted, vjp_order)
    check_functions(bundle)
    return encode_functions(bundle)


def symbolic(shape: str, dtype: Any, like: Any = None) -> Any:
    """A `jax.ShapeDtypeStruct` with sizes that may differ from call to call, as `symbolic("batch, 784", "float32")`.

    Sizes of one name are equal in all inputs that are made `like` one another: `like` is a `ShapeDtypeStruct` made before.
    """
    import jax

    scope = None
    if like is not None:
        scope = next((size.scope for size in like.shape if hasattr(size, "scope")), None)
    return jax.ShapeDtypeStruct(jax.export.symbolic_shape(shape, scope=scope), dtype)


def _wanted(
    platforms: Sequence[str], serving_tensorflow: str, allow_custom_calls: Sequence[str], *, debug_info: bool
) -> tracing.Wanted:
    """How functions are to be compiled; DropError `option-refused` for platforms that TensorFlow does not know."""
    if isinstance(platforms, str) or not platforms or len(set(platforms)) < len(platforms):
        refuse("platforms", f"{platforms!r} is no list of platforms, each named once, of {', '.join(KNOWN_PLATFORMS)}")
    if unknown := [platform for platform in platforms if platform not in KNOWN_PLATFORMS]:
        refuse("platforms", f"{unknown[0]!r} is none of {', '.join(KNOWN_PLATFORMS)}")
    if isinstance(allow_custom_calls, str):
        refuse("allow_custom_calls", f"{allow_custom_calls!r} is a string, not a list of them")
    return tracing.Wanted(serving_target(serving_tensorflow), tuple(platforms), tuple(allow_custom_calls), debug_info)


def _compiled(
    fn: Any, params: Any, inputs: Any, wanted: tracing.Wanted, vjp_order: int
) -> tuple[FunctionBundle, dict[str, str]]:
    """The functions for the target, with their gradients as far as there are any, and what became of each gradient."""
    import jax

    if vjp_order not in {0, 1}:
        refuse("vjp_order", f"{vjp_order!r} is neither 0 nor 1")
    parameters = {
        name: tracing.tensor_spec(name, _array(name, leaf))
        for name, leaf in named_leaves(params, tracing.PARAMETERS).items()
    }
    functions: dict[str, ExportedFunction] = {}
    gradients: dict[str, str] = {}
    for key, attribute, function, own_inputs in _named(fn, inputs):
        exported = tracing.exported(key, function, params, own_inputs, wanted)
        names = [*own_inputs] if isinstance(own_inputs, Mapping) else tracing.parameter_names(function)
        made = tracing.compiled(key, exported, parameters, names, wanted)
        functions[key] = replace(made, attribute=attribute)
        gradient_key = key + GRADIENT_SUFFIX
        if vjp_order:
            if isinstance(fn, Mapping) and gradient_key in fn:
                raise DropError("name-clash", f"{gradient_key!r} is a function and the gradient of {key!r}")
            try:
                derivative = gradient_of(key, exported, names, wanted)
                functions[gradient_key] = tracing.compiled(gradient_key, derivative, parameters, names, wanted)
                gradients[key] = f"signature {gradient_key!r}"
            except DropError as error:
                gradients[key] = f"none: {error.message}"
        else:
            gradients[key] = "none: not asked for (vjp_order=1)"
    return (
        FunctionBundle(functions, tuple(parameters.values()), wanted.target.tensorflow, f"jax {jax.__version__}"),
        gradients,
    )


def _named(fn: Any, inputs: Any) -> Iterable[tuple[str, str, Any, Any]]:
    """Signature key, attribute's name, function and inputs of each function."""
    if not isinstance(fn, Mapping):
        return [(DEFAULT_SERVING_SIGNATURE_DEF_KEY, "__call__", fn, inputs)]
    if not fn:
        raise DropError("function-invalid", "there is no function to save")
    inputs = {} if inputs is None else inputs
    if not isinstance(inputs, Mapping):
        raise DropError(
            "function-invalid",
            f"the inputs of several functions are a {type(inputs).__name__}",
            remedy="give the inputs of each function by its signature key",
        )
    unknown = sorted(map(repr, inputs.keys() - fn.keys()))
    if unknown:
        raise DropError("function-invalid", f"there are inputs of {unknown[0]}, which is none of the functions")
    for key in fn:
        if not isinstance(key, str):
            raise DropError("signature-invalid", f"the signature key {key!r} is no text")
    return [(key, key if key.isidentifier() else "", function, inputs.get(key)) for key, function in fn.items()]


def _array(name: str, leaf: Any) -> Any:
    """The parameter of that name as an array, or what stands for one, of the dtype in which JAX gives it to a function."""
    import jax
    import numpy as np

    array = leaf if tracing.is_array(leaf) else np.asarray(leaf)
    if jax.numpy.issubdtype(array.dtype, jax.dtypes.extended):
        return array
    if array.dtype.kind in "SUO":
        raise DropError("dtype-unsupported", f"the parameter {name!r} is a {type(leaf).__name__}, no array of numbers")
    dtype = jax.dtypes.canonicalize_dtype(array.dtype)
    if dtype == array.dtype:
        return array
    if isinstance(array, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(array.shape, dtype)
    converted = array.astype(dtype)
    if dtype.kind in "iu" and not np.array_equal(converted, array):
        raise DropError(
            "dtype-unsupported",
            f"the parameter {name!r} holds whole numbers that {dtype} does not",
            remedy="set jax_enable_x64, or convert it before it is saved",
        )
    return converted


def _values(params: Any) -> dict[str, Tensor]:
    """The parameters by name. JAX has several names for one array where weights are tied; it is stored once."""
    leaves = named_leaves(params, tracing.PARAMETERS)
    tensors: dict[int, Tensor] = {}
    values: dict[str, Tensor] = {}
    for name, leaf in leaves.items():
        # two equal numbers are one object to Python, and yet two parameters
        tied = tensors.get(id(leaf)) if tracing.is_array(leaf) else None
        values[name] = tensors[id(leaf)] = _tensor(_array(name, leaf)) if tied is None else tied
    return values


def _tensor(array: Any) -> Any:
    """The value of a parameter; of random keys their data."""
    import jax

    if jax.numpy.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return tensor_of(array)
