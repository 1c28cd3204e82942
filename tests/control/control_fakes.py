"""A daemon in memory for the control socket and the commands that talk to it."""

import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress

import trio

from smdaemon.control.metrics import Metrics
from smdaemon.control.server import serve
from smdaemon.errors import ConfigError, DropError, EnvironmentFault
from smdaemon.jobs.states import TERMINAL
from smdaemon.proto import v1

CANCELLABLE = {"queued", "waiting", "writing"}


class FakeBackend:
    """Keeps jobs in a dict and their moves in a list; a lock-free single-threaded daemon without exports."""

    def __init__(self):
        self.metrics = Metrics(self.status)
        self.stopping = trio.Event()
        self.is_ready = True
        self.is_healthy = True
        self.subscribers = 0
        self.addresses = ()
        self.pins: set[int] = set()
        self._jobs: dict[int, v1.Job] = {}
        self._moves: list[v1.Event] = []
        self._moved = trio.Condition()

    @property
    def registry(self):
        """Where the metrics are."""
        return self.metrics.registry

    def status(self):
        """A fixed daemon with the jobs there are."""
        status = v1.Status(
            version="0.1.0",
            pid=7,
            phase="running",
            config_file="/etc/smdaemon/config.toml",
            host_memory_bytes=2**30,
            host_memory_used_bytes=2**20,
            workers=2,
            workers_busy=1,
        )
        status.started_at.FromSeconds(1_700_000_000)
        status.config_loaded_at.FromSeconds(1_700_000_001)
        status.models.extend(self.models().models)
        notifier = status.notifiers.add(name="registry", kind="webhook", delivered=12, failed=3, given_up=1)
        notifier.behind_since.FromSeconds(1_700_000_050)
        error = v1.Error(code="webhook-refused", message="the receiver answered 500", remedy="see its log")
        notifier.error.CopyFrom(error)
        status.serving.config_file = "/models/models.config"
        status.serving.error.CopyFrom(v1.Error(code="read-only", message="no 'x'", remedy="mount it writable"))
        for job in self._jobs.values():
            status.jobs[job.state] += 1
        return status

    def history(self):
        """Two samples."""
        return v1.History(interval_seconds=5, samples=[v1.Sample(open_jobs=1), v1.Sample(open_jobs=2)])

    def models(self):
        """One good model and one whose directory is gone."""
        good = v1.Model(
            name="ranker", watch="/runs", publish="/models", watch_method="inotify", health="ok", newest_version=41
        )
        good.newest_at.FromSeconds(1_700_000_500)
        for job in self._jobs.values():
            good.jobs[job.state] += 1
        bad = v1.Model(name="tower\x1b[31m", watch="/gone", publish="/models", health="degraded")
        bad.error.CopyFrom(v1.Error(code="directory-missing", message="no '/gone'", remedy="make the directory"))
        return v1.ModelList(models=[good, bad])

    def ready(self):
        """As the test set it."""
        return self.is_ready

    def healthy(self):
        """As the test set it."""
        return self.is_healthy

    async def jobs(self, *, model, state, before, limit):
        """Newest first."""
        await trio.lowlevel.checkpoint()
        found = [
            job
            for number, job in sorted(self._jobs.items(), reverse=True)
            if (model is None or job.model == model)
            and (state is None or job.state == state)
            and (before is None or number < before)
        ]
        answer = v1.JobList(next_before=found[limit - 1].id if len(found) > limit else 0)
        for job in found[:limit]:
            answer.jobs.add().CopyFrom(job)
            del answer.jobs[-1].history[:]
        return answer

    def queue(self, model, limit):
        """What has not ended, what is written first."""
        found = [job for job in self._jobs.values() if model in (None, job.model) and job.state not in TERMINAL]
        found.sort(key=lambda job: (job.state != "writing", job.id))
        return v1.JobList(jobs=found[:limit])

    async def job(self, job_id, /):
        """One job with its history."""
        await trio.lowlevel.checkpoint()
        if job_id not in self._jobs:
            raise ConfigError("job-unknown", f"there is no job {job_id}")
        return self._jobs[job_id]

    async def submit(self, request, /):
        """A queued job; some models' names stand for faults."""
        if request.model == "broken":
            raise RuntimeError("a bug")
        if request.model == "full":
            raise EnvironmentFault("disk-full", "no space left on '/models'", retryable=True)
        if request.model != "ranker":
            raise DropError("request-model-unknown", f"no model {request.model!r}")
        job = v1.Job(id=len(self._jobs) + 1, model=request.model, source=request.source, origin="api", attempts=1)
        job.created_at.FromSeconds(1_700_000_100)
        if request.HasField("version"):
            job.version = request.version
        self._jobs[job.id] = job
        await self.move(job.id, "queued")
        return job

    async def move(self, job_id, state, reason=""):
        """Put a job in a state; everyone who listens is told."""
        job = self._jobs[job_id]
        job.state, job.reason = state, reason
        seq = len(self._moves) + 1
        move = job.history.add(seq=seq, state=state, reason=reason)
        move.at.FromSeconds(1_700_000_100 + seq)
        event = v1.Event(seq=seq)
        event.job.CopyFrom(job)
        del event.job.history[:]
        self._moves.append(event)
        async with self._moved:
            self._moved.notify_all()

    async def cancel(self, job_id, /):
        """Cancel an open job."""
        job = await self.job(job_id)
        if job.state not in CANCELLABLE:
            raise ConfigError("job-not-cancellable", f"job {job_id} is {job.state}")
        await self.move(job_id, "cancelled", "asked for")
        return job

    async def retry(self, job_id, /):
        """Queue an ended job again."""
        job = await self.job(job_id)
        if job.state not in {"failed", "cancelled"}:
            raise ConfigError("job-not-retryable", f"job {job_id} is {job.state}")
        job.attempts += 1
        await self.move(job_id, "queued")
        return job

    async def versions(self, model, /):
        """Two versions that stay and one that does not."""
        await trio.lowlevel.checkpoint()
        if model != "ranker":
            raise ConfigError("request-model-unknown", f"no model is called {model!r}")
        answer = v1.VersionList(model=model)
        for number, reasons in ((43, ["the newest"]), (42, []), (41, ["keep_best = 1"])):
            version = answer.versions.add(version=number, export_dir=f"/models/{number}", state="present", place=number)
            version.kept_by.extend([*reasons, *(["pinned"] if number in self.pins else [])])
            version.pinned = number in self.pins
            version.metrics["auc"] = number / 100
            version.published_at.FromSeconds(1_700_000_000 + number)
        return answer

    async def pin(self, model, version, /, *, pinned):
        """Pins and unpins what there is."""
        listed = await self.versions(model)
        if version not in {each.version for each in listed.versions}:
            raise ConfigError("version-unknown", f"no version {version}")
        (self.pins.add if pinned else self.pins.discard)(version)
        return next(each for each in (await self.versions(model)).versions if each.version == version)

    async def prune(self, model, /, *, dry_run):
        """What no rule keeps goes; here it comes back."""
        listed = (await self.versions(model)).versions
        answer = v1.Pruned(model=model, dry_run=dry_run)
        answer.removed.extend(each.version for each in listed if not each.kept_by)
        answer.kept.extend(each for each in listed if each.kept_by)
        return answer

    async def rollback(self, model, to, /):
        """A job of the socket; version 0 stands for one that cannot be published."""
        await self.versions(model)
        job = await self.submit(v1.ExportRequest(model=model, source="/models/42"))
        job.restores = 42 if to is None else to
        if to == 0:
            job.error.code, job.error.message, job.error.remedy = "bundle-corrupt", "a checksum", "another"
            await self.move(job.id, "failed")
        elif to != 41:
            job.version = 44
            await self.move(job.id, "published")
        return job

    @asynccontextmanager
    async def events(self, after, /, *, status=False):
        """Replay, then live."""
        self.subscribers += 1
        try:
            seen = len(self._moves) if after is None else after
            async with aclosing(self._follow(seen, [v1.Event(status=self.status())] if status else [])) as moves:
                yield moves
        finally:
            self.subscribers -= 1

    async def _follow(self, after, told) -> AsyncIterator[v1.Event]:
        for event in told:
            yield event
        while True:
            while after < len(self._moves):
                after += 1
                yield self._moves[after - 1]
            async with self._moved:
                if after >= len(self._moves):
                    await self._moved.wait()


@asynccontextmanager
async def serving(unix_socket, *, backend=None, **settings):
    """The real server over `backend`, a FakeBackend if none is given, on this thread, until the block ends; gives the backend.

    `backend.addresses` are those that it listens on.
    """
    backend = backend or FakeBackend()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            backend.addresses = await nursery.start(
                lambda **kw: serve(backend, unix_socket=unix_socket, **settings, **kw)
            )
            yield backend
            backend.stopping.set()


class ServerThread:
    """The real server over a FakeBackend in a thread, for callers that are not on trio."""

    def __init__(self, path):
        self.path = path
        self.backend = None
        self._started = threading.Event()
        self._token = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        assert self._started.wait(30)
        return self

    def __exit__(self, *exc):
        with suppress(trio.RunFinishedError):  # a test may have stopped it
            self.stop()
        self._thread.join(30)
        assert not self._thread.is_alive()

    def call(self, function, *arguments):
        """Run an async function on the server's trio thread; its result."""
        return trio.from_thread.run(function, *arguments, trio_token=self._token)

    def stop(self):
        """Let the daemon stop, without waiting for it."""
        trio.from_thread.run_sync(self.backend.stopping.set, trio_token=self._token)

    def _run(self):
        trio.run(self._serve)

    async def _serve(self):
        self._token = trio.lowlevel.current_trio_token()
        self.backend = FakeBackend()
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda **kw: serve(self.backend, unix_socket=self.path, **kw))
            self._started.set()
