"""Compiled functions and the values of their parameters as one SavedModel: variables in a tree, functions beside them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import SimpleNamespace
from typing import Any

from smdaemon.errors import DropError
from smdaemon.savedmodel.constants import SERVING
from smdaemon.savedmodel.exported_function import graph_function
from smdaemon.savedmodel.function_bundle import FunctionBundle
from smdaemon.savedmodel.functions import GraphFunction
from smdaemon.savedmodel.mismatch import Mismatch
from smdaemon.savedmodel.name_map import VALUE_SUFFIX, NameMap, Names, match
from smdaemon.savedmodel.object_graph import is_trainable
from smdaemon.savedmodel.options import SaveOptions
from smdaemon.savedmodel.saving import saved_contents
from smdaemon.savedmodel.structure import TensorSpec
from smdaemon.savedmodel.trackable import Variable
from smdaemon.savedmodel.tree import Branch, Kind, Leaf, nest
from smdaemon.savedmodel.writer import Contents
from smdaemon.tensorbundle.dtypes import DType, dtype_named
from smdaemon.tensorbundle.tensors import Buffer, Tensor


def function_contents(
    bundle: FunctionBundle,
    values: Mapping[str, Tensor],
    *,
    tags: Sequence[str] = (SERVING,),
    options: SaveOptions | None = None,
) -> Contents:
    """The contents of the SavedModel of the bundle's functions, with the value of each parameter by its name.

    Variables lie in a tree as their names say (see `tree.nest`) and are stored once, however many functions use them. Each
    function is a signature, and where it has an attribute's name it can be called by that on the loaded model.

    Raises DropError: `parameters-mismatch` for values that are missing or of another dtype or shape, `name-clash` where a function
    has the name of a parameter, and what `graph_function`, `nest` and `saved_contents` raise.
    """
    check_values(bundle, values)
    parameters = {spec.name: spec for spec in bundle.parameters}
    variables: dict[int, Variable] = {}  # a value that has two names is one variable
    for name in parameters:
        variables.setdefault(id(values[name]), Variable(values[name], trainable=is_trainable(values[name].dtype)))
    root = _objects(nest(parameters, "/").root, {name: variables[id(values[name])] for name in parameters})
    signatures: dict[str, GraphFunction] = {}
    # by their keys, so that the order in which they were given decides nothing
    for number, (key, function) in enumerate(sorted(bundle.functions.items())):
        made = signatures[key] = graph_function(function, parameters, number)
        if function.attribute:
            if hasattr(root, function.attribute):
                raise DropError("name-clash", f"{function.attribute!r} is the name of a function and of a parameter")
            setattr(root, function.attribute, made)
    return saved_contents(root, signatures, options, tags=tags)


def check_functions(bundle: FunctionBundle) -> None:
    """DropError as `function_contents` for a bundle of which no values make a SavedModel."""
    values = {
        spec.name: _Unread(dtype_named(spec.dtype), tuple(size for size in spec.shape or () if size is not None))
        for spec in bundle.parameters
    }
    function_contents(bundle, values)


@dataclass(frozen=True, eq=False)
class _Unread:
    """A Tensor whose value nobody asks for."""

    dtype: DType
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the value."""
        return prod(self.shape) * self.dtype.itemsize

    def buffers(self) -> Iterator[Buffer]:
        """There is none."""
        raise NotImplementedError


def _objects(root: Branch, variables: Mapping[str, Variable]) -> Any:
    """The objects that a loaded model has: dicts, lists, and namespaces where every name can be an attribute.

    Branches first, then from the last back to the root: a name may have more parts than Python has frames.
    """
    branches = [root]
    for branch in branches:  # grows while it is walked
        branches += [child for child in branch.children.values() if isinstance(child, Branch)]
    made: dict[int, Any] = {}
    for branch in reversed(branches):
        children = {
            name: variables[child.name] if isinstance(child, Leaf) else made[id(child)]
            for name, child in branch.children.items()
        }
        made[id(branch)] = _object(branch.kind, children)
    return made[id(root)]


def _object(kind: Kind, children: dict[str, Any]) -> Any:
    if kind is Kind.LIST:
        return [*children.values()]
    return children if kind is Kind.DICT else SimpleNamespace(**children)


def check_values(bundle: FunctionBundle, values: Mapping[str, Tensor]) -> None:
    """Mismatch `parameters-mismatch` unless there is a value of the right dtype and shape for every parameter."""
    problems = [
        _misfit(spec, spec.name, values[spec.name])
        if spec.name in values
        else f"no tensor is the parameter {spec.name!r}"
        for spec in bundle.parameters
    ]
    _refuse_all([problem for problem in problems if problem])


def _misfit(spec: TensorSpec, name: str, value: Tensor) -> str:
    """What keeps the tensor `name` from being the parameter; empty if nothing does."""
    if (value.dtype.name, value.shape) == (spec.dtype, spec.shape):
        return ""
    whose = "" if name == spec.name else f"the parameter {spec.name!r} "
    return f"{name!r} is {value.dtype} of {value.shape}, and {whose}was {spec.dtype} of {spec.shape}"


def _refuse_all(problems: Sequence[str]) -> None:
    if problems:
        raise Mismatch("parameters-mismatch", "the tensors do not fit the functions", problems)


def parameter_values(
    parameters: Sequence[TensorSpec],
    tensors: Mapping[str, Tensor],
    *,
    name_map: Mapping[str, str] | None = None,
    unused: str = "ignore",
) -> dict[str, Tensor]:
    """The tensors of a checkpoint by the names of the parameters that they are; matched as name_map.py tells.

    Raises Mismatch `parameters-mismatch` for parameters without a tensor or with one of another dtype or shape, and with `unused`
    "error" for tensors that are no parameter: all of them at once.
    """
    names = Names((spec.name + VALUE_SUFFIX for spec in parameters), None)
    found = match(names, tensors, NameMap(name_map))
    problems = found.problems
    values: dict[str, Tensor] = {}
    for spec in parameters:
        pieces = found.values.get(spec.name + VALUE_SUFFIX)
        if pieces is None:
            problems.append(f"no tensor is the parameter {spec.name!r}{_hint(spec.name, tensors)}")
        elif len(pieces) > 1:
            problems.append(f"the parameter {spec.name!r} is in {len(pieces)} partitions")
        else:
            name = pieces[0][0]
            values[spec.name] = tensors[name]
            problems += filter(None, [_misfit(spec, name, tensors[name])])
    if unused == "error":
        problems += [f"the tensor {name!r} is no parameter" for name in sorted(found.unused)]
    _refuse_all(problems)
    return values


def _hint(name: str, tensors: Mapping[str, Tensor]) -> str:
    """Where the tensors have the same name beneath others, the name map that would fit."""
    for given in sorted(tensors):
        for spelled in (name, name.replace("/", ".")):
            prefix = given.removesuffix(spelled)
            if prefix != given and prefix.endswith(("/", ".")):
                return f" (there is {given!r}: a name map of '{prefix}*' to '*' would take it)"
    return ""
