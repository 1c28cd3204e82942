"""The reverse derivative of an exported JAX function, as an export of its own. Needs jax."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from smdaemon.errors import DropError
from smdaemon.savedmodel.jax.pytrees import SEPARATOR, named_leaves
from smdaemon.savedmodel.jax.tracing import PARAMETERS, Wanted, abstract, export_traced, flat_inputs, output_spec, taken

GRADIENT = "gradient"
"""The input of a derivative that holds the gradients of the outputs."""


def gradient_of(key: str, function: Any, names: Sequence[str], wanted: Wanted) -> Any:
    """The reverse derivative of an `Exported` as another, to be compiled under the same names.

    It takes what `function` takes, and by the name `gradient` a dict with the gradient of what is minimised for each output that is a
    float. It gives a dict of the gradients of all parameters, below `params/`, and inputs that are floats. It runs where `function`
    does. DropError `function-unsupported` where `function` was exported without its derivative, has an input called `gradient`,
    has no floats to take or to give, or cannot be differentiated.
    """
    import jax

    own, called = taken(key, function, names)
    if GRADIENT in called or not function.has_vjp():
        why = "was exported without its derivative" if GRADIENT not in called else f"has an input called {GRADIENT!r}"
        raise DropError(
            "function-unsupported",
            f"the function {key!r} {why}",
            remedy="serialise it with vjp_order=1, and call no input gradient",
        )
    places = [*(f"{PARAMETERS}{SEPARATOR}{name}" for name in own), *(spec.name for spec in flat_inputs(called))]
    result = jax.tree_util.tree_unflatten(function.out_tree, function.out_avals)
    outputs = {output_spec(result, name, leaf).name: leaf for name, leaf in named_leaves(result, "").items()}
    _check_differentiable(key, places, jax.tree_util.tree_leaves(function.in_avals), outputs)

    def derivative(*args: Any, gradient: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        leaves, tree = jax.tree_util.tree_flatten((args, kwargs))
        floats = {place: leaf for place, leaf in zip(places, leaves, strict=True) if _is_float(leaf)}

        def primal(given: dict[str, Any]) -> dict[str, Any]:
            everything = [given.get(place, leaf) for place, leaf in zip(places, leaves, strict=True)]
            given_args, given_kwargs = jax.tree_util.tree_unflatten(tree, everything)
            flat = jax.tree_util.tree_leaves(function.call(*given_args, **given_kwargs))
            return {name: leaf for name, leaf in zip(outputs, flat, strict=True) if name in gradient}

        found: dict[str, Any] = jax.vjp(primal, floats)[1](gradient)[0]
        return found

    (params, *args), kwargs = jax.tree_util.tree_unflatten(function.in_tree, function.in_avals)
    cotangents = {name: abstract(leaf) for name, leaf in outputs.items() if _is_float(leaf)}
    args = jax.tree_util.tree_map(abstract, args)
    kwargs = jax.tree_util.tree_map(abstract, kwargs) | {GRADIENT: cotangents}
    # an export runs on its own platforms, whatever is wanted of functions that are yet to be compiled
    wanted = replace(wanted, platforms=tuple(function.platforms))
    try:
        return export_traced(key, derivative, (jax.tree_util.tree_map(abstract, params), *args), kwargs, wanted)
    except (NotImplementedError, TypeError, ValueError) as error:
        why = str(error).partition("\n")[0]
        raise DropError("function-unsupported", f"JAX cannot differentiate the function {key!r}: {why}") from error


def _check_differentiable(key: str, places: Sequence[str], leaves: Sequence[Any], outputs: Mapping[str, Any]) -> None:
    """DropError unless there are floats on both sides, and places that tell them apart."""
    if not any(map(_is_float, leaves)) or not any(map(_is_float, outputs.values())):
        sides = "no parameter or input" if not any(map(_is_float, leaves)) else "no output"
        raise DropError("function-unsupported", f"{sides} of the function {key!r} is a float")
    if twice := [place for place, count in Counter(places).items() if count > 1]:
        raise DropError(
            "name-clash", f"a parameter and an input of the function {key!r} would both have the gradient {twice[0]!r}"
        )


def _is_float(leaf: Any) -> bool:
    import jax
    import numpy as np

    return bool(jax.numpy.issubdtype(leaf.dtype, np.inexact))
