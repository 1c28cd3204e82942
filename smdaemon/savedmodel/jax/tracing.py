"""A JAX function with its parameters and inputs, or an export of one, as an ExportedFunction. Needs jax."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from smdaemon.errors import DropError
from smdaemon.savedmodel.exported_function import ExportedFunction, Operand
from smdaemon.savedmodel.jax.lowering import StableHlo
from smdaemon.savedmodel.jax.pytrees import SEPARATOR, named_leaves, structure_of
from smdaemon.savedmodel.mismatch import Mismatch
from smdaemon.savedmodel.serving_target import ServingTarget
from smdaemon.savedmodel.structure import TensorSpec

PARAMETERS = "params"
"""What the parameters are called where they are a single array."""

OUTPUT = "output"
"""Outputs without a name are called output_0, output_1, ..."""


@dataclass(frozen=True)
class Wanted:
    """How functions are to be compiled: the target, the platforms, the custom calls that the server has, whether with debug info."""

    target: ServingTarget
    platforms: tuple[str, ...]
    allow_custom_calls: tuple[str, ...] = ()
    debug_info: bool = False


def exported(key: str, function: Any, parameters: Any, inputs: Any, wanted: Wanted) -> Any:
    """A function as `jax.export.Exported`: one as it is, the bytes of one, or a Python function traced with its inputs.

    Raises DropError `function-unsupported` for effects, string inputs, more than one device and calls that have no stable form,
    `function-invalid` for bytes that are no export and for what cannot be called.
    """
    import jax

    if isinstance(function, bytes | bytearray):
        function = _deserialized(key, function)
    if not isinstance(function, jax.export.Exported):
        function = _traced(key, function, parameters, inputs, wanted)
    effects = [*function.ordered_effects, *function.unordered_effects]
    if effects:
        raise _has_effects(key, effects)
    if function.nr_devices != 1:
        raise DropError(
            "function-unsupported",
            f"the function {key!r} is compiled for {function.nr_devices} devices",
            remedy="export it without a mesh: one server runs it on one device",
        )
    return function


def _deserialized(key: str, content: bytes | bytearray) -> Any:
    import jax

    try:
        return jax.export.deserialize(bytearray(content))
    except (
        Exception
    ) as error:  # JAX does not say what it raises: struct.error, KeyError for an unknown type of pytree, ...
        raise DropError(
            "function-invalid",
            f"the function {key!r} is {len(content)} bytes that JAX cannot read as an export: {error}",
            remedy="give what Exported.serialize() returned, in a process where the types of its pytrees are registered",
        ) from error


def compiled(
    key: str, function: Any, parameters: Mapping[str, TensorSpec], names: Sequence[str], wanted: Wanted
) -> ExportedFunction:
    """An `Exported`, whose first argument are the parameters, as an ExportedFunction for the target.

    `names` are those of the arguments after the parameters, in the order of a positional call; positional ones without a name
    are called input_0, input_1, ... Mismatch `parameters-mismatch` where its parameters are others.
    """
    import jax

    own, called = taken(key, function, names)
    _check_parameters(key, own, parameters)
    inputs = flat_inputs(called)
    result = jax.tree_util.tree_unflatten(function.out_tree, function.out_avals)
    output = partial(output_spec, result)
    return ExportedFunction(
        **_lowered(key, function, wanted),
        inputs=tuple(inputs),
        outputs=tuple(output(name, leaf) for name, leaf in named_leaves(result, "").items()),
        operands=_kept(function, [*map(Operand.of_parameter, own), *map(Operand, range(len(inputs)))]),
        arguments={name: structure_of(called[name], tensor_spec, name) for name in _call_order(called, names)},
        returned=structure_of(result, output, ""),
    )


def taken(key: str, function: Any, names: Sequence[str]) -> tuple[dict[str, TensorSpec], dict[str, Any]]:
    """The parameters and the arguments after them that an `Exported` takes, by name and in the order of its module."""
    import jax

    args, kwargs = jax.tree_util.tree_unflatten(function.in_tree, function.in_avals)
    if not args:
        raise DropError(
            "function-invalid",
            f"the function {key!r} takes no parameters",
            remedy="give it params as its first argument",
        )
    own = {name: tensor_spec(name, leaf) for name, leaf in named_leaves(args[0], PARAMETERS).items()}
    unnamed = [name for name in names if name not in kwargs]
    called = {unnamed[at] if at < len(unnamed) else f"input_{at}": tree for at, tree in enumerate(args[1:])}
    if twice := sorted(called.keys() & kwargs.keys()):
        raise DropError("name-clash", f"two inputs of the function {key!r} are called {twice[0]!r}")
    return own, called | dict(kwargs)


def flat_inputs(called: Mapping[str, Any]) -> list[TensorSpec]:
    """The leaves of the arguments, named by argument and place, in the order of the module."""
    return [
        tensor_spec(f"{name}{SEPARATOR}{place}" if place else name, leaf)
        for name, tree in called.items()
        for place, leaf in named_leaves(tree, "").items()
    ]


def _lowered(key: str, function: Any, wanted: Wanted) -> dict[str, Any]:
    """What an ExportedFunction has of an `Exported` itself: its module, written for the target, and what belongs to that."""
    module = StableHlo(key, function.mlir_module_serialized)
    module.check_custom_calls(wanted.allow_custom_calls)
    traces = module.traces() if wanted.debug_info else {}
    return {
        "name": key,
        "module": module.written_for(wanted.target),
        "version": wanted.target.calling_convention,
        "platforms": tuple(function.platforms),
        "disabled_checks": tuple(str(check) for check in function.disabled_safety_checks),
        "traces": traces,
    }


def _kept(function: Any, operands: Sequence[Operand]) -> tuple[Operand, ...]:
    return tuple(operands[index] for index in function.module_kept_var_idx)


def is_array(leaf: Any) -> bool:
    """Whether this is an array or stands for one."""
    return hasattr(leaf, "dtype") and hasattr(leaf, "shape")


def tensor_spec(name: str, leaf: Any) -> TensorSpec:
    """Name, dtype and shape of an array or of what stands for one; sizes that are expressions are None.

    Random keys are what they are kept as, uint32 with one more axis.
    """
    import jax

    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.eval_shape(jax.random.key_data, leaf)
    shape = tuple(size if isinstance(size, int) else None for size in leaf.shape)
    return TensorSpec(name, leaf.dtype.name, shape)  # not its str, which tells the byte order


def _traced(key: str, function: Any, parameters: Any, inputs: Any, wanted: Wanted) -> Any:
    import jax

    if not callable(function):
        raise DropError(
            "function-invalid", f"the function {key!r} is a {type(function).__name__}, which cannot be called"
        )
    if type(function).__module__.startswith(("tensorflow", "keras.src.backend.tensorflow")):
        raise DropError(
            "function-unsupported",
            f"the function {key!r} is TensorFlow's; smdaemon runs no TensorFlow ops",
            remedy="give a JAX function, and keep TensorFlow's pre- and post-processing outside of the model",
        )
    if not isinstance(inputs, Mapping | list | tuple):
        found = "" if inputs is None else f": {type(inputs).__name__} is neither a mapping nor a list"
        raise DropError(
            "function-invalid",
            f"nothing tells the inputs of the function {key!r}{found}",
            remedy="give inputs={name: jax.ShapeDtypeStruct(shape, dtype)}",
        )
    static, called = _split_static(key, inputs)

    def bare(_parameters: Any, /, *args: Any, **kwargs: Any) -> Any:
        return function(_parameters, *args, **kwargs, **static)

    bare.__name__ = getattr(function, "__name__", type(function).__name__)
    args, kwargs = ((), called) if isinstance(called, Mapping) else (tuple(called), {})
    return export_traced(key, bare, (jax.tree_util.tree_map(abstract, parameters), *args), kwargs, wanted)


def export_traced(
    key: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], wanted: Wanted
) -> Any:
    """The `Exported` of a Python function.

    It is traced anew, whatever was jitted before: what that donates is not ours to donate.
    """
    import jax

    jitted = jax.jit(function)
    effects = jitted.trace(*args, **kwargs).jaxpr.effects
    if effects:
        raise _has_effects(key, effects)
    checks = [jax.export.DisabledSafetyCheck.custom_call(target) for target in wanted.allow_custom_calls]
    try:
        return jax.export.export(jitted, platforms=wanted.platforms, disabled_checks=checks)(*args, **kwargs)
    except (NotImplementedError, ValueError) as error:
        raise DropError(
            "function-unsupported",
            f"JAX cannot export the function {key!r}: {error}",
            remedy=_export_remedy(str(error)),
        ) from error


def _export_remedy(message: str) -> str:
    """What may help where JAX refuses to export; empty for the usual words."""
    if "callback" in message:
        return "remove callbacks from the function"
    if "custom call" in message:
        return "change the function, or name its custom calls in allow_custom_calls if the server has them"
    return ""


def abstract(leaf: Any) -> Any:
    """The `jax.ShapeDtypeStruct` of an array, a number, or what stands for one already.

    Python's numbers have weak types, as jax gives them to functions: `1.5` times a float16 is a float16. Its own arrays say what theirs are.
    """
    import jax

    if isinstance(leaf, jax.ShapeDtypeStruct):
        return leaf
    import numpy as np

    # bool is an int to isinstance, and not weak to jax
    weak_type = getattr(leaf, "weak_type", False) if is_array(leaf) else type(leaf) in {int, float, complex}
    array = leaf if is_array(leaf) else np.asarray(leaf)
    dtype = array.dtype
    if isinstance(dtype, np.dtype):  # as jax computes with it; its own kinds, as of random keys, are that already
        dtype = jax.dtypes.canonicalize_dtype(dtype)
    return jax.ShapeDtypeStruct(array.shape, dtype, weak_type=weak_type)


def _split_static(key: str, inputs: Any) -> tuple[dict[str, Any], Any]:
    """The inputs that are plain Python values, by name, and those that are tensors.

    DropError `function-invalid` for an input that is partly this and partly that.
    """
    import jax

    static: dict[str, Any] = {}
    pairs = inputs.items() if isinstance(inputs, Mapping) else enumerate(inputs)
    tensors: dict[Any, Any] = {}
    for name, tree in pairs:
        leaves = jax.tree_util.tree_leaves(tree)
        plain = [leaf for leaf in leaves if not is_array(leaf)]
        if leaves and not plain:
            _refuse_strings(key, name, leaves)
            tensors[name] = tree
        elif len(plain) < len(leaves):
            raise DropError(
                "function-invalid",
                f"input {name!r} of the function {key!r} holds arrays and {plain[0]!r}, which has no shape and dtype",
                remedy="give an array or a jax.ShapeDtypeStruct for every leaf, and static arguments by names of their own",
            )
        elif isinstance(inputs, Mapping):
            static[str(name)] = tree
        else:
            raise DropError(
                "function-invalid",
                f"input {name} of the function {key!r} is {tree!r}, which has no shape and dtype",
                remedy="give static arguments by name: inputs={name: value}",
            )
    return static, tensors if isinstance(inputs, Mapping) else [*tensors.values()]


def _refuse_strings(key: str, name: object, leaves: Sequence[Any]) -> None:
    for leaf in leaves:
        if getattr(leaf.dtype, "kind", "") in {"S", "U", "O"}:
            raise DropError(
                "function-unsupported",
                f"the input {name!r} of the function {key!r} is text, for which TensorFlow ops would be needed",
                remedy="turn text into numbers before the model is called",
            )


def _has_effects(key: str, effects: Collection[Any]) -> DropError:
    return DropError(
        "function-unsupported",
        f"the function {key!r} has effects that a served model cannot have: {', '.join(sorted(map(str, effects)))}",
        remedy="remove debug prints, callbacks and other effects from the function",
    )


def _check_parameters(key: str, own: Mapping[str, TensorSpec], parameters: Mapping[str, TensorSpec]) -> None:
    problems = [
        f"the function {key!r} takes {name!r}, which is not among them" for name in own.keys() - parameters.keys()
    ]
    problems += [
        f"the function {key!r} takes {name!r} as {own[name].dtype} of {own[name].shape}, and it is {spec.dtype} of {spec.shape}"
        for name, spec in parameters.items()
        if name in own and (own[name].dtype, own[name].shape) != (spec.dtype, spec.shape)
    ]
    if problems:
        raise Mismatch("parameters-mismatch", "the parameters do not fit the function", sorted(problems))


def _call_order(called: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """The names of the arguments as a positional call gives them."""
    return [*(name for name in names if name in called), *(name for name in called if name not in names)]


def output_spec(result: Any, name: str, leaf: Any) -> TensorSpec:
    """The output at the place `name` of the result, which as TensorFlow does is called output_N where nothing names it."""
    if isinstance(result, list | tuple) and not hasattr(result, "_fields"):
        return tensor_spec(f"{OUTPUT}_{name}", leaf)
    return tensor_spec(name or f"{OUTPUT}_0", leaf)


def parameter_names(function: Callable[..., Any]) -> list[str]:
    """The names of a Python function's positional arguments after the parameters; none where it does not tell them."""
    try:
        arguments = [*inspect.signature(function).parameters.values()][1:]
    except (TypeError, ValueError):
        return []
    return [each.name for each in arguments if each.kind in {each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD}]
