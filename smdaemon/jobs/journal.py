"""The journal: every job and every move, in SQLite. Synchronous; one method is one transaction.

A job is accepted once `accept` has returned: the row is on the disk (`synchronous=FULL`). Row and history of a job change in
one transaction, so whenever the process dies the journal says where each job stood.

One connection, locked exclusively: SQLite's WAL has no second writer, and another process that opens the journal is refused
at once. Read it through the control socket.
"""

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import apsw

from smdaemon.durable import sync_directory
from smdaemon.errors import ConfigError, EnvironmentFault, SmdaemonError, fault
from smdaemon.jobs.job import Changes, Job, JobError, Moved, NewJob, Transition, begin, moved
from smdaemon.jobs.readers import ReaderTable
from smdaemon.jobs.rows import COLUMNS, acceptance_key, to_job, to_row
from smdaemon.jobs.schema import APPLICATION_ID, MIGRATIONS
from smdaemon.jobs.states import ACTIVE, TERMINAL, Event, State, advance
from smdaemon.jobs.versions import VersionTable
from smdaemon.publish.retention import Version

_INSERT_JOB = """
    INSERT INTO jobs VALUES (
        NULL, :model, :state, :reason, :origin, :source, :identity, :format, :request, :result_path, :drop_order, :version,
        :export_dir, :tensors, :bytes_total, :attempts, :retry_at, :created_at, :updated_at,
        :error_code, :error_message, :error_remedy, :error_retryable, :restores, :validator_output, :publication, :content)
"""
_UPDATE_JOB = """
    UPDATE jobs SET
        state = :state, reason = :reason, format = :format, version = :version, export_dir = :export_dir,
        tensors = :tensors, bytes_total = :bytes_total, attempts = :attempts, retry_at = :retry_at,
        updated_at = :updated_at, error_code = :error_code, error_message = :error_message,
        error_remedy = :error_remedy, error_retryable = :error_retryable, validator_output = :validator_output,
        publication = :publication
    WHERE id = :id
"""
# COLUMNS is a constant of this package: nothing from outside is put into a statement.
_SELECT_JOB = f"SELECT {COLUMNS} FROM jobs WHERE id = ?"  # noqa: S608
_SELECT_PAGE = f"""
    SELECT {COLUMNS} FROM jobs
    WHERE (:model IS NULL OR model = :model) AND (:state IS NULL OR state = :state) AND (:before IS NULL OR id < :before)
    ORDER BY id DESC LIMIT :limit
"""  # noqa: S608
_SELECT_HANDOFF = f"SELECT {COLUMNS} FROM jobs WHERE origin = 'handoff' AND identity = ? ORDER BY id DESC LIMIT 1"  # noqa: S608
_SELECT_OPEN = f"SELECT {COLUMNS} FROM jobs WHERE state IN (SELECT value FROM json_each(?)) ORDER BY id"  # noqa: S608
_SELECT_MOVES = "SELECT seq, job, state, at, reason FROM transitions WHERE seq > ? ORDER BY seq LIMIT ?"
_SELECT_MOVES_TO = """
    SELECT seq, job, state, at, reason FROM transitions
    WHERE seq > ?1 AND state IN (SELECT value FROM json_each(?3)) ORDER BY seq LIMIT ?2
"""
# With max() SQLite takes the other columns from the row that has the maximum.
_SELECT_NEWEST = f"SELECT {COLUMNS}, max(version) FROM jobs WHERE state = 'published' GROUP BY model"  # noqa: S608
_DELETE_ENDED = """
    DELETE FROM jobs
    WHERE state IN ('published', 'failed', 'superseded', 'cancelled') AND updated_at < :older_than
        AND id NOT IN (SELECT id FROM (
            SELECT id, row_number() OVER (PARTITION BY model ORDER BY id DESC) AS place FROM jobs) WHERE place <= :keep)
        AND id NOT IN (SELECT id FROM (
            SELECT id, max(version) FROM jobs WHERE state = 'published' GROUP BY model))
"""


def _as_json(states: Collection[State]) -> str:
    """States as SQLite's json_each takes them."""
    return "[" + ",".join(f'"{state}"' for state in states) + "]"


_OPEN_STATES = _as_json([state for state in State if state not in TERMINAL])


class Journal:
    """The open journal at `path`, which is made if it does not exist.

    Not to be used by two threads at the same time. Raises from every method: `EnvironmentFault` (disk-full, io-error,
    read-only, permission-denied, journal-corrupt), and from the constructor `ConfigError` (journal-too-new,
    state-dir-locked) too. After an error nothing of the method's work remains.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._versions = VersionTable(self._rows)
        self._readers = ReaderTable(self._rows)
        with self._translated():
            self._connection = apsw.Connection(str(path))
        try:
            with self._translated():
                self._prepare()
            sync_directory(path.parent)  # so does SQLite for its new files, but it is silent where that is refused
        except BaseException as error:
            self._connection.close()
            if isinstance(error, OSError):
                raise fault(error, "opening the journal") from error
            raise

    def _prepare(self) -> None:
        connection = self._connection
        # Before anything else touches the file: the lock is then held from the first read until the end.
        connection.pragma("locking_mode", "exclusive")
        connection.pragma("journal_mode", "wal")
        connection.pragma("synchronous", "full")
        connection.pragma("foreign_keys", "on")
        finding = self._checked()
        if finding != "ok":
            raise self._damage(finding)
        self._migrate()

    def _checked(self) -> str:
        """What SQLite says after a look at every page: "ok", or what is wrong with the first that is not."""
        return str(self._value("PRAGMA quick_check(1)")).replace("\n", " ")

    def _damaged(self, error: apsw.CorruptError) -> EnvironmentFault:
        """What SQLite's complaint means: it calls a page damaged, too, that the disk did not give it."""
        try:
            return self._damage(self._checked())
        except apsw.Error as again:
            return self._damage(_UNREAD if isinstance(again, apsw.IOError) else str(error).lower())

    def _damage(self, finding: str) -> EnvironmentFault:
        """A page that was not read is not damaged: who moved the journal away for that would lose its jobs."""
        code = _PAGE_ERROR.search(_UNREAD if finding == "ok" else finding)
        if code is not None and int(code[1]) & 0xFF == apsw.SQLITE_IOERR:
            message = f"the journal {str(self._path)!r} cannot be read: {code[0]}"
            return EnvironmentFault("io-error", message, retryable=True)
        return EnvironmentFault("journal-corrupt", f"the journal {str(self._path)!r} is corrupt: {finding}")

    def _migrate(self) -> None:
        version = int(self._value("PRAGMA user_version"))
        foreign = self._value("PRAGMA application_id") != APPLICATION_ID
        if foreign and self._value("SELECT count(*) FROM sqlite_schema"):
            raise EnvironmentFault(
                "journal-corrupt", f"{str(self._path)!r} is a database, but not a journal of smdaemon"
            )
        if version > len(MIGRATIONS):
            raise ConfigError(
                "journal-too-new",
                f"the journal {str(self._path)!r} has schema {version}, this smdaemon knows {len(MIGRATIONS)}",
            )
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            with self._transaction():
                self._rows(script)
                self._connection.pragma("application_id", APPLICATION_ID)
                self._connection.pragma("user_version", number)

    def close(self) -> None:
        """Close the file; the write-ahead log is folded into it. May be called twice."""
        self._connection.close()

    def accept(self, new: NewJob, now: float, problem: JobError | None = None) -> list[Moved]:
        """Insert the job, detected and queued, or failed at once with a `problem` that is known already.

        No moves if the same drop and request were accepted before.
        """
        with self._transaction():
            if not self._rows("INSERT OR IGNORE INTO accepted VALUES (?) RETURNING 1", (acceptance_key(new),)):
                return []
            self._rows(_INSERT_JOB, to_row(begin(new, 0, now)))
            job = begin(new, self._connection.last_insert_rowid(), now)
            detected = self._record(job, None)
            if problem is None:
                return [detected, self._move(job, Event.QUEUE, now, "", {})]
            return [detected, self._move(job, Event.FAIL, now, problem.message, {"error": problem})]

    def move(
        self,
        job_id: int,
        event: Event,
        now: float,
        *,
        reason: str = "",
        **changes: Unpack[Changes],
    ) -> Moved:
        """Move one job by `event`, and note what was published; raises `ImpossibleMoveError`, or `ConfigError` (job-unknown)."""
        with self._transaction():
            move = self._move(self._known(job_id), event, now, reason, changes)
            if event is Event.PUBLISH:
                self._versions.published(move.job)
            return move

    def move_all(self, job_ids: Sequence[int], event: Event, now: float, *, reason: str = "") -> list[Moved]:
        """Move all of the jobs or, if one of them cannot move, none."""
        with self._transaction():
            return [self._move(self._known(job_id), event, now, reason, {}) for job_id in job_ids]

    def get(self, job_id: int) -> Job | None:
        """The job of that id."""
        with self._translated():
            rows = self._rows(_SELECT_JOB, (job_id,))
            return to_job(rows[0]) if rows else None

    def page(
        self, model: str | None = None, state: State | None = None, before: int | None = None, limit: int = 50
    ) -> list[Job]:
        """Up to `limit` jobs with an id below `before`, newest first."""
        wanted = {"model": model, "state": None if state is None else state.value, "before": before, "limit": limit}
        with self._translated():
            return [to_job(row) for row in self._rows(_SELECT_PAGE, wanted)]

    def handoff(self, identity: str) -> Job | None:
        """The job of the handoff of that identity."""
        with self._translated():
            rows = self._rows(_SELECT_HANDOFF, (identity,))
            return to_job(rows[0]) if rows else None

    def history(self, job_id: int) -> list[Transition]:
        """All states of the job, oldest first."""
        with self._translated():
            rows = self._rows("SELECT seq, state, at, reason FROM transitions WHERE job = ? ORDER BY seq", (job_id,))
            return [Transition(seq, State(state), at, reason) for seq, state, at, reason in rows]

    def moves_after(self, seq: int, limit: int, states: Collection[State] = ()) -> list[Moved]:
        """Up to `limit` moves after `seq`, oldest first; with `states` only the moves to one of these.

        State, reason and time of each job are those of the move; what else it says is as the row has it now.
        """
        with self._translated():
            if states:
                rows = self._rows(_SELECT_MOVES_TO, (seq, limit, _as_json(states)))
            else:
                rows = self._rows(_SELECT_MOVES, (seq, limit))
            return [
                Moved(found, moved(self._known(job_id), State(state), at, reason, {}))
                for found, job_id, state, at, reason in rows
            ]

    def last_seq(self) -> int:
        """The place of the newest move in the event stream, 0 if there was none."""
        with self._translated():
            # not max(seq) of transitions: that falls when the newest job is pruned
            rows = self._rows("SELECT seq FROM sqlite_sequence WHERE name = 'transitions'")
            return int(rows[0][0]) if rows else 0

    def open_jobs(self) -> list[Job]:
        """The jobs that have not ended, oldest first."""
        with self._translated():
            return [to_job(row) for row in self._rows(_SELECT_OPEN, (_OPEN_STATES,))]

    def resume(self, now: float) -> list[Moved]:
        """Queue again what a stop or a crash interrupted."""
        interrupted = [job.id for job in self.open_jobs() if job.state in ACTIVE]
        return self.move_all(interrupted, Event.RESUME, now, reason="the daemon stopped during the attempt")

    def counts(self) -> dict[tuple[str, State], int]:
        """How many jobs each model has in each state; what is not named is 0."""
        with self._translated():
            rows = self._rows("SELECT model, state, count(*) FROM jobs GROUP BY model, state")
            return {(model, State(state)): count for model, state, count in rows}

    def newest_published(self) -> dict[str, Job]:
        """The published job with the highest version of each model."""
        with self._translated():
            found = (to_job(row[:-1]) for row in self._rows(_SELECT_NEWEST))
            return {job.model: job for job in found}

    def next_sequence(self, model: str, at_least: int) -> int:
        """The next number of the model: one more than the last, and not below `at_least`."""
        with self._transaction():
            return int(
                self._value(
                    "INSERT INTO sequences VALUES (?1, ?2)"
                    " ON CONFLICT DO UPDATE SET last = max(last + 1, ?2) RETURNING last",
                    (model, at_least),
                )
            )

    def prune(self, older_than: float, keep: int) -> int:
        """Delete the jobs that ended before `older_than`, but of each model not the newest `keep` nor the newest published.

        Returns how many. What was accepted stays known, and what was published as long as it is there.
        """
        with self._transaction():
            self._versions.forget(older_than)
            self._rows(_DELETE_ENDED, {"older_than": older_than, "keep": keep})
            return self._connection.changes()

    def versions(self, model: str) -> list[Version]:
        """What this daemon published of a model and has not removed, newest first."""
        with self._translated():
            return self._versions.of(model)

    def pin_version(self, model: str, export_dir: str, pinned: bool) -> None:
        """Keep a version whatever the rules say, or no longer; `ConfigError` (version-unknown)."""
        with self._transaction():
            self._versions.pin(model, export_dir, pinned)

    def adopt_versions(self, model: str, identities: Mapping[str, str]) -> None:
        """Note, by the path of each version whose identity is not known, what it is."""
        with self._transaction():
            self._versions.adopt(model, identities)

    def withdraw_version(self, model: str, export_dir: str, now: float) -> None:
        """Note that a version is not good."""
        with self._transaction():
            self._versions.withdraw(model, export_dir, now)

    def remove_versions(self, model: str, export_dirs: Sequence[str], now: float) -> None:
        """Note that versions are no longer there."""
        with self._transaction():
            self._versions.removed(model, export_dirs, now)

    def reader_places(self, names: Collection[str]) -> dict[str, int]:
        """The last move that each reader of these names is done with; see `ReaderTable.places`."""
        newest = self.last_seq()
        with self._transaction():
            return self._readers.places(names, newest)

    def advance_reader(self, name: str, seq: int) -> None:
        """Note that a reader is done with all moves up to `seq`."""
        with self._transaction():
            self._readers.advance(name, seq)

    def _known(self, job_id: int) -> Job:
        rows = self._rows(_SELECT_JOB, (job_id,))
        if not rows:
            raise ConfigError("job-unknown", f"there is no job {job_id}")
        return to_job(rows[0])

    def _move(self, job: Job, event: Event, now: float, reason: str, changes: Changes) -> Moved:
        after = moved(job, advance(job.state, event), now, reason, changes)
        self._rows(_UPDATE_JOB, {name: value for name, value in to_row(after).items() if f":{name}" in _UPDATE_JOB})
        return self._record(after, job.state)

    def _record(self, job: Job, before: State | None) -> Moved:
        row = to_row(job)
        self._rows("INSERT INTO transitions VALUES (NULL, :id, :state, :updated_at, :reason)", row)
        return Moved(self._connection.last_insert_rowid(), job, before)

    def _rows(self, statement: str, bindings: Any = None) -> list[tuple[Any, ...]]:
        # apsw runs a script as its rows are read: without fetchall the later statements would not run
        return self._connection.execute(statement, bindings).fetchall()

    def _value(self, statement: str, bindings: Any = None) -> Any:
        return self._rows(statement, bindings)[0][0]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._translated():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                # SQLite itself has rolled back after some errors (disk full, input/output)
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except apsw.CorruptError as error:
            raise self._damaged(error) from error
        except apsw.Error as error:
            foreseen = _foreseen(error, self._path)
            if foreseen is None:
                raise
            raise foreseen from error


# How quick_check tells of a page that it did not get; the code is one of SQLite's.
_PAGE_ERROR = re.compile(r"error code[= ]([0-9]+)")
_UNREAD = f"error code {apsw.SQLITE_IOERR}"

_FAULTS: dict[type[apsw.Error], tuple[str, bool]] = {
    apsw.FullError: ("disk-full", True),
    apsw.IOError: ("io-error", True),
    apsw.NotADBError: ("journal-corrupt", False),
    apsw.ReadOnlyError: ("read-only", False),
    apsw.PermissionsError: ("permission-denied", False),
    apsw.AuthError: ("permission-denied", False),
}


def _why_not_opened(path: Path, error: apsw.CantOpenError) -> EnvironmentFault:
    """SQLite says no more than that; who tries by hand is told why. Not with its own file: to close that would drop its locks."""
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    except OSError as refused:
        return fault(refused, "opening the journal")
    return EnvironmentFault("io-error", f"{str(error).lower()} (journal {str(path)!r})", retryable=True)


def _foreseen(error: apsw.Error, path: Path) -> SmdaemonError | None:
    """The error of ours for one of SQLite's, None for a bug."""
    said = f"{str(error).lower()} (journal {str(path)!r})"
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return ConfigError("state-dir-locked", said)
    if isinstance(error, apsw.CantOpenError):
        return _why_not_opened(path, error)
    if (known := _FAULTS.get(type(error))) is None:
        return None
    code, retryable = known
    return EnvironmentFault(code, said, retryable=retryable)
