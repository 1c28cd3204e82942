"""StableHLO as JAX exports it, made fit for a release of TensorFlow.

JAX writes modules for releases of itself. TensorFlow's XlaCallModule is older, so a module is written anew in the StableHLO that the
target understands, without what only JAX's own runtime needs:

- composites become calls of what they stand for: TensorFlow runs no composite whose shapes are found at the call;
- donated arguments are kept: a variable's value is not the module's to overwrite;
- annotations of sharding, Shardy's and those before it, go: the module is for one device;
- locations (paths of the trainer's machine) go, and are kept as debug info where that is asked for.

Custom calls that TensorFlow's XLA does not have are refused by name. Needs jaxlib.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from smdaemon.errors import DropError
from smdaemon.savedmodel.debug_info import Frame
from smdaemon.savedmodel.exported_function import CALL_NODE
from smdaemon.savedmodel.serving_target import CUSTOM_CALLS, ServingTarget

_PASSES = "builtin.module(func.func(stablehlo-legalize-composite-to-call),strip-debuginfo)"
_DONATION = ("tf.aliasing_output", "jax.buffer_donor")
_SHARDY = "sdy"
_SHARDING_CALL = "Sharding"
"""How JAX annotated shardings before Shardy: a custom call that gives what it takes."""
_FRAME = re.compile(r'"((?:[^"\\]|\\.)*)"\("((?:[^"\\]|\\.)*)":(\d+):(\d+)')


class StableHlo:
    """A module that is being made fit; `name` is what errors call its function."""

    def __init__(self, name: str, artifact: bytes) -> None:
        from jax.interpreters import mlir
        from jaxlib.mlir import ir
        from jaxlib.mlir.dialects import stablehlo

        self._name = name
        self._stablehlo = stablehlo
        self._ir = ir
        self._context = mlir.make_ir_context()
        with self._context:
            try:
                self._module = stablehlo.deserialize_portable_artifact(self._context, artifact)
            except (ValueError, RuntimeError, ir.MLIRError) as error:
                raise DropError(
                    "function-invalid", f"the module of the function {name!r} cannot be read: {error}"
                ) from error
            self._drop_sharding()

    def check_custom_calls(self, allowed: Collection[str]) -> None:
        """DropError `function-unsupported` for custom calls that neither TensorFlow has nor the caller allows."""
        targets = {
            str(operation.attributes["call_target_name"].value)
            for operation in self._operations()
            if operation.name == "stablehlo.custom_call"
        }
        unknown = sorted(targets - CUSTOM_CALLS - set(allowed))
        if unknown:
            listed = ", ".join(map(repr, unknown))
            raise DropError(
                "function-unsupported",
                f"the function {self._name!r} calls {listed}, which TensorFlow does not have",
                remedy=_remedy(unknown),
            )

    def traces(self) -> dict[str, list[Frame]]:
        """Where each operation was made, by a name for it beneath the node that calls the module; outermost call first.

        Under the node's own name stands what all of them have in common.
        """
        traces: dict[str, list[Frame]] = {}
        for number, operation in enumerate(self._operations()):
            frames = _frames(str(operation.location))
            if frames and operation.name.startswith("stablehlo."):
                traces[f"{CALL_NODE}/{operation.name.removeprefix('stablehlo.')}_{number}"] = frames
        if traces:
            traces[CALL_NODE] = _common([*traces.values()])
        return traces

    def written_for(self, target: ServingTarget) -> bytes:
        """The module as a portable artifact that the target understands. To be called once.

        DropError `function-unsupported` where an operation of it has no form there.
        """
        from jaxlib.mlir import passmanager

        with self._context, self._ir.Location.unknown():
            _register_passes(self._stablehlo)
            self._drop_donations()
            passmanager.PassManager.parse(_PASSES).run(self._module.operation)
            kinds = self._kinds()  # what cannot be written is half rewritten then
            with self._diagnostics() as said:
                try:
                    written: bytes = self._stablehlo.serialize_portable_artifact(self._module, target.stablehlo)
                except (ValueError, RuntimeError) as error:
                    raise DropError(
                        "function-unsupported",
                        f"the function {self._name!r} cannot be written for TensorFlow {target.tensorflow}, whose "
                        f"StableHLO is {target.stablehlo}: {said[0] if said else error}; its operations are {', '.join(kinds)}",
                        remedy="name a later release as serving_tensorflow, or change the function",
                    ) from error
        return written

    @contextmanager
    def _diagnostics(self) -> Iterator[list[str]]:
        """What MLIR says meanwhile, in place of stderr; without the operations that it prints behind it."""
        said: list[str] = []

        def note(diagnostic: Any) -> bool:
            said.append(str(diagnostic.message).partition(": %")[0])
            return True

        handler = self._context.attach_diagnostic_handler(note)
        try:
            yield said
        finally:
            handler.detach()

    def _operations(self) -> list[Any]:
        found: list[Any] = []

        def note(operation: Any) -> Any:
            found.append(operation.operation)
            return self._ir.WalkResult.ADVANCE

        with self._context:
            self._module.operation.walk(note)
        return found

    def _kinds(self) -> list[str]:
        return sorted({operation.name.removeprefix("stablehlo.") for operation in self._operations()})

    def _drop_donations(self) -> None:
        self._drop_attributes(_DONATION.__contains__)

    def _drop_sharding(self) -> None:
        """Annotations of sharding, wherever they stand."""
        self._drop_attributes(_is_sharding)
        for operation in self._operations():
            if operation.name == f"{_SHARDY}.sharding_constraint" or _calls(operation, _SHARDING_CALL):
                operation.results[0].replace_all_uses_with(operation.operands[0])
                operation.erase()
            elif operation.name == f"{_SHARDY}.mesh":
                operation.erase()

    def _drop_attributes(self, is_dropped: Callable[[str], bool]) -> None:
        """Drop attributes by name, also those of the arguments and results of functions."""
        ir = self._ir
        for operation in self._operations():
            for name in list(map(_name_of, operation.attributes)):
                if is_dropped(name):
                    del operation.attributes[name]
            for key in ("arg_attrs", "res_attrs"):
                if operation.name == "func.func" and key in operation.attributes:
                    operation.attributes[key] = ir.ArrayAttr.get(
                        [
                            ir.DictAttr.get({name: each[name] for name in map(_name_of, each) if not is_dropped(name)})
                            for each in operation.attributes[key]
                        ]
                    )


def _calls(operation: Any, target: str) -> bool:
    """Whether an operation is a custom call of that target."""
    return bool(operation.name == "stablehlo.custom_call" and operation.attributes["call_target_name"].value == target)


def _name_of(item: Any) -> str:
    """The name of an attribute; going through them gives names in some releases of jaxlib, named attributes in others."""
    return item if isinstance(item, str) else str(item.name)


def _is_sharding(name: str) -> bool:
    return name.startswith(f"{_SHARDY}.") or name == "mhlo.sharding"


_registered: list[bool] = []


def _register_passes(stablehlo: Any) -> None:
    """StableHLO's passes, once a process."""
    if not _registered:
        stablehlo.register_stablehlo_passes()
        _registered.append(True)


def _frames(location: str) -> list[Frame]:
    """The stack in a location as MLIR prints it, `"f"("file":line:column ...`, innermost first there."""
    frames = [
        Frame(file, int(line), function, column=int(column))
        for function, file, line, column in _FRAME.findall(location)
    ]
    return frames[::-1]


def _common(stacks: Sequence[Sequence[Frame]]) -> list[Frame]:
    """The outermost frames that all stacks share, but for their lines: the function that they end in may have several."""
    shared: list[Frame] = []
    for frames in zip(*stacks, strict=False):
        if len({(frame.file, frame.function) for frame in frames}) > 1:
            break
        shared.append(frames[0])
    return shared


def _remedy(targets: Sequence[str]) -> str:
    if any(target.startswith("lapack_") for target in targets):
        return "compute matrix decompositions outside of the function, or write them without jax.numpy.linalg"
    if any("callback" in target for target in targets):
        return "remove debug prints and callbacks from the function"
    return (
        "change the function, export it for other platforms, or allow it with allow_custom_calls if the server has it"
    )
