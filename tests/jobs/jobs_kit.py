"""Small working things that the tests of the jobs room share."""

from smdaemon.jobs.job import NewJob
from smdaemon.jobs.states import Event, State

# The moves that bring a queued job into a state.
PATHS: dict[State, tuple[Event, ...]] = {
    State.QUEUED: (),
    State.STAGING: (Event.STAGE,),
    State.WRITING: (Event.STAGE, Event.WRITE),
    State.VERIFYING: (Event.STAGE, Event.WRITE, Event.VERIFY),
    State.COMMITTING: (Event.STAGE, Event.WRITE, Event.VERIFY, Event.COMMIT),
    State.PUBLISHED: (Event.STAGE, Event.WRITE, Event.VERIFY, Event.COMMIT, Event.PUBLISH),
    State.WAITING: (Event.STAGE, Event.FAULT),
    State.FAILED: (Event.FAIL,),
    State.SUPERSEDED: (Event.SUPERSEDE,),
    State.CANCELLED: (Event.CANCEL,),
}


def new_job(model="ranker", step=1, **fields):
    """A drop of `model` at `step`."""
    source = fields.pop("source", f"/runs/{model}/ckpt-{step}.npz")
    identity = fields.pop("identity", "1:2")
    return NewJob(
        model=model, origin=fields.pop("origin", "drop"), source=source, identity=identity, order=step, **fields
    )
