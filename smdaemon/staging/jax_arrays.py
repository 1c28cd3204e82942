"""What the stagers of JAX's arrays share: what an array is, its parts on the devices of this host, and the snapshot on the devices.

JAX's arrays never change, but a step may take their memory for its results ("donate" them). So a snapshot is a copy on the device that
nobody can donate; it is launched in one go, and runs in the device's own order before whatever is launched next.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, lru_cache
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from smdaemon.errors import DropError, EnvironmentFault
from smdaemon.staging.base import Spec, Stager, loaded, make_spec, memory_short, name_of
from smdaemon.staging.host import as_array, copy_pieces, pieces

Result = TypeVar("Result")

BATCH_BYTES = 256 << 20
"""So much is on its way to the host at once, and as much again waits there to be copied."""


class Part(NamedTuple):
    """A part of a tensor: its values, an array on one device; its place in the whole, a slice for each dimension; the whole's buffer."""

    values: Any
    place: tuple[slice, ...]
    whole: Spec
    buffer: memoryview

    def target(self) -> Any:
        """The part's place in the buffer, as a numpy array."""
        return as_array(self.buffer, self.whole.dtype, self.whole.shape)[(*self.place, ...)]


class JaxStager(Stager):
    """Spec and snapshot of JAX's arrays of any platform; the way to the host is another one for each."""

    snapshots = True

    def claims(self, tensor: Any) -> bool:
        """Whether it is an array of JAX on a platform of this stager. A traced value is none: it has no devices."""
        array_type = loaded("jax", "Array")
        if array_type is None or not isinstance(tensor, array_type):
            return False
        tracer = getattr(loaded("jax", "core"), "Tracer", None)
        return not (tracer is not None and isinstance(tensor, tracer)) and self.claims_platform(platform_of(tensor))

    def claims_platform(self, platform: str) -> bool:
        """Whether this stager is for a platform of that name."""
        raise NotImplementedError

    def spec(self, tensor: Any) -> Spec:
        """See `Stager`. Keys of random numbers are their data; of an array that is the same on many devices one is taken."""
        refuse_deleted(tensor)
        here = tensor.is_fully_addressable
        if not here and not (tensor.is_fully_replicated and tensor.sharding.addressable_devices):
            raise DropError(
                "handoff-tensor",
                f"parts of the array of shape {list(tensor.shape)} lie on devices of other hosts",
                remedy="gather it with jax.experimental.multihost_utils.process_allgather(array, tiled=True)",
            )
        if _is_key(tensor):
            tensor = sys.modules["jax"].eval_shape(sys.modules["jax"].random.key_data, tensor)
        return make_spec(name_of(tensor.dtype), tensor.shape)

    def warm(self, tensors: Sequence[Any]) -> None:
        """See `Stager`."""
        apart(lambda: compile_copies(tensors))

    def snapshot(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """Copies on the devices, one launch for each group of devices; `memory-short` where these have no room."""
        return apart(lambda: copies(tensors))


def platform_of(tensor: Any) -> str:
    """The name of the platform that an array of JAX is on, also after it was deleted."""
    device: Any = next(iter(tensor.sharding.device_set))
    return str(device.platform)


def copies(tensors: Sequence[Any]) -> list[Any]:
    """A copy of each array, on its own devices; of what is the same on many devices, on one of them.

    Returns once the copying is launched. What is compiled for it is compiled once for each list of shapes, dtypes and devices.
    """
    made: list[Any] = [None] * len(tensors)
    for items, arrays in _launches(tensors):
        with jax_errors(arrays):
            for item, copied in zip(items, _copier()(arrays), strict=True):
                made[item] = copied
    return made


def _launches(tensors: Sequence[Any]) -> list[tuple[list[int], list[Any]]]:
    """What is launched together: the numbers of tensors, and their arrays."""
    groups: dict[Any, tuple[list[int], list[Any]]] = {}
    with jax_errors():
        for item, tensor in enumerate(tensors):
            refuse_deleted(tensor)
            array = plain(tensor)
            if array.is_fully_replicated and len(array.sharding.device_set) > 1:
                array = array.addressable_data(0)
            # one launch takes arrays of the same devices in the same order only
            devices = tuple(array.sharding.devices_indices_map(array.shape))
            items, arrays = groups.setdefault((devices, array.sharding.memory_kind), ([], []))
            items.append(item)
            arrays.append(array)
    return list(groups.values())


def compile_copies(tensors: Sequence[Any]) -> None:
    """Compile what `copies` of such arrays launches."""
    for _, arrays in _launches(tensors):
        with jax_errors():
            _copier().lower(arrays).compile()


@cache
def _copier() -> Any:
    """The compiled copy of a list of arrays; JAX keeps what it has compiled."""
    jax = sys.modules["jax"]

    def handoff_snapshot(arrays: list[Any]) -> list[Any]:
        return [jax.numpy.copy(array) for array in arrays]

    return jax.jit(handoff_snapshot)


def plain(tensor: Any) -> Any:
    """The array itself, or the data of an array of random keys."""
    return sys.modules["jax"].random.key_data(tensor) if _is_key(tensor) else tensor


def parts_of(tensor: Any, buffer: memoryview) -> list[Part]:
    """The parts that make up the tensor, each once. Their arrays are new objects over the same memory.

    New objects, because JAX keeps with an array what was once fetched of it: that must not outlive the copy. RuntimeError of JAX where
    the tensor was deleted.
    """
    array = plain(tensor)
    whole = Spec(name_of(array.dtype), tuple(array.shape), len(buffer))
    return [Part(values, place, whole, buffer) for place, values in pieces_of(array)]


def pieces_of(array: Any) -> list[tuple[tuple[slice, ...], Any]]:
    """As `parts_of`, without a buffer: the places and the values."""
    if array.is_fully_replicated:
        return [((slice(None),) * array.ndim, array.addressable_data(0))]
    return [(each.index, each.data.addressable_data(0)) for each in array.addressable_shards if each.replica_id == 0]


def fetch(
    parts: Iterable[Part], start: Callable[[list[Any]], list[Any]], threads: int, batch_bytes: int = BATCH_BYTES
) -> None:
    """Copy parts to the host in batches: while one is copied on from where JAX puts it, the next is on its way.

    `start` sets off a batch without waiting for it, and returns arrays of which numpy can have the values.
    """
    import numpy as np

    on_the_way: list[tuple[Any, Any]] = []
    with jax_errors():
        for batch in chain(_batches(parts, batch_bytes), [[]]):
            started = start([part.values for part in batch]) if batch else []
            copy_pieces((piece for array, target in on_the_way for piece in pieces(target, np.asarray(array))), threads)
            on_the_way = [(array, part.target()) for array, part in zip(started, batch, strict=True)]


def start_to_host(arrays: list[Any]) -> list[Any]:
    """Set off the arrays' way to the host by JAX's own means."""
    for array in arrays:
        array.copy_to_host_async()
    return arrays


def _batches(parts: Iterable[Part], batch_bytes: int) -> Iterator[list[Part]]:
    batch: list[Part] = []
    nbytes = 0
    for part in parts:
        if batch and nbytes + part.values.nbytes > batch_bytes:
            yield batch
            batch, nbytes = [], 0
        batch.append(part)
        nbytes += part.values.nbytes
    if batch:
        yield batch


def apart(act: Callable[[], Result]) -> Result:
    """The result of `act`, done in a thread of its own: the trainer's may be inside of `jax.set_mesh` or a transfer guard.

    Those hold for their thread only, and would make of a copy something else, or forbid it.
    """
    result: list[Result] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            result.append(act())
        except BaseException as error:  # noqa: BLE001 - it is raised in the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, name="handoff-snapshot")
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return result[0]


@contextmanager
def jax_errors(arrays: Sequence[Any] = ()) -> Iterator[None]:
    """What JAX raises, as the errors of `Stager`; the arrays are those for which a device's memory was asked."""
    try:
        yield
    except (RuntimeError, ValueError) as error:
        text = str(error)
        if "deleted" in text:
            raise _deleted() from error
        if "RESOURCE_EXHAUSTED" in text:
            raise memory_short(sum(array.nbytes for array in arrays), "the device") from error
        raise EnvironmentFault("handoff-tensor", f"JAX could not give a tensor: {text.splitlines()[0]}") from error


def refuse_deleted(tensor: Any) -> None:
    """DropError `handoff-tensor` where the array has been deleted or donated."""
    if tensor.is_deleted():
        raise _deleted(f" of shape {list(tensor.shape)}")


def _deleted(shape: str = "") -> DropError:
    return DropError(
        "handoff-tensor",
        f"the array{shape} has been deleted or donated",
        remedy='save before the step that donates it; with mode="direct" wait in barrier() before that step',
    )


def _is_key(tensor: Any) -> bool:
    return _is_key_type(tensor.dtype)


@lru_cache
def _is_key_type(dtype: Any) -> bool:
    dtypes = sys.modules["jax"].dtypes
    return bool(dtypes.issubdtype(dtype, dtypes.prng_key))
