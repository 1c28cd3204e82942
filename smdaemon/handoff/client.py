"""The trainer's side: `attach` gives a Sidecar, whose `save` hands a tree of tensors over and returns.

Nothing here makes a training step fail or wait for the daemon: a save that cannot be done is skipped, counted and logged. Two threads work
for a sidecar. One receives, and when the daemon is gone connects again and offers it what is not done. The other copies
tensors out of snapshots. All that both and the trainer touch is guarded by one lock.
"""

import logging
import os
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, NamedTuple, Self

from smdaemon.errors import DropError, EnvironmentFault, SmdaemonError
from smdaemon.handoff.channel import Channel
from smdaemon.handoff.handle import Handle, Outcome
from smdaemon.handoff.memory import Segment, make_plan
from smdaemon.handoff.protocol import (
    PROTOCOL,
    Accepted,
    Begin,
    Cancel,
    Commit,
    Done,
    Fail,
    Hello,
    Lease,
    Message,
    Offer,
    Refused,
    Release,
    Reserve,
    commit_fields,
)
from smdaemon.staging.base import Stager
from smdaemon.staging.layout import Layout, encode_layout, laid_out
from smdaemon.staging.stagers import stagers_of
from smdaemon.staging.trees import named_tensors

__all__ = ["Handle", "Outcome", "Sidecar", "attach"]

_log = logging.getLogger("smdaemon.handoff")
_RECONNECT_SECONDS = (0.05, 5.0)
_STALLS_KEPT = 1000


@dataclass(eq=False)
class _Leased:
    """A segment: its number on the connection that it was leased on, and what is in it."""

    number: int
    segment: Segment
    channel: Channel | None
    handle: Handle | None = None
    # set once the bytes are whole; kept until the export has ended, to be offered again
    commit: Commit | None = None
    plan: int = -1

    def clear(self) -> None:
        """It is free again."""
        self.handle = self.commit = None
        if self.plan >= 0:
            os.close(self.plan)
        self.plan = -1


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

    Where no daemon answers, training goes on: saves are skipped until one does. DropError `device-invalid` for an io_device that is none.
    """
    return Sidecar(socket, name=name, rank=rank, world=world, threads=threads, io_device=io_device, strict=strict)


class Sidecar:
    """A connection to the daemon that mends itself; see `attach`.

    `counts` says how many saves were "staged", "published", "failed" and "skipped"; `stalls` are the seconds that the last saves took.
    """

    def __init__(
        self, socket: str | Path, *, name: str, rank: int, world: int, threads: int | None, io_device: str, strict: bool
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.stalls: deque[float] = deque(maxlen=_STALLS_KEPT)
        self._path = socket
        self._hello = Hello(PROTOCOL, name or f"pid {os.getpid()}", rank, world)
        self._threads = threads or min(4, os.cpu_count() or 1)
        self._strict = strict
        self._writes_here = _writes_here(io_device, rank, world)
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._channel: Channel | None = None
        self._leased: list[_Leased] = []
        self._requests: dict[int, _Leased | SmdaemonError | None] = {}
        self._request = 0
        self._exports: dict[str, tuple[Handle, _Leased]] = {}
        self._offered: dict[int, _Leased] = {}
        self._last_plan: tuple[Layout | None, bytes] = (None, b"")
        self._unsent_skips = 0
        self._jobs: deque[Callable[[], None]] = deque()
        try:
            self._connect()
        except EnvironmentFault as error:
            _log.warning("%s; saves are skipped until one does", error.message)
        self._receiver = threading.Thread(target=self._stay_connected, name="handoff-receive", daemon=True)
        self._worker = threading.Thread(target=self._work, name="handoff-stage", daemon=True)
        self._receiver.start()
        self._worker.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close(None if kind is None else 0)

    def close(self, timeout: float | None = None) -> None:
        """End the connection once what was saved is staged; exports that were committed complete without us."""
        deadline = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while self._jobs and (deadline is None or time.monotonic() < deadline):
                self._changed.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
            self._closing.set()
            channel = self._channel
            self._changed.notify_all()
        if channel is not None:
            channel.close()
        self._receiver.join()
        self._worker.join(timeout)
        with self._changed:
            for handle, _leased in self._exports.values():
                handle.settle(Outcome("pending", message="the sidecar was closed before the export had ended"))
            for leased in self._leased:
                self._drop(leased)
            self._leased.clear()

    @property
    def connected(self) -> bool:
        """Whether a daemon is there."""
        return self._channel is not None

    def reserve(self, spec: Any, *, segments: int = 2, timeout: float = 120.0) -> bool:
        """Have memory for `segments` saves at once of a tree like `spec` (or of so many bytes); whether it is had.

        To be called before training: the daemon takes seconds to get gigabytes ready, and the first save finds them. Without it
        the first saves do so.
        """
        try:
            nbytes = spec if isinstance(spec, int) else self._layout(spec)[1].nbytes
            for _ in range(segments - sum(leased.segment.nbytes >= nbytes for leased in self._leased)):
                self._reserve(nbytes, time.monotonic() + timeout)
        except SmdaemonError as error:
            return self._told(error)
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
        """Hand the tensors of `tree` over, to be published as a version of `model`; `options` are fields of ExportRequest.

        When this returns, the tensors may be overwritten or donated; with `mode` "direct" nothing is copied for that, and `barrier()`
        of the handle says when. While all segments wait to be exported, the save is skipped, or with `on_busy` "wait" it waits
        for one, at most `timeout` seconds. Whatever goes wrong is in the handle's result.
        """
        began = time.perf_counter()
        handle = Handle(step, model)
        try:
            if not self._writes_here:
                raise EnvironmentFault(
                    "handoff-away", "io_device has another host write", remedy="nothing needs to be done"
                )
            tensors, layout, stagers = self._layout(tree)
            handle.nbytes = layout.nbytes
            leased = self._free_segment(handle, layout.nbytes, on_busy, time.monotonic() + timeout)
            try:
                self._stage(handle, leased, layout, _grouped(tensors, layout, stagers, leased), mode, options)
            except BaseException:
                self._give_up(handle, leased)
                raise
        except SmdaemonError as error:
            self._end(handle, Outcome("skipped", code=error.code, message=error.message, remedy=error.remedy))
            if self._strict:
                raise
        finally:
            handle.stall_seconds = time.perf_counter() - began
            self.stalls.append(handle.stall_seconds)
        return handle

    # Staging.

    def _layout(self, tree: Any) -> tuple[dict[str, Any], Layout, dict[str, Stager]]:
        """The tensors of a tree, how they will lie in a segment, and who takes each there. One that is there twice lies once."""
        tensors = named_tensors(tree)
        stagers = stagers_of(tensors)
        first: dict[int, str] = {}
        shared = {}
        for name, tensor in tensors.items():
            if (other := first.setdefault(id(tensor), name)) != name:
                shared[name] = other
        specs = {name: stagers[name].spec(tensor) for name, tensor in tensors.items()}
        return tensors, laid_out(specs, shared), stagers

    def _stage(
        self,
        handle: Handle,
        leased: _Leased,
        layout: Layout,
        groups: Sequence[_Group],
        mode: str,
        options: Mapping[str, Any],
    ) -> None:
        """Copy what must be copied now, and have the rest copied; then the segment is committed."""
        plan = self._plan(layout)
        began = time.perf_counter()
        later: list[_Group] = []
        for group in groups:
            if mode == "direct":
                later.append(group)
            elif group.stager.snapshots:
                later.append(group._replace(tensors=group.stager.snapshot(group.tensors)))
            else:
                group.stager.copy(group.tensors, group.into, self._threads)
        if mode != "direct":
            handle.source_is_free()
        commit = Commit(
            handle.export,
            leased.number,
            layout.nbytes,
            handle.model,
            handle.step,
            dict(options),
            stall_us=int((time.perf_counter() - began) * 1e6),
        )
        if not later:
            self._commit(handle, leased, commit, plan)
            return

        def finish() -> None:
            try:
                for group in later:
                    group.stager.copy(group.tensors, group.into, self._threads)
            except Exception as error:  # noqa: BLE001 - a library's own errors must not end the thread
                self._give_up(handle, leased)
                foreseen = (
                    error
                    if isinstance(error, SmdaemonError)
                    else DropError("handoff-tensor", f"copying failed: {error}")
                )
                self._end(
                    handle, Outcome("failed", code=foreseen.code, message=foreseen.message, remedy=foreseen.remedy)
                )
                return
            finally:
                later.clear()  # the snapshots go, and with them the device's memory
                handle.source_is_free()
            self._commit(handle, leased, commit, plan)

        with self._changed:
            self._jobs.append(finish)
            self._changed.notify_all()

    def _commit(self, handle: Handle, leased: _Leased, commit: Commit, plan: bytes) -> None:
        """The bytes are whole: tell the daemon, or keep them for the next one."""
        with self._changed:
            leased.plan = make_plan(plan)
            commit, self._unsent_skips = replace(commit, skipped=self._unsent_skips), 0
            leased.commit = commit
            self._exports[handle.export] = (handle, leased)
            self.counts["staged"] += 1
            handle.is_staged()
            if leased.channel is self._channel:
                self._send(commit, leased.plan)
            elif self._channel is not None:  # it was filled while one daemon went and another came
                self._offer(leased)

    def _give_up(self, handle: Handle, leased: _Leased) -> None:
        with self._changed:
            leased.clear()
            if leased.channel is self._channel:
                self._send(Cancel(handle.export))
            elif self._channel is not None:
                self._offer(leased)
            self._changed.notify_all()

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
        with self._changed:
            self.counts[outcome.state] += 1
            if outcome.state == "skipped":
                self._unsent_skips += 1
        if outcome.state != "published":
            _log.warning(
                "step %s of %s %s: %s [%s]", handle.step, handle.model, outcome.state, outcome.message, outcome.code
            )

    def _told(self, error: SmdaemonError) -> bool:
        if self._strict:
            raise error
        _log.warning("%s [%s]; %s", error.message, error.code, error.remedy)
        return False

    # Segments.

    def _free_segment(self, handle: Handle, nbytes: int, on_busy: str, deadline: float) -> _Leased:
        """A segment to fill, which is now this save's. EnvironmentFault `handoff-busy`, `handoff-away`, `handoff-memory`."""
        while True:
            with self._changed:
                if self._channel is None:
                    raise EnvironmentFault("handoff-away", f"no daemon answers on {os.fspath(self._path)!r}")
                fitting = [leased for leased in self._leased if leased.segment.nbytes >= nbytes]
                for leased in fitting:
                    if leased.handle is None and leased.channel is self._channel:
                        leased.handle = handle
                        self._send(Begin(handle.export, leased.number))
                        return leased
                if len(fitting) >= 2:
                    if on_busy != "wait" or not self._changed.wait(max(0.0, deadline - time.monotonic())):
                        raise EnvironmentFault("handoff-busy", f"all {len(fitting)} segments wait to be exported")
                    continue
            try:
                self._reserve(nbytes, deadline)
            except SmdaemonError:
                if not fitting:
                    raise
                # the one that there is must do: busy, as if there were no room for a second
                if on_busy != "wait":
                    raise EnvironmentFault("handoff-busy", "the only segment waits to be exported") from None
                with self._changed:
                    self._changed.wait(max(0.0, min(1.0, deadline - time.monotonic())))
                if time.monotonic() >= deadline:
                    raise

    def _reserve(self, nbytes: int, deadline: float) -> _Leased:
        with self._changed:
            request = self._ask(lambda number: (Reserve(number, nbytes), ()))
            while self._requests[request] is None:
                if self._channel is None:
                    raise EnvironmentFault("handoff-away", f"no daemon answers on {os.fspath(self._path)!r}")
                if not self._changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    raise EnvironmentFault(
                        "handoff-memory", f"the daemon had no segment of {nbytes} bytes ready in time"
                    )
            answer = self._requests.pop(request)
        if isinstance(answer, SmdaemonError):
            raise answer
        assert answer is not None
        return answer

    def _ask(self, message: Callable[[int], tuple[Message, tuple[int, ...]]]) -> int:
        self._request += 1
        self._requests[self._request] = None
        asked, fds = message(self._request)
        self._send(asked, *fds)
        return self._request

    # The connection.

    def _connect(self) -> None:
        channel = Channel(self._path, self._hello)
        with self._changed:
            self._channel = channel
            # whoever waited for an answer of the other daemon waits in vain
            for request in [request for request, answer in self._requests.items() if answer is None]:
                self._requests[request] = EnvironmentFault("handoff-away", "the daemon went away")
            self._offered.clear()
            for leased in self._leased:
                if leased.handle is not None and leased.commit is None:
                    continue  # it is being filled: it is offered when it is whole
                self._offer(leased)
            self._changed.notify_all()

    def _offer(self, leased: _Leased) -> None:
        told = None if leased.commit is None else commit_fields(leased.commit)
        fds = (leased.segment.fd,) if leased.plan < 0 else (leased.segment.fd, leased.plan)
        number = self._ask(lambda request: (Offer(request, leased.segment.nbytes, told), fds))
        del self._requests[number]
        self._offered[number] = leased

    def _stay_connected(self) -> None:
        """The receiver's work: until the sidecar is closed."""
        pause, longest = _RECONNECT_SECONDS
        while not self._closing.is_set():
            channel = self._channel
            if channel is not None:
                self._listen(channel)
                pause = _RECONNECT_SECONDS[0]
                continue
            with self._changed:
                self._changed.wait(pause)
            pause = min(longest, pause * 2)
            try:
                self._connect()
            except SmdaemonError as error:
                _log.debug("%s", error.message)
            else:
                _log.info("connected again to %s", self._path)

    def _listen(self, channel: Channel) -> None:
        """Obey the daemon until it is gone."""
        try:
            while (received := channel.receive()) is not None:
                self._obey(*received)
        except DropError as error:
            _log.warning("%s", error.message)
        channel.close()
        with self._changed:
            if self._channel is channel:
                self._channel = None
            self._changed.notify_all()
        if not self._closing.is_set():
            _log.warning("the daemon on %s went away; saves are skipped until it is back", self._path)

    def _obey(self, message: Message, fds: list[int]) -> None:
        outcome: tuple[Handle, Outcome] | None = None
        segment: Segment | None = None
        if isinstance(message, Lease):
            segment = Segment(fds[0], message.bytes)
            if message.request not in self._offered:
                segment.populate()  # without the lock: it takes a while
        with self._changed:
            match message:
                case Lease():
                    assert segment is not None
                    self._lease(message, segment)
                case Refused():
                    self._refused(message)
                case Release():
                    for leased in self._leased:
                        if leased.number == message.segment:
                            leased.clear()
                case Accepted() if message.export in self._exports:
                    self._exports[message.export][0].job = message.job
                case Done() if message.export in self._exports:
                    handle, _ = self._exports.pop(message.export)
                    outcome = handle, Outcome("published", message.version, message.export_dir)
                case Fail() if message.export in self._exports:
                    handle, _ = self._exports.pop(message.export)
                    outcome = handle, Outcome("failed", None, "", message.code, message.message, message.remedy)
                case _:
                    pass
            self._changed.notify_all()
        if outcome is not None:
            self._end(*outcome)

    def _lease(self, message: Lease, segment: Segment) -> None:
        if (leased := self._offered.pop(message.request, None)) is not None:
            segment.close()  # we have it
            leased.number, leased.channel = message.segment, self._channel
            return
        leased = _Leased(message.segment, segment, self._channel)
        self._leased.append(leased)
        if message.request in self._requests:
            self._requests[message.request] = leased

    def _refused(self, message: Refused) -> None:
        error = EnvironmentFault("handoff-memory", message.message, remedy=message.remedy or None)
        if (leased := self._offered.pop(message.request, None)) is not None:
            self._leased.remove(leased)
            if leased.handle is not None and leased.commit is not None:
                self._exports.pop(leased.handle.export, None)
                leased.handle.settle(Outcome("failed", code=error.code, message=error.message, remedy=error.remedy))
            self._drop(leased)
        elif message.request in self._requests:
            self._requests[message.request] = error

    def _drop(self, leased: _Leased) -> None:
        """Let a segment go."""
        leased.clear()
        leased.segment.close()

    def _send(self, message: Message, *fds: int) -> None:
        """Send, if anyone is there; who is gone is noticed by the receiver."""
        channel = self._channel
        if channel is None:
            return
        try:
            channel.send(message, *fds)
        except OSError:
            channel.close()

    def _work(self) -> None:
        """The worker's work: copy what was left to it, in the order of the saves."""
        while True:
            with self._changed:
                while not self._jobs:
                    if self._closing.is_set():
                        return
                    self._changed.wait()
                job = self._jobs[0]
            job()
            with self._changed:
                self._jobs.popleft()
                self._changed.notify_all()


def _grouped(
    tensors: Mapping[str, Any], layout: Layout, stagers: Mapping[str, Stager], leased: _Leased
) -> list[_Group]:
    """The tensors by their stagers, each with its place in the segment; one that lies there already is left out."""
    buffer = leased.segment.buffer
    groups: dict[int, tuple[Stager, list[Any], list[memoryview]]] = {}
    placed: set[int] = set()
    for row in layout.rows:
        if row.nbytes and row.offset in placed:
            continue
        placed.add(row.offset)
        stager = stagers[row.name]
        group = groups.setdefault(id(stager), (stager, [], []))
        group[1].append(tensors[row.name])
        group[2].append(buffer[row.offset : row.offset + row.nbytes])
    return [_Group(*group) for group in groups.values()]


def _writes_here(io_device: str, rank: int, world: int) -> bool:
    """Whether this host's daemon is the one that writes."""
    if not io_device:
        return True
    from smdaemon.placement import parse_device, validate_io_device

    validate_io_device(io_device)
    task = parse_device(io_device).task
    return world == 1 or task is None or task == rank
