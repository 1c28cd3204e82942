"""A scheduler at work over a fake export; what its tests share."""

import random

import trio
import trio.testing
from jobs_kit import new_job

from smdaemon.errors import EnvironmentFault
from smdaemon.jobs.attempt import Published
from smdaemon.jobs.scheduler import Scheduler
from smdaemon.jobs.states import Event
from smdaemon.jobs.turns import ModelPolicy

START = 1_700_000_000.0


FULL = EnvironmentFault("disk-full", "no space left", retryable=True)


STEPS = (Event.STAGE, Event.WRITE, Event.VERIFY, Event.COMMIT)


class Exporter:
    """A fake export: enters the four steps, each of which takes `seconds`, and notes what it saw.

    `troubles` has, by source and first come first served, errors to raise after `trouble_at`.
    """

    def __init__(self, seconds=1.0):
        self.seconds = seconds
        self.troubles = {}
        self.trouble_at = Event.WRITE
        self.started = []
        self.at_work = 0
        self.most_at_work = 0

    async def __call__(self, job, attempt):
        """The export."""
        self.started.append(job.order)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            for step in STEPS:
                await attempt.enter(step)
                await trio.sleep(self.seconds)
                if step is self.trouble_at and self.troubles.get(job.source):
                    raise self.troubles[job.source].pop(0)
        finally:
            self.at_work -= 1
        return Published(int(job.order), f"/models/{job.model}/{job.order}", 2, 10)


class House:
    """A scheduler at work in a nursery, on a ledger whose wall clock follows trio's."""

    def __init__(self, ledger, nursery, export, workers, policies):
        self.ledger = ledger
        self.nursery = nursery
        self.export = export
        self.policies = policies
        self.scheduler = Scheduler(ledger, export, workers=workers, policy=self.policy, rng=random.Random(7))

    def policy(self, model):
        """What the tests set for the model."""
        return self.policies.get(model, ModelPolicy())

    def start(self):
        """Let the scheduler run."""
        self.nursery.start_soon(self.scheduler.run)

    async def accept(self, model="ranker", step=1, **fields):
        """Accept a drop."""
        return await self.ledger.accept(new_job(model, step, **fields))

    async def until(self, job, *states):
        """The job once it is in one of the states; fails if it ends elsewhere."""
        with self.ledger.bus.subscribe() as moves:
            current = await self.ledger.get(job.id)
            while current.state not in states:
                move = await moves.receive()
                current = move.job if move.job.id == job.id else current
        return current

    async def until_ended(self):
        """Until no job is open."""
        with self.ledger.bus.subscribe() as moves:
            while self.ledger.open_jobs:
                await moves.receive()

    async def states(self, job):
        """The states that the job went through."""
        return [item.state.value for item in await self.ledger.history(job.id)]
