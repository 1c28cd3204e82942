"""Saves of a trainer: what the daemon has afterwards is what was in the tree and the options; what cannot be saved ends no training."""

import errno
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from handoff_kit import PATIENCE_SECONDS, Jobs, attached, handed_over, in_thread, serving, until

from smdaemon.errors import DropError
from smdaemon.handoff import link

A, B, C = (np.full(4, value, np.float32) for value in (1, 2, 3))
E = np.zeros((0, 3), np.float32)
F = np.zeros((2, 0), np.float32)

TREES = {
    "first": {"e": E, "a": A, "b": B},
    "middle": {"a": A, "e": E, "b": B},
    "last": {"a": A, "b": B, "e": E},
    "one after the other": {"e": E, "f": F, "a": A},
    "twice the same": {"e": E, "f": E, "a": A, "g": E},
    "before shared ones": {"e": E, "a": A, "b": A, "c": C},
    "alone": {"e": E},
    "nothing else": {"e": E, "f": F},
}


@pytest.mark.parametrize("mode", ["auto", "direct"])
@pytest.mark.parametrize("library", [np.asarray, jnp.asarray], ids=["numpy", "jax"])
@pytest.mark.parametrize("tree", TREES.values(), ids=TREES)
async def test_empty_tensors_hide_no_others(tmp_path, tree, library, mode):
    """One that has no bytes lies where the next one lies: each has its own values, and whoever waits for the copy goes on."""
    made = {}  # what is shared stays shared
    arrays = {name: made.setdefault(id(array), library(array)) for name, array in tree.items()}
    async with serving(tmp_path, Jobs()) as (server, _), attached(tmp_path) as sidecar:
        handle = await in_thread(sidecar.save, 1, arrays, model="m", mode=mode)
        await in_thread(handle.barrier)
        found = await handed_over(server, handle)
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert handle.staged(PATIENCE_SECONDS)


@pytest.mark.parametrize("mode", ["auto", "direct"])
async def test_a_step_on_the_cpu_may_donate_what_is_not_copied_out_yet(tmp_path, mode):
    """In either mode: views are taken before the save returns, and JAX leaves what has a view alone."""
    step, copying = jax.jit(lambda x: x * 0 - 7, donate_argnums=0), threading.Event()
    async with serving(tmp_path, Jobs()) as (server, _), attached(tmp_path) as sidecar:
        array = jnp.asarray(A).block_until_ready()
        sidecar._jobs.put(lambda: copying.wait(PATIENCE_SECONDS))
        handle = await in_thread(sidecar.save, 1, {"a": array}, model="m", mode=mode)
        step(array).block_until_ready()
        copying.set()
        np.testing.assert_array_equal((await handed_over(server, handle))["a"], A)


@pytest.mark.parametrize("mode", ["auto", "direct"])
async def test_numbers_of_other_libraries_are_numbers(tmp_path, mode):
    """A loss as numpy or JAX has it, a step that was counted in an array: what trainers have at hand."""
    jobs = Jobs()
    async with serving(tmp_path, jobs) as _, attached(tmp_path) as sidecar:
        metrics = {
            "a": np.float32(0.5),
            "b": np.float64(0.25),
            "c": jnp.float32(2),
            "d": np.array(3.5),
            "e": np.int8(4),
        }
        for step in (np.int64(7), jnp.int32(7)):
            await in_thread(sidecar.save, step, {"a": A}, model="m", mode=mode, metrics=metrics, version=np.int32(9))
        await until(lambda: len(jobs.accepted) == 2)
    wanted = {"metrics": {"a": 0.5, "b": 0.25, "c": 2.0, "d": 3.5, "e": 4}, "version": 9}
    assert [(handed.step, handed.options) for handed in jobs.accepted] == [(7, wanted)] * 2


@pytest.mark.parametrize("mode", ["auto", "direct"])
async def test_a_number_that_outgrows_its_type_is_handed_over_as_it_is(tmp_path, mode):
    """What is known of the save before holds no more where a number needs another dtype, or there is none for it."""
    async with serving(tmp_path, Jobs()) as (server, _), attached(tmp_path) as sidecar:
        for step, seed in enumerate((5, (1 << 63) + 7)):
            handle = await in_thread(sidecar.save, step, {"a": A, "seed": seed}, model="m", mode=mode)
            assert (await handed_over(server, handle))["seed"] == seed
        huge = await in_thread(sidecar.save, 2, {"a": A, "seed": 1 << 64}, model="m", mode=mode)
        assert (huge.result(0).state, huge.result(0).code) == ("skipped", "dtype-unsupported")


CIRCLE = []
CIRCLE.append(CIRCLE)
DEEP = []
for _ in range(10_000):
    DEEP = [DEEP]
UNSENDABLE = {
    "a path": {"template": Path("/x")},
    "bytes": {"template": b"12"},
    "an array": {"metrics": {"loss": A}},
    "a key": {"name_map": {("a",): "b"}},
    "a circle": {"tags": CIRCLE},
    "a depth": {"tags": DEEP},
    "a length": {"name_map": {f"layer_{number}/kernel": f"model/layer_{number}/kernel" for number in range(3000)}},
    "a step": {"step": 1.5},
    "a large step": {"step": 1 << 70},
}


@pytest.mark.parametrize("mode", ["auto", "direct"])
@pytest.mark.parametrize("options", UNSENDABLE.values(), ids=UNSENDABLE)
async def test_what_cannot_be_sent_is_skipped(tmp_path, options, mode):
    """The training step is not interrupted, and the next save is as any other; with strict it is raised."""
    bad_save = {"step": 1, "tree": {"a": A}, "model": "m", "mode": mode} | options
    async with serving(tmp_path, Jobs()) as (server, _):
        async with attached(tmp_path) as sidecar:
            bad = await in_thread(sidecar.save, **bad_save)
            assert (bad.result(0).state, bad.result(0).code) == ("skipped", "request-invalid")
            good = await in_thread(sidecar.save, 2, {"a": A}, model="m", mode=mode)
            np.testing.assert_array_equal((await handed_over(server, good))["a"], A)
        async with attached(tmp_path, strict=True) as sidecar:
            with pytest.raises(DropError) as refused:
                await in_thread(sidecar.save, **bad_save)
            assert refused.value.code == "request-invalid"


@pytest.mark.parametrize("mode", ["auto", "direct"])
async def test_a_save_that_finds_no_descriptor_left_loses_no_segment(tmp_path, monkeypatch, mode):
    """Whatever the machine refuses in the end, the threads go on, and so does the trainer."""

    def refused(_plan):
        raise OSError(errno.EMFILE, "too many open files")

    async with serving(tmp_path, Jobs()) as (server, _), attached(tmp_path) as sidecar:
        with monkeypatch.context() as short:
            short.setattr(link, "make_plan", refused)
            for step in (1, 2, 3):
                bad = await in_thread(sidecar.save, step, {"a": A}, model="m", mode=mode)
                assert (await in_thread(bad.result, PATIENCE_SECONDS)).code == "too-many-files"
        good = await in_thread(sidecar.save, 4, {"a": A}, model="m", mode=mode)
        np.testing.assert_array_equal((await handed_over(server, good))["a"], A)


@pytest.mark.parametrize("mode", ["auto", "direct"])
async def test_what_a_library_raises_is_told_and_not_raised(tmp_path, monkeypatch, mode):
    """An error that nobody foresaw skips the save, or makes it fail."""
    async with serving(tmp_path, Jobs()) as _, attached(tmp_path) as sidecar:
        monkeypatch.setattr("smdaemon.staging.host.copy_pieces", lambda *_: 1 / 0)
        bad = await in_thread(sidecar.save, 1, {"a": A}, model="m", mode=mode)
        outcome = await in_thread(bad.result, PATIENCE_SECONDS)
        assert (outcome.state, outcome.code) == ("skipped" if mode == "auto" else "failed", "handoff-tensor")
        assert "ZeroDivisionError" in outcome.message
