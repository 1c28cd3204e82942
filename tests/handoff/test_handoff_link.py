"""The trainer's link: segments that are taken, given up and lost; whatever a save or a daemon does, training goes on."""

import numpy as np
from handoff_kit import Jobs, attached, handed_over, in_thread, serving, until

from smdaemon.handoff.handle import Handle


def tree(value):
    """A tree like no other."""
    return {"w": np.full(4, value, np.float32)}


async def test_a_save_that_is_given_up_frees_nothing_of_the_next(tmp_path):
    """Its segment is filled anew before the daemon's words are read: what is committed then stays committed, and as it was."""

    def save_after_another(sidecar):
        link, handle = sidecar._link, Handle(1, "m")
        with link.changed:  # until both are done nothing that the daemon says is obeyed
            link.give_up(handle, link.take(handle, 64, 0, wait=False))
            return sidecar.save(2, tree(2), model="m")

    async with serving(tmp_path, Jobs()) as (server, _), attached(tmp_path) as sidecar:
        await in_thread(sidecar.reserve, tree(0))
        saved = await in_thread(save_after_another, sidecar)
        await until(lambda: saved.job is not None)  # what the daemon said before this is obeyed
        for step in (3, 4):
            await in_thread(sidecar.save, step, tree(step), model="m")
        assert ((await handed_over(server, saved))["w"] == 2).all()
        assert sidecar.counts == {"staged": 2, "skipped": 1}
