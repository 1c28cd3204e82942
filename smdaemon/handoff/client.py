"""The trainer's side: `attach` gives a Sidecar, whose `save` hands a tree of tensors over and returns.

Nothing here makes a training step fail or wait for the daemon: a save that cannot be done is skipped, counted and logged. Two threads work
for a sidecar: one receives from the daemon (link.py), the other copies tensors out of snapshots.
"""

import logging
import os
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from smdaemon.errors import DropError, EnvironmentFault, SmdaemonError, fault
from smdaemon.handoff.handle import Handle, Outcome
from smdaemon.handoff.link import Leased, Link
from smdaemon.handoff.memory import Segment
from smdaemon.handoff.protocol import PROTOCOL, Commit, Hello, sendable
from smdaemon.staging.base import Stager
from smdaemon.staging.layout import Layout, encode_layout, laid_out
from smdaemon.staging.stagers import STAGERS, specs_of, stagers_of
from smdaemon.staging.trees import named_tensors

__all__ = ["Handle", "Outcome", "Sidecar", "attach"]

_log = logging.getLogger("smdaemon.handoff")
_STALLS_KEPT = 1000


class _Tensors(NamedTuple):
    """A tree's tensors by name, the stager of each, and how they will lie in a segment."""

    named: dict[str, Any]
    stagers: dict[str, Stager]
    layout: Layout


class _Group(NamedTuple):
    """The tensors of one save that one stager takes, and where they go."""

    stager: Stager
    tensors: Sequence[Any]
    into: Sequence[memoryview]


def attach(
    socket: str | Path,
    *,
    name: str = "",
    rank: int = 0,
    world: int = 1,
    threads: int | None = None,
    io_device: str = "",
    strict: bool = False,
) -> "Sidecar":
    """A sidecar for the daemon that listens on `socket` (`handoff_socket` of its configuration); use it in a `with` block.

    `name` is what the daemon calls this trainer. `threads` copy at once (default: as many as there are processors, at most 4). Of several
    hosts, `io_device` names the one whose daemon writes, as TensorFlow's `experimental_io_device` does: the others' saves are
    skipped, `rank` being the task that counts; with one host it is only checked. With `strict` what otherwise is logged and counted is raised.

    Where no daemon answers, training goes on: saves are skipped until one does. DropError `device-invalid` for an io_device that is
    none, `handoff-refused` or `handoff-protocol` where a daemon answers and will not have us.
    """
    hello = Hello(PROTOCOL, name or f"pid {os.getpid()}", rank, world)
    return Sidecar(socket, hello, threads=threads, io_device=io_device, strict=strict)


class Sidecar:
    """A connection to the daemon that mends itself; see `attach`.

    `counts` says how many saves were "staged", "published", "failed" and "skipped"; `stalls` are the seconds that the last saves took.
    """

    def __init__(self, socket: str | Path, hello: Hello, *, threads: int | None, io_device: str, strict: bool) -> None:
        self.counts: Counter[str] = Counter()
        self.stalls: deque[float] = deque(maxlen=_STALLS_KEPT)
        self._writes_here = _writes_here(io_device, hello)
        self._threads = threads or min(4, os.cpu_count() or 1)
        self._strict = strict
        self._counting = threading.Lock()
        self._skipped_before = 0
        self._last_plan: tuple[Layout | None, bytes] = (None, b"")
        self._last_tensors: tuple[object, _Tensors] | None = None
        self._link = Link(socket, hello, self._end, _release)
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._worker = threading.Thread(target=self._work, name="handoff-stage", daemon=True)
        self._worker.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection once what was saved is staged; exports that were committed complete without us."""
        self._jobs.put(None)
        self._worker.join()
        self._link.close()

    @property
    def connected(self) -> bool:
        """Whether a daemon is there."""
        return self._link.connected

    def reserve(self, spec: Any, *, segments: int = 2, timeout: float = 120.0) -> bool:
        """Have memory for `segments` saves at once of a tree like `spec` (or of so many bytes); whether it is had.

        To be called before training: the daemon takes seconds to get gigabytes ready, and the first save finds them. Without it
        the first saves do so.
        """
        try:
            tensors = None if isinstance(spec, int) else self._tensors(spec)
            nbytes = spec if tensors is None else tensors.layout.nbytes
            had = self._link.have(nbytes, segments, time.monotonic() + timeout)
            for group in [] if tensors is None else _grouped(tensors, had[0]):
                for segment in had:
                    group.stager.prepare(segment.buffer)
                group.stager.warm(group.tensors)
        except SmdaemonError as error:
            if self._strict:
                raise
            _log.warning("%s [%s]; %s", error.message, error.code, error.remedy)
            return False
        return True

    def save(
        self,
        step: int,
        tree: Any,
        *,
        model: str,
        mode: Literal["auto", "direct"] = "auto",
        on_busy: Literal["skip", "wait"] = "skip",
        timeout: float = 120.0,
        **options: Any,
    ) -> Handle:
        """Hand the tensors of `tree` over, to be published as a version of `model`; `options` are fields of ExportRequest, as JSON has them.

        When this returns, the tensors may be overwritten or donated; with `mode` "direct" nothing is copied for that, and `barrier()`
        of the handle says when. While all segments wait to be exported, the save is skipped, or with `on_busy` "wait" it waits
        for one, at most `timeout` seconds. Whatever goes wrong is in the handle's result.
        """
        began = time.perf_counter()
        handle = Handle(step, model)
        try:
            if not self._writes_here:
                raise EnvironmentFault("handoff-elsewhere", "io_device has another host write")
            commit = sendable(Commit(handle.export, 0, 0, model, step, options))
            tensors = self._tensors(tree)
            handle.nbytes = tensors.layout.nbytes
            leased = self._link.take(handle, handle.nbytes, time.monotonic() + timeout, wait=on_busy == "wait")
            commit = replace(commit, segment=leased.number, bytes=handle.nbytes)
            try:
                self._stage(handle, leased, tensors, commit, direct=mode == "direct", began=began)
            except BaseException:
                self._link.give_up(handle, leased)
                raise
        except Exception as error:  # whatever a library raises must not end the training
            told = _told(error)
            self._end(handle, Outcome("skipped", code=told.code, message=told.message, remedy=told.remedy))
            if not self._strict:
                return handle
            if told is error:
                raise
            raise told from error
        finally:
            handle.stall_seconds = time.perf_counter() - began
            self.stalls.append(handle.stall_seconds)
        return handle

    def _stage(
        self, handle: Handle, leased: Leased, tensors: _Tensors, commit: Commit, *, direct: bool, began: float
    ) -> None:
        """Copy what must be copied now, and have the rest copied; then the segment is committed."""
        later: list[_Group] = []
        lent = False
        for group in _grouped(tensors, leased.segment):
            group.stager.prepare(leased.segment.buffer)
            if direct and not group.stager.views:
                later.append(group)
                lent = True
            elif (snapshot := _snapshot(group)) is not None:
                later.append(snapshot)
            else:
                group.stager.copy(group.tensors, group.into, self._threads)
        if not lent:
            handle.source_is_free()
        commit = replace(commit, stall_us=int((time.perf_counter() - began) * 1e6))
        plan = self._plan(tensors.layout)
        if later:
            self._jobs.put(lambda: self._finish(handle, leased, later, commit, plan))
        else:
            self._commit(handle, leased, commit, plan)

    def _finish(self, handle: Handle, leased: Leased, later: list[_Group], commit: Commit, plan: bytes) -> None:
        """In the worker: copy what was left to it, and commit."""
        try:
            for group in later:
                group.stager.copy(group.tensors, group.into, self._threads)
            self._commit(handle, leased, commit, plan)
        except Exception as error:  # noqa: BLE001 - a library's own errors must not end the thread
            self._link.give_up(handle, leased)
            told = _told(error)
            self._end(handle, Outcome("failed", code=told.code, message=told.message, remedy=told.remedy))
        finally:
            later.clear()  # the snapshots go, and with them the device's memory
            handle.source_is_free()

    def _commit(self, handle: Handle, leased: Leased, commit: Commit, plan: bytes) -> None:
        with self._counting:
            self.counts["staged"] += 1
            skipped, self._skipped_before = self._skipped_before, 0
        self._link.commit(handle, leased, replace(commit, skipped=skipped), plan)
        handle.is_staged()

    def _tensors(self, tree: Any) -> _Tensors:
        """The tensors of a tree; one that is there twice lies in the segment once. DropError `source-empty`, and as the stagers.

        What is known of the tree of the save before holds for this one where its tensors are of the same kinds: nearly always.
        """
        named = named_tensors(tree)
        if not named:
            raise DropError("source-empty", "there are no tensors in what is to be saved")
        first: dict[int, str] = {}
        shared = {}
        for name, tensor in named.items():
            if (other := first.setdefault(id(tensor), name)) != name:
                shared[name] = other
        kinds = (tuple((name, *_kind(tensor)) for name, tensor in named.items()), shared)
        last = self._last_tensors
        if last is not None and last[0] == kinds:
            return last[1]._replace(named=named)
        stagers = stagers_of(named)
        tensors = _Tensors(named, stagers, laid_out(specs_of(named, stagers), shared))
        self._last_tensors = kinds, tensors._replace(named={})
        return tensors

    def _plan(self, layout: Layout) -> bytes:
        """The plan of a layout: most saves have that of the one before."""
        last, plan = self._last_plan
        if last != layout:
            plan = encode_layout(layout)
            self._last_plan = layout, plan
        return plan

    def _end(self, handle: Handle, outcome: Outcome) -> None:
        if not handle.settle(outcome):
            return
        with self._counting:
            self.counts[outcome.state] += 1
            self._skipped_before += outcome.state == "skipped"
        if outcome.state != "published":
            told = (handle.step, handle.model, outcome.state, outcome.message, outcome.code)
            _log.warning("step %s of %s %s: %s [%s]", *told)

    def _work(self) -> None:
        """The worker's thread: what saves left to it, in their order, until the sidecar is closed."""
        while (job := self._jobs.get()) is not None:
            job()


def _kind(tensor: Any) -> tuple[object, ...]:
    """What decides who takes a tensor and how it lies in a segment."""
    where = getattr(tensor, "sharding", None) or getattr(tensor, "device", None)
    dtype = getattr(tensor, "dtype", None)
    if dtype is None:
        import numpy as np

        dtype = np.asarray(tensor).dtype  # of an int its size decides
    return type(tensor), getattr(tensor, "shape", None), dtype, where


def _grouped(tensors: _Tensors, segment: Segment) -> list[_Group]:
    """The tensors by their stagers, each with its place in the segment; one that lies there already is left out, and one without bytes."""
    buffer = segment.buffer
    groups: dict[int, tuple[Stager, list[Any], list[memoryview]]] = {}
    placed: set[int] = set()
    for row in tensors.layout.rows:
        if not row.nbytes or row.offset in placed:
            continue
        placed.add(row.offset)
        stager = tensors.stagers[row.name]
        group = groups.setdefault(id(stager), (stager, [], []))
        group[1].append(tensors.named[row.name])
        group[2].append(buffer[row.offset : row.offset + row.nbytes])
    return [_Group(*group) for group in groups.values()]


def _snapshot(group: _Group) -> _Group | None:
    """The group with tensors that stay whatever the trainer does; None where they must be copied before it goes on."""
    if not group.stager.snapshots:
        return None
    try:
        return group._replace(tensors=group.stager.snapshot(group.tensors))
    except EnvironmentFault as error:
        if error.code != "memory-short":
            raise
        _log.warning("no memory for a snapshot, the save copies instead: %s", error.message)
        return None


def _told(error: Exception) -> SmdaemonError:
    """What the trainer is told of an error of ours, of the machine, or of its framework."""
    if isinstance(error, SmdaemonError):
        return error
    if isinstance(error, OSError):
        return fault(error, "saving")
    return DropError("handoff-tensor", f"not copied: {type(error).__name__}: {error}")


def _release(segment: Segment) -> None:
    """The segment is about to be unmapped."""
    for stager in STAGERS:
        stager.release(segment.buffer)


def _writes_here(io_device: str, hello: Hello) -> bool:
    """Whether this host's daemon is the one that writes."""
    if not io_device:
        return True
    from smdaemon.placement import parse_device, validate_io_device

    validate_io_device(io_device)
    task = parse_device(io_device).task
    return hello.world == 1 or task is None or task == hello.rank
