"""What a release of TensorFlow can run of JAX: the calling convention and the StableHLO that its XlaCallModule understands.

Every number was found by running modules in that release (docs/compatibility.md); a later release runs what an earlier one does.
"""

import re
from dataclasses import dataclass

from smdaemon.errors import DropError

OLDEST_CALLING_CONVENTION = 5
"""Older modules are not portable artifacts of StableHLO."""

DEFAULT_SERVING = "2.19"
"""Runs on every release from 2.19 on."""


@dataclass(frozen=True)
class ServingTarget:
    """The oldest release of TensorFlow that must run a module: its name, and what it understands.

    `calling_convention` is the version that is written, `stablehlo` the version of StableHLO that modules are written in.
    """

    tensorflow: str
    calling_convention: int
    stablehlo: str


TARGETS = {
    "2.19": ServingTarget("2.19", 9, "1.9.1"),
    "2.20": ServingTarget("2.20", 10, "1.12.1"),
    "2.21": ServingTarget("2.21", 10, "1.13.7"),
}

CUSTOM_CALLS = frozenset(
    ["shape_assertion", "ApproxTopK", "stablehlo.dynamic_reduce_window", "stablehlo.dynamic_rng_bit_generator"]
)
"""Custom calls that TensorFlow's own XLA has, or resolves once it knows the shapes (sums and windows along a symbolic size).

All others live in a jaxlib: LAPACK, kernels for accelerators, callbacks.
"""

_PRODUCER = re.compile(rb"ML\xefR.{1,4}?StableHLO_v(\d+)\.(\d+)\.(\d+)\0", re.DOTALL)


def serving_target(release: str) -> ServingTarget:
    """The target for a release such as "2.20" or "2.20.1"; DropError `function-target-unknown` for one that is not known to work."""
    target = TARGETS.get(".".join(release.split(".")[:2]))
    if target is None:
        raise DropError(
            "function-target-unknown",
            f"{release!r} is no release of TensorFlow that runs JAX's modules as they are today",
        )
    return target


def stablehlo_version(module: bytes) -> tuple[int, int, int]:
    """The version of StableHLO that a portable artifact is written in.

    It is the producer in the head of the MLIR bytecode: magic, version of the bytecode, name ended by NUL. DropError
    `function-invalid` for bytes that are no such artifact.
    """
    found = _PRODUCER.match(module[:64])
    if found is None:
        raise DropError("function-invalid", "the module is not a portable artifact of StableHLO")
    major, minor, patch = (int(number) for number in found.groups())
    return major, minor, patch


def check_runs(name: str, module: bytes, version: int, target: ServingTarget) -> None:
    """DropError unless the target understands the calling convention and the StableHLO of a module.

    Its code is `function-too-new`, or `function-invalid` for what no release understands.
    """
    if version < OLDEST_CALLING_CONVENTION:
        raise DropError(
            "function-invalid",
            f"the function {name!r} has calling convention {version}, TensorFlow knows {OLDEST_CALLING_CONVENTION} at least",
        )
    if version > target.calling_convention:
        raise _too_new(name, f"has calling convention {version}", str(target.calling_convention), target)
    written = stablehlo_version(module)
    if written > tuple(int(number) for number in target.stablehlo.split(".")):
        raise _too_new(name, f"is in StableHLO {'.'.join(map(str, written))}", target.stablehlo, target)


def _too_new(name: str, what: str, known: str, target: ServingTarget) -> DropError:
    return DropError(
        "function-too-new",
        f"the function {name!r} {what}, TensorFlow {target.tensorflow} knows {known} at most",
        remedy="save it with smdaemon.savedmodel.jax where jaxlib is installed, which writes it for that release, "
        "or name a later release as serving_tensorflow",
    )
