"""The trainer's link to the daemon: segments that were leased, exports that are not done, and a connection that mends itself.

When the daemon goes, nothing is lost as long as the trainer lives: a segment that was committed is kept until its export has ended, and
offered to the next daemon. All state is guarded by one lock, `changed`, which is also how threads wait for each other.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from smdaemon.errors import DropError, EnvironmentFault, SmdaemonError
from smdaemon.handoff.channel import Channel, known_code
from smdaemon.handoff.handle import Handle, Outcome
from smdaemon.handoff.memory import Segment, make_plan
from smdaemon.handoff.protocol import (
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
    Reserve,
    Return,
    commit_fields,
)

_log = logging.getLogger("smdaemon.handoff")
_RECONNECT_SECONDS = (0.05, 5.0)
_SEGMENTS = 2
"""So many are enough: one is filled while the other is written."""


@dataclass(eq=False)
class Leased:
    """A segment: its number on the connection that it was leased on, and whose tensors are in it (`handle`; None: it is free).

    Once the bytes are whole, `commit` and the descriptor `plan` are what is told about them, until the export has ended.
    """

    number: int
    segment: Segment
    channel: Channel | None
    handle: Handle | None = None
    commit: Commit | None = None
    plan: int = -1

    def clear(self) -> None:
        """It is free again."""
        self.handle = self.commit = None
        if self.plan >= 0:
            os.close(self.plan)
        self.plan = -1


def _away() -> EnvironmentFault:
    return EnvironmentFault("handoff-away", "the daemon went away")


class Link:
    """See above. `on_ended` is told how exports end, without the lock; `on_dropped` of segments that are about to be unmapped."""

    def __init__(
        self,
        path: str | Path,
        hello: Hello,
        on_ended: Callable[[Handle, Outcome], None],
        on_dropped: Callable[[Segment], None],
    ) -> None:
        self.changed = threading.Condition()
        self._path = path
        self._hello = hello
        self._on_ended = on_ended
        self._on_dropped = on_dropped
        self._closing = threading.Event()
        self._channel: Channel | None = None
        self._leased: list[Leased] = []
        # what was asked for: None while there is no answer
        self._requests: dict[int, Leased | SmdaemonError | None] = {}
        self._request = 0
        # what was offered to the daemon that has come, and not answered yet
        self._offered: dict[int, Leased] = {}
        self._exports: dict[str, tuple[Handle, Leased]] = {}
        # why there is no daemon, while there is none
        self._absence: SmdaemonError = _away()
        try:
            self._connect()
        except EnvironmentFault as error:
            self._absence = error
            _log.warning("%s; saves are skipped until one does", error.message)
        self._thread = threading.Thread(target=self._stay_connected, name="handoff-receive", daemon=True)
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether a daemon is there."""
        return self._channel is not None

    def close(self) -> None:
        """End the connection; exports that were committed complete without us."""
        with self.changed:
            self._closing.set()
            channel = self._channel
            self.changed.notify_all()
        if channel is not None:
            channel.close()
        self._thread.join()
        with self.changed:
            for handle, _ in self._exports.values():
                handle.settle(Outcome("pending", message="the sidecar was closed before the export had ended"))
            for leased in self._leased:
                self._drop(leased)
            self._leased.clear()

    # Segments.

    def have(self, nbytes: int, count: int, deadline: float) -> list[Segment]:
        """Have at least `count` segments of `nbytes`; those. Raises as `take`."""
        while True:
            with self.changed:
                fitting = self._fitting(nbytes)
            if len(fitting) >= count:
                return [leased.segment for leased in fitting]
            self._reserve(nbytes, deadline)

    def take(self, handle: Handle, nbytes: int, deadline: float, *, wait: bool) -> Leased:
        """A segment of `nbytes` that is this save's to fill from now on; one more is asked for where there are fewer than two.

        Raises EnvironmentFault: `handoff-away` where there is no daemon, `handoff-memory` where it gives no segment, `handoff-busy`
        where all are in use: at once, or with `wait` at the deadline. Where a daemon does not want us, or cannot be reached, raises as `Channel`.
        """
        while True:
            with self.changed:
                self._check_connected()
                fitting = self._fitting(nbytes)
                for leased in fitting:
                    if leased.handle is None and leased.channel is self._channel:
                        leased.handle = handle
                        self._send(Begin(handle.export, leased.number))
                        return leased
            if len(fitting) < _SEGMENTS and self._could_reserve(nbytes, deadline, needed=not fitting):
                continue
            if not wait or time.monotonic() >= deadline:
                raise EnvironmentFault("handoff-busy", f"all {len(fitting)} segments wait to be exported")
            with self.changed:
                self.changed.wait(min(1.0, max(0.0, deadline - time.monotonic())))

    def commit(self, handle: Handle, leased: Leased, commit: Commit, plan: bytes) -> None:
        """The segment's bytes are whole: tell the daemon, or keep them for the next one. OSError where no descriptor is left for the plan."""
        with self.changed:
            leased.plan = make_plan(plan)
            leased.commit = replace(commit, segment=leased.number)
            if leased.channel is self._channel:
                self._send(leased.commit, leased.plan)
            elif self._channel is not None:  # it was filled while one daemon went and another came
                self._offer(leased)
            self._exports[handle.export] = (handle, leased)

    def give_up(self, handle: Handle, leased: Leased) -> None:
        """Nothing will be committed with the segment: it is free again, at once, as the daemon does not answer a Cancel."""
        with self.changed:
            if leased.channel is self._channel:
                self._send(Cancel(handle.export))
            leased.clear()
            if leased.channel is not self._channel and self._channel is not None:
                self._offer(leased)
            self.changed.notify_all()

    def _fitting(self, nbytes: int) -> list[Leased]:
        return [leased for leased in self._leased if leased.segment.nbytes >= nbytes]

    def _could_reserve(self, nbytes: int, deadline: float, *, needed: bool) -> bool:
        """Whether there is a segment more; where it is `needed`, why there is none is raised."""
        try:
            self._reserve(nbytes, deadline)
        except SmdaemonError:
            if needed:
                raise
            return False
        return True

    def _reserve(self, nbytes: int, deadline: float) -> None:
        """Ask for a segment and wait for it; those that became too small, and are free, go."""
        with self.changed:
            self._check_connected()
            for small in [
                leased for leased in self._leased if leased.segment.nbytes < nbytes and leased.handle is None
            ]:
                if small.channel is self._channel:
                    self._send(Return(small.number))
                    self._leased.remove(small)
                    self._drop(small)
            request = self._ask(lambda number: (Reserve(number, nbytes), ()))
            while self._requests[request] is None:
                if not self.changed.wait(max(0.0, deadline - time.monotonic())) and time.monotonic() >= deadline:
                    del self._requests[request]  # what is leased too late is there for the next save
                    raise EnvironmentFault(
                        "handoff-memory", f"the daemon had no segment of {nbytes} bytes ready in time"
                    )
            answer = self._requests.pop(request)
        if isinstance(answer, SmdaemonError):
            raise answer

    def _check_connected(self) -> None:
        if self._channel is None:
            why = self._absence
            # anew: an exception keeps the frames, and with them the tensors, of everyone who has met it
            raise type(why)(why.code, why.message, remedy=why.remedy)

    def _drop(self, leased: Leased) -> None:
        leased.clear()
        self._on_dropped(leased.segment)
        leased.segment.close()

    # The connection.

    def _connect(self) -> None:
        channel = Channel(self._path, self._hello)
        with self.changed:
            if self._closing.is_set():  # while the daemon greeted us: nobody else would end this connection
                channel.close()
                return
            self._channel = channel
            self._offered.clear()
            for leased in self._leased:
                # what is being filled is offered when it is whole
                if leased.handle is None or leased.commit is not None:
                    self._offer(leased)
            self.changed.notify_all()
        _log.info("connected to %s", self._path)

    def _stay_connected(self) -> None:
        """The receiving thread: until the link is closed."""
        pause, longest = _RECONNECT_SECONDS
        while not self._closing.is_set():
            channel = self._channel
            if channel is not None:
                self._listen(channel)
                pause = _RECONNECT_SECONDS[0]
                continue
            if self._closing.wait(pause):
                return
            pause = min(longest, pause * 2)
            try:
                self._connect()
            except SmdaemonError as error:
                news = error.code != self._absence.code
                _log.log(
                    logging.WARNING if news else logging.DEBUG, "not connected: %s [%s]", error.message, error.code
                )
                self._absence = error

    def _listen(self, channel: Channel) -> None:
        """Obey the daemon until it is gone."""
        try:
            while (received := channel.receive()) is not None:
                self._obey(*received)
        except DropError as error:
            _log.warning("%s", error.message)
        except Exception:  # noqa: BLE001 - this thread must not end: nobody else would connect again
            _log.exception("what the daemon said could not be obeyed")
        channel.close()
        with self.changed:
            self._channel = None
            self._absence = _away()
            for request in [request for request, answer in self._requests.items() if answer is None]:
                self._requests[request] = _away()
            self.changed.notify_all()
        if not self._closing.is_set():
            _log.warning("the daemon on %s went away; saves are skipped until it is back", self._path)

    def _obey(self, message: Message, fds: Sequence[int]) -> None:
        if isinstance(message, Lease):
            self._lease(message, fds[0])
            return
        ended: tuple[Handle, Outcome] | None = None
        with self.changed:
            if isinstance(message, Refused):
                ended = self._refused(message)
            elif isinstance(message, Accepted | Done | Fail) and message.export in self._exports:
                ended = self._told_of_export(message)
            self.changed.notify_all()
        if ended is not None:
            self._on_ended(*ended)

    def _told_of_export(self, message: Accepted | Done | Fail) -> tuple[Handle, Outcome] | None:
        handle, leased = self._exports[message.export]
        if isinstance(message, Accepted):
            handle.job = message.job
            return None
        del self._exports[message.export]
        leased.clear()
        if isinstance(message, Done):
            return handle, Outcome("published", message.version, message.export_dir)
        return handle, Outcome("failed", code=message.code, message=message.message, remedy=message.remedy)

    def _lease(self, message: Lease, fd: int) -> None:
        """A segment that was asked for, or one of ours that the daemon has taken over."""
        segment = Segment(fd, message.bytes)
        try:
            if message.request not in self._offered:
                segment.populate()  # without the lock: it takes a while
        except EnvironmentFault as error:
            segment.close()
            with self.changed:
                self._send(Return(message.segment))
                self._answer(message.request, error)
            return
        with self.changed:
            leased = self._offered.pop(message.request, None)
            if leased is not None:
                segment.close()  # we have it
                leased.number, leased.channel = message.segment, self._channel
            else:
                leased = Leased(message.segment, segment, self._channel)
                self._leased.append(leased)
            self._answer(message.request, leased)

    def _answer(self, request: int, answer: Leased | SmdaemonError) -> None:
        """Tell whoever still waits for it."""
        if request in self._requests:
            self._requests[request] = answer
        self.changed.notify_all()

    def _refused(self, message: Refused) -> tuple[Handle, Outcome] | None:
        """No segment, or none of what was offered; how an export ended by that."""
        error = EnvironmentFault(known_code(message.code), message.message, remedy=message.remedy or None)
        leased = self._offered.pop(message.request, None)
        if leased is None:
            self._answer(message.request, error)
            return None
        self._leased.remove(leased)
        handle = leased.handle
        self._drop(leased)
        if handle is None:
            return None
        self._exports.pop(handle.export, None)
        return handle, Outcome("failed", code=error.code, message=error.message, remedy=error.remedy)

    def _offer(self, leased: Leased) -> None:
        told = None if leased.commit is None else commit_fields(leased.commit)
        fds = (leased.segment.fd,) if leased.plan < 0 else (leased.segment.fd, leased.plan)
        number = self._ask(lambda request: (Offer(request, leased.segment.nbytes, told), fds))
        del self._requests[number]
        self._offered[number] = leased

    def _ask(self, message: Callable[[int], tuple[Message, tuple[int, ...]]]) -> int:
        self._request += 1
        self._requests[self._request] = None
        asked, fds = message(self._request)
        self._send(asked, *fds)
        return self._request

    def _send(self, message: Message, *fds: int) -> None:
        """Send, if anyone is there; who is gone is noticed by the receiver."""
        channel = self._channel
        if channel is None:
            return
        try:
            channel.send(message, *fds)
        except OSError:
            channel.close()
