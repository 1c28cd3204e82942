"""What JAX's libraries save into the watched directory, published by the real daemon."""

import sys

import numpy as np
import pytest
import trio

from smdaemon.tensorbundle import BundleReader
from smdaemon.tensorbundle.tensors import array_of

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture(scope="module")
def orbax():
    """orbax.checkpoint."""
    import orbax.checkpoint

    return orbax.checkpoint


def save(orbax, folder, *steps):
    """Save steps with a manager, as a training loop does."""
    with orbax.CheckpointManager(folder) as manager:
        for step in steps:
            manager.save(step, args=orbax.args.StandardSave({"params": {"kernel": KERNEL + step}}))
        manager.wait_until_finished()


def published(version):
    """The values of a published version."""
    with BundleReader(version / "variables" / "variables") as bundle:
        return [array_of(bundle.tensor(key)) for key in bundle.keys() if "kernel" in key]  # noqa: SIM118 - no mapping


@pytest.mark.parametrize("recursive", ["false", "true"])
async def test_the_steps_of_a_checkpoint_manager_are_published(orbax, started, recursive):
    """Each once, under its own number, with its own values; a restart exports none again."""
    async with started(model=f"recursive = {recursive}") as running:
        await trio.to_thread.run_sync(save, orbax, running.runs, 41, 42)
        jobs = await running.ended(2)
        assert [(job["version"], job["state"], job["format"]) for job in jobs] == [
            (41, "published", "orbax"),
            (42, "published", "orbax"),
        ]
        for step in (41, 42):
            (kernel,) = published(running.models / str(step))
            np.testing.assert_array_equal(kernel, KERNEL + step)
    async with started(model=f"recursive = {recursive}") as running:
        await trio.to_thread.run_sync(save, orbax, running.runs, 43)
        assert [job["version"] for job in await running.ended(3)] == [41, 42, 43]


async def test_what_flax_writes_is_published(started):
    """Renamed into place; the state says its step."""
    import flax.serialization

    async with started() as running:
        content = flax.serialization.to_bytes({"params": {"kernel": KERNEL}, "step": 7})
        (running.root / "writing").write_bytes(content)
        (running.root / "writing").rename(running.runs / "flax_model.msgpack")
        (job,) = await running.ended()
        assert (job["version"], job["state"], job["format"]) == (7, "published", "flax-msgpack")
        np.testing.assert_array_equal(published(running.models / "7")[0], KERNEL)


async def test_without_tensorstore_the_job_says_what_to_install(orbax, started, monkeypatch):
    """The checkpoint is found; its job fails and names the extra."""
    async with started() as running:
        await trio.to_thread.run_sync(save, orbax, running.root / "made", 41)
        monkeypatch.setitem(sys.modules, "tensorstore", None)
        (running.root / "made" / "41").rename(running.runs / "41")
        (job,) = await running.ended()
        assert (job["state"], job["error"]["code"]) == ("failed", "extra-missing")
        assert "smdaemon[orbax]" in job["error"]["remedy"]
