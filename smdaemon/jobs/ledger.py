"""The journal for the daemon's tasks: the same moves under trio, told to everyone, with a picture of the present in memory.

Each move is one row update, one event on the bus and one log line. A move that has begun is finished whatever happens to
its caller: the row, the picture, the bus and the log agree at every `await`. Status is answered from the picture and never
touches the disk.
"""

import contextlib
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, Unpack

import trio

from smdaemon.jobs.bus import Bus
from smdaemon.jobs.job import Changes, Job, JobError, Moved, NewJob, Transition
from smdaemon.jobs.journal import Journal
from smdaemon.jobs.states import TERMINAL, Event, State
from smdaemon.log import get_logger
from smdaemon.publish.retention import Version

_log = get_logger(__name__)
T = TypeVar("T")


class Ledger:
    """All jobs. Made by `open_ledger`; methods raise what the journal's raise.

    The picture, for others to read: `open_jobs` has every job that has not ended, `queued` (by model) and `waiting` those of
    them in these states, `newest_published` the job with the highest version of each model.
    """

    def __init__(self, journal: Journal, clock: Callable[[], float] = time.time) -> None:
        self.bus = Bus()
        self.clock = clock
        self.open_jobs: dict[int, Job] = {}
        self.queued: dict[str, dict[int, Job]] = {}
        self.waiting: dict[int, Job] = {}
        self.newest_published: dict[str, Job] = {}
        # by model, and of all under None: status asks for each model
        self._states: dict[str | None, Counter[State]] = defaultdict(Counter)
        self._journal = journal
        # one connection, so one thread at a time
        self._thread = trio.CapacityLimiter(1)
        # held from the transaction to the event, so that the bus has the moves in the order of their seq
        self._order = trio.Lock()
        self._observers: list[Callable[[Moved], None]] = []

    async def load(self) -> None:
        """Make the picture from the journal; before the first move."""
        for job in await self._in_thread(self._journal.open_jobs):
            self._place(job)
        self.newest_published = await self._in_thread(self._journal.newest_published)
        self.bus.last_seq = await self._in_thread(self._journal.last_seq)
        await self._count()

    async def answers(self) -> None:
        """Return once the journal's thread has come to the end of what it had to do: proof that no transaction is stuck."""
        async with self._order:
            await self._in_thread(lambda: None)

    def observe(self, observer: Callable[[Moved], None]) -> None:
        """Call `observer` after every move. It must be quick, and must neither await nor raise."""
        self._observers.append(observer)

    async def accept(self, new: NewJob, problem: JobError | None = None) -> Job | None:
        """The new job, durable: queued, or failed with a `problem` known already; None if it was accepted before."""
        moves = await self._write(lambda: self._journal.accept(new, self.clock(), problem))
        return moves[-1].job if moves else None

    async def move(
        self,
        job_id: int,
        event: Event,
        *,
        reason: str = "",
        **changes: Unpack[Changes],
    ) -> Job:
        """Move a job; returns it as it is after the move."""
        moves = await self._write(
            lambda: [self._journal.move(job_id, event, self.clock(), reason=reason, **changes)],
        )
        return moves[0].job

    async def move_all(self, job_ids: Sequence[int], event: Event, *, reason: str = "") -> None:
        """Move all of the jobs or none, in one transaction."""
        await self._write(lambda: self._journal.move_all(job_ids, event, self.clock(), reason=reason))

    async def resume(self) -> list[Job]:
        """Queue again what a stop or a crash interrupted; to be called before any attempt is begun."""
        return [move.job for move in await self._write(lambda: self._journal.resume(self.clock()))]

    async def next_sequence(self, model: str, at_least: int) -> int:
        """A version number of the model that was never given out before."""
        return await self._in_thread(lambda: self._journal.next_sequence(model, at_least))

    async def prune(self, older_than: float, keep: int) -> int:
        """Forget jobs that ended long ago; see `Journal.prune`."""
        with trio.CancelScope(shield=True):
            async with self._order:
                deleted = await self._in_thread(lambda: self._journal.prune(older_than, keep))
                if deleted:
                    await self._count()
        return deleted

    async def versions(self, model: str) -> list[Version]:
        """What this daemon published of a model and has not removed, newest first."""
        return await self._in_thread(lambda: self._journal.versions(model))

    async def pin_version(self, model: str, export_dir: str, *, pinned: bool) -> None:
        """See `Journal.pin_version`."""
        await self._note(lambda: self._journal.pin_version(model, export_dir, pinned))

    async def adopt_versions(self, model: str, identities: Mapping[str, str]) -> None:
        """See `Journal.adopt_versions`."""
        await self._note(lambda: self._journal.adopt_versions(model, identities))

    async def withdraw_version(self, model: str, export_dir: str) -> None:
        """See `Journal.withdraw_version`."""
        await self._note(lambda: self._journal.withdraw_version(model, export_dir, self.clock()))

    async def remove_versions(self, model: str, export_dirs: Sequence[str]) -> None:
        """See `Journal.remove_versions`."""
        await self._note(lambda: self._journal.remove_versions(model, export_dirs, self.clock()))

    async def _note(self, transaction: Callable[[], None]) -> None:
        # Shielded as a move is: what was done on the disk is to be known.
        with trio.CancelScope(shield=True):
            await self._in_thread(transaction)

    async def get(self, job_id: int) -> Job | None:
        """The job of that id."""
        return self.open_jobs.get(job_id) or await self._in_thread(lambda: self._journal.get(job_id))

    async def page(
        self, model: str | None = None, state: State | None = None, before: int | None = None, limit: int = 50
    ) -> list[Job]:
        """Up to `limit` jobs with an id below `before`, newest first."""
        return await self._in_thread(lambda: self._journal.page(model, state, before, limit))

    async def handoff(self, identity: str) -> Job | None:
        """The job of the handoff of that identity, whether it has ended or not."""
        return await self._in_thread(lambda: self._journal.handoff(identity))

    async def history(self, job_id: int) -> list[Transition]:
        """All states of the job, oldest first."""
        return await self._in_thread(lambda: self._journal.history(job_id))

    async def moves_after(self, seq: int, limit: int, states: Collection[State] = ()) -> list[Moved]:
        """Up to `limit` moves after `seq`, oldest first; see `Journal.moves_after`."""
        return await self._in_thread(lambda: self._journal.moves_after(seq, limit, states))

    async def reader_places(self, names: Collection[str]) -> dict[str, int]:
        """See `Journal.reader_places`."""
        return await self._in_thread(lambda: self._journal.reader_places(names))

    async def advance_reader(self, name: str, seq: int) -> None:
        """See `Journal.advance_reader`."""
        await self._note(lambda: self._journal.advance_reader(name, seq))

    def counts(self, model: str | None = None) -> dict[State, int]:
        """How many jobs there are in each state, of one model or of all; states with none are left out."""
        counts = self._states.get(model, Counter())
        return {state: counts[state] for state in State if counts[state]}

    async def _count(self) -> None:
        counted = await self._in_thread(self._journal.counts)
        self._states.clear()
        for (model, state), count in counted.items():
            self._add(model, state, count)

    def _add(self, model: str, state: State, count: int) -> None:
        for owner in (model, None):
            self._states[owner][state] += count

    async def _write(self, transaction: Callable[[], list[Moved]]) -> list[Moved]:
        # Shielded: once in the queue for the journal's thread it takes milliseconds, and half a move must not be.
        with trio.CancelScope(shield=True):
            async with self._order:
                moves = await self._in_thread(transaction)
                # no await from here to the end: nobody sees a row that the picture does not show
                for move in moves:
                    self._tell(move)
        return moves

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(function, limiter=self._thread)

    def _tell(self, move: Moved) -> None:
        self._depict(move)
        self.bus.publish(move)
        _write_log_line(move.job)
        for observer in self._observers:
            observer(move)

    def _depict(self, move: Moved) -> None:
        job = move.job
        if move.before is not None:
            self._add(job.model, move.before, -1)
        self._add(job.model, job.state, 1)
        self._place(job)
        if job.state is State.PUBLISHED:
            newest = self.newest_published.get(job.model)
            if newest is None or _version(job) >= _version(newest):
                self.newest_published[job.model] = job

    def _place(self, job: Job) -> None:
        queue = self.queued.setdefault(job.model, {})
        for shelf in (self.open_jobs, self.waiting, queue):
            shelf.pop(job.id, None)
        if job.state not in TERMINAL:
            self.open_jobs[job.id] = job
        if job.state is State.WAITING:
            self.waiting[job.id] = job
        if job.state is State.QUEUED:
            queue[job.id] = job


@contextlib.asynccontextmanager
async def open_ledger(path: Path, clock: Callable[[], float] = time.time) -> AsyncIterator[Ledger]:
    """The ledger on the journal at `path`; closed at the end, and with it the channels of the bus.

    `clock` gives unix seconds. Raises what the constructor of `Journal` raises.
    """
    journal = await trio.to_thread.run_sync(Journal, path)
    ledger = Ledger(journal, clock)
    try:
        await ledger.load()
        yield ledger
    finally:
        ledger.bus.close()
        # A move may be under way in the thread for a caller that is shielded: it ended before we came here, because its
        # task is in a nursery inside this block. Closing folds the write-ahead log, milliseconds.
        journal.close()


def _version(job: Job) -> int:
    return -1 if job.version is None else job.version


def _write_log_line(job: Job) -> None:
    fields: dict[str, object] = {"job": job.id, "model": job.model, "state": job.state.value}
    if job.reason:
        fields["reason"] = job.reason
    if job.error is not None:
        fields |= {"code": job.error.code, "remedy": job.error.remedy}
    event = f"job {job.state}"
    match job.state:
        case State.FAILED:
            _log.error(event, **fields)
        case State.WAITING:
            _log.warning(event, **fields)
        case _:
            _log.info(event, **fields)
