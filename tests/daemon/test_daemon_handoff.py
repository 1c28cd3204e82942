"""Tensors handed over by a trainer, through a whole daemon, to a version that TensorFlow loads."""

import os
import sys
import threading
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from daemon_kit import write_config
from daemon_process import SmdaemonProcess
from handoff_trees import HANDOFF, PATIENCE_SECONDS, assert_saved, in_thread, params, read

from smdaemon.cli.client import RemoteError
from smdaemon.errors import DropError, SmdaemonError
from smdaemon.handoff import attach, attach_async


def scraped(running) -> str:
    """What Prometheus sees."""
    connection = running.client._connection(timeout=PATIENCE_SECONDS)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return text


@pytest.fixture
def trainer(started, tmp_path):
    """Runs `training(sidecar)` in a thread beside a daemon with a handoff socket; its result."""

    async def run(training, *, daemon: str = "", model: str = "", **options):
        async with started(daemon=f"{HANDOFF}\n{daemon}", model=model) as running:

            def train():
                with attach(tmp_path / "handoff.sock", name="trainer", **options) as sidecar:
                    return training(sidecar)

            return await in_thread(train), running

    return run


async def test_a_save_is_published_with_the_same_bits(trainer, tmp_path):
    """Floats, bfloat16, numbers, tied, transposed, foreign byte orders, empty: all as numpy has them."""

    def training(sidecar):
        assert sidecar.reserve(params(0))
        return [sidecar.save(step, params(step), model="ranker").result(PATIENCE_SECONDS) for step in (1, 2, 3)]

    outcomes, _ = await trainer(training)
    assert [(each.state, each.version) for each in outcomes] == [("published", 1), ("published", 2), ("published", 3)]
    for step in (1, 2, 3):
        assert outcomes[step - 1].export_dir == str(tmp_path / "models" / str(step))
        assert_saved(tmp_path / "models" / str(step), params(step))


async def test_tensorflow_loads_what_was_handed_over(trainer, tmp_path):
    """The judge: values and nesting, tied weights too."""
    tf = pytest.importorskip("tensorflow")
    await trainer(lambda sidecar: sidecar.save(1, params(1), model="ranker").result(PATIENCE_SECONDS))
    loaded = tf.saved_model.load(str(tmp_path / "models" / "1"))
    np.testing.assert_array_equal(loaded.layer[0].kernel.numpy(), params(1)["tied"])
    np.testing.assert_array_equal(loaded.tied.numpy(), params(1)["tied"])
    assert int(loaded.count.numpy()) == 1


async def test_arrays_may_be_overwritten_once_save_returns(trainer, tmp_path):
    """The stall is the copy; after it the trainer's arrays are its own."""

    def training(sidecar):
        weights = {"w": np.ones(100_000, np.float32)}
        handle = sidecar.save(1, weights, model="ranker")
        weights["w"][:] = 7
        assert handle.staged(0)
        handle.barrier()
        return handle.result(PATIENCE_SECONDS)

    await trainer(training)
    assert (read(tmp_path / "models" / "1")["w"] == 1).all()


async def test_a_direct_save_is_copied_behind_the_trainers_back(trainer, tmp_path):
    """It returns before the copy; `barrier` says when the arrays may be overwritten."""

    def training(sidecar):
        weights = {"w": np.ones(4_000_000, np.float32)}
        sidecar.reserve(weights)
        handle = sidecar.save(1, weights, model="ranker", mode="direct")
        handle.barrier()
        weights["w"][:] = 7
        return handle.result(PATIENCE_SECONDS)

    outcome, _ = await trainer(training)
    assert outcome.state == "published"
    assert (read(tmp_path / "models" / "1")["w"] == 1).all()


async def test_saves_of_several_threads_do_not_mix(trainer, tmp_path):
    """Any thread may save, at the same time as others."""

    def training(sidecar):
        handles = {}

        def save(step):
            handles[step] = sidecar.save(step, params(step), model="ranker", on_busy="wait")

        threads = [threading.Thread(target=save, args=(step,)) for step in range(1, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [handles[step].result(PATIENCE_SECONDS).state for step in range(1, 9)]

    states, _ = await trainer(training)
    assert states == ["published"] * 8
    for step in range(1, 9):
        assert_saved(tmp_path / "models" / str(step), params(step))


def test_a_save_with_no_segment_free_is_skipped_and_a_cancelled_one_says_so(tmp_path):
    """One export hangs, one waits: the third save goes by at once. A person cancels the second, and its handle tells."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path, daemon=HANDOFF)
    with SmdaemonProcess(tmp_path, "run", "--config", "config.toml", held=True) as process:
        process.logged("running")
        with attach(tmp_path / "handoff.sock") as sidecar:
            first = sidecar.save(1, {"w": np.ones(100, np.float32)}, model="ranker")
            process.held()
            second = sidecar.save(2, {"w": np.ones(100, np.float32)}, model="ranker")
            moves = (event.data["job"] for event in process.client.events(after=0))
            next(job for job in moves if (job["id"], job["state"]) == (2, "queued"))
            third = sidecar.save(3, {"w": np.ones(100, np.float32)}, model="ranker").result(PATIENCE_SECONDS)
            assert (third.state, third.code) == ("skipped", "handoff-busy")
            assert process.client.post("/v1/jobs/2/cancel")["state"] == "cancelled"
            assert second.result(PATIENCE_SECONDS).code == "handoff-cancelled"
            process.release()
            assert first.result(PATIENCE_SECONDS).state == "published"
        process.stop()


async def test_options_of_a_request_are_options_of_a_save(trainer, tmp_path):
    """Tags, exclusion, a version of its own; a wrong one is the save's failure, with the code of a request."""

    def training(sidecar):
        good = sidecar.save(5, params(5), model="ranker", tags=["x", "serve"], exclude=["tied"], version=77)
        bad = sidecar.save(6, params(6), model="ranker", on_busy="wait", no_such_option=1)
        outside = sidecar.save(7, params(7), model="ranker", on_busy="wait", template="/etc")
        nobody = sidecar.save(8, params(8), model="unknown", on_busy="wait")
        return [each.result(PATIENCE_SECONDS) for each in (good, bad, outside, nobody)]

    outcomes, _ = await trainer(training)
    assert (outcomes[0].state, outcomes[0].version) == ("published", 77)
    assert [each.code for each in outcomes[1:]] == [
        "request-invalid",
        "request-source-outside",
        "request-model-unknown",
    ]
    assert "tied" not in read(tmp_path / "models" / "77")
    with pytest.raises(DropError) as failed:
        outcomes[1].check()
    assert failed.value.code == "request-invalid"


async def test_a_template_gives_the_graph_to_what_is_handed_over(trainer, tmp_path):
    """As for a drop: each save is a servable version."""
    tf = pytest.importorskip("tensorflow")
    sys.path.insert(0, str(Path(__file__).parents[1] / "export"))
    from export_kit import BIAS, KERNEL, linear_module

    template = linear_module(tf, tmp_path / "runs" / "traced")
    await trainer(
        lambda sidecar: sidecar.save(
            3, {"kernel": KERNEL, "bias": BIAS}, model="ranker", template=str(template)
        ).result(PATIENCE_SECONDS),
        model='on_drop = "ignore"',
    )
    served = tf.saved_model.load(str(tmp_path / "models" / "3")).signatures["serving_default"]
    x = np.array([[1, 2]], np.float32)
    np.testing.assert_array_equal(served(tf.constant(x))["y"].numpy(), x @ KERNEL + BIAS)


async def test_what_no_variable_can_hold_is_skipped_by_name(trainer):
    """Text, objects, unknown types: the training step is not interrupted, the handle says which tensor it is."""

    def training(sidecar):
        trees = [{"words": np.array(["a"])}, {"thing": object()}, {}, {"f": np.zeros(2, ml_dtypes.float8_e4m3b11fnuz)}]
        handles = [sidecar.save(1, tree, model="ranker") for tree in trees]
        return [handle.result(0) for handle in handles], dict(sidecar.counts)

    (outcomes, counts), _ = await trainer(training)
    assert [each.state for each in outcomes] == ["skipped"] * 4
    assert [each.code for each in outcomes] == [
        "dtype-unsupported",
        "handoff-tensor",
        "source-empty",
        "dtype-unsupported",
    ]
    assert counts == {"skipped": 4}


async def test_with_strict_what_is_wrong_is_raised(trainer):
    """For whoever wants his training to stop."""

    def training(sidecar):
        with pytest.raises(SmdaemonError) as refused:
            sidecar.save(1, {"words": np.array(["a"])}, model="ranker")
        return refused.value.code

    code, _ = await trainer(training, strict=True)
    assert code == "dtype-unsupported"


async def test_more_than_the_budget_is_refused_and_training_goes_on(trainer):
    """RESERVE is refused with a code; so is the save that would need it. Either is counted."""

    def training(sidecar):
        assert not sidecar.reserve(1 << 20)
        return sidecar.save(1, {"w": np.zeros(1 << 18)}, model="ranker").result(0)

    outcome, running = await trainer(training, daemon='handoff_memory = "64KiB"')
    assert running.daemon._handoffs.status().refused == 2
    assert (outcome.state, outcome.code) == ("skipped", "handoff-memory")
    assert "handoff_memory" in outcome.remedy


async def test_status_and_metrics_tell_of_handoffs(started, tmp_path):
    """Trainers, memory, saves, stalls, refusals."""
    async with started(daemon=HANDOFF) as running:
        sidecar = await in_thread(attach, tmp_path / "handoff.sock")
        handle = await in_thread(sidecar.save, 1, params(1), model="ranker")
        await in_thread(handle.result, PATIENCE_SECONDS)
        handoff = (await running.ask(running.client.get, "/v1/status"))["handoff"]
        assert handoff["trainers"] == 1
        assert handoff["saves"] == 1
        assert handoff["memory_used_bytes"] > 0
        assert handoff["last_stall_seconds"] > 0
        job = await running.ask(running.client.get, f"/v1/jobs/{handle.job}")
        assert (job["origin"], job["source"]) == ("handoff", f"handoff:pid {os.getpid()}/1")
        metrics = await in_thread(scraped, running)
        assert 'smdaemon_handoff_stall_seconds_count{model="ranker"} 1.0' in metrics
        assert "smdaemon_handoff_saves_total 1.0" in metrics
        assert "smdaemon_handoff_refused_total 0.0" in metrics
        await in_thread(sidecar.close)


def test_a_trainer_without_a_daemon_trains_on(tmp_path):
    """No daemon: everything returns at once, is counted, and says what to do."""
    with attach(tmp_path / "nobody.sock") as sidecar:
        assert not sidecar.connected
        assert not sidecar.reserve({"w": np.zeros(3)})
        outcome = sidecar.save(1, {"w": np.zeros(3)}, model="ranker").result(0)
    assert (outcome.state, outcome.code) == ("skipped", "handoff-away")
    assert "handoff_socket" in outcome.remedy


def test_io_device_names_the_host_that_writes(tmp_path):
    """TensorFlow's device names; with one host it is checked and changes nothing, of several only the named one saves."""
    with pytest.raises(DropError) as refused:
        attach(tmp_path / "s", io_device="/device:GPU:0")
    assert refused.value.code == "device-invalid"
    for rank, world, code in ((1, 2, "handoff-elsewhere"), (0, 2, "handoff-away"), (1, 1, "handoff-away")):
        with attach(tmp_path / "s", io_device="/job:worker/task:0/device:CPU:0", rank=rank, world=world) as sidecar:
            assert sidecar.save(1, {"w": np.zeros(3)}, model="m").result(0).code == code


async def test_a_trio_program_hands_over_without_blocking(started, tmp_path):
    """The same calls, awaited."""
    async with started(daemon=HANDOFF):
        async with attach_async(tmp_path / "handoff.sock", name="async") as sidecar:
            assert await sidecar.reserve(params(1))
            handle = await sidecar.save(1, params(1), model="ranker", mode="direct")
            await sidecar.barrier(handle)
            assert await sidecar.staged(handle)
            outcome = await sidecar.result(handle)
        assert (outcome.state, outcome.version) == ("published", 1)
    assert_saved(tmp_path / "models" / "1", params(1))


async def test_a_handoff_that_failed_is_not_retried(started, tmp_path):
    """Nothing of it is held any more: the asker is told, and the job keeps saying why it failed."""
    async with started(daemon=HANDOFF) as running:

        def train():
            with attach(tmp_path / "handoff.sock", name="trainer") as sidecar:
                sidecar.save(1, params(1), model="ranker").result(PATIENCE_SECONDS)
                return sidecar.save(1, params(2), model="ranker").result(PATIENCE_SECONDS)

        assert (await in_thread(train)).state == "failed"
        failed, _ = (await running.ask(running.client.get, "/v1/jobs"))["jobs"]
        assert failed["error"]["code"] == "version-exists"
        with pytest.raises(RemoteError) as caught:
            await running.ask(running.client.post, f"/v1/jobs/{failed['id']}/retry")
        assert (caught.value.code, caught.value.remedy) == ("job-not-retryable", "save once more")
        job, _ = (await running.ask(running.client.get, "/v1/jobs"))["jobs"]
        assert (job["state"], job["error"]) == ("failed", failed["error"])
