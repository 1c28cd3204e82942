"""Tensors handed over by a trainer, through a whole daemon, to a version that TensorFlow loads; and either side dying at its worst moment."""

import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import trio
from daemon_kit import write_config
from daemon_process import SmdaemonProcess
from service_manager_kit import ServiceManager, close

from smdaemon.errors import DropError, SmdaemonError
from smdaemon.handoff import attach, attach_async
from smdaemon.savedmodel.verify import verify
from smdaemon.tensorbundle import BundleReader

HANDOFF = 'handoff_socket = "handoff.sock"'
PATIENCE_SECONDS = 60
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"


def read(version: Path) -> dict[str, np.ndarray]:
    """The tensors of a version by their names."""
    verify(version)
    with BundleReader(version / "variables" / "variables") as bundle:
        return {key.removesuffix(SUFFIX): bundle.array(key) for key, _ in bundle.entries() if key.endswith(SUFFIX)}


def params(step: int) -> dict:
    """A tree of a few tensors of several kinds, none like that of another step."""
    rng = np.random.default_rng(step)
    kernel = rng.standard_normal((64, 33)).astype(np.float32)
    return {
        "nothing": np.zeros((0, 3), np.float16),
        "layer": [{"kernel": kernel, "bias": np.full(33, step, ml_dtypes.bfloat16)}],
        "tied": kernel,
        "count": step,
        "transposed": rng.standard_normal((5, 7)).T,
        "big_endian": np.arange(6, dtype=">i8"),
        "flags": np.array([True, False]),
        "empty": np.zeros((0, 3), np.float16),
    }


def assert_saved(version: Path, tree: dict) -> None:
    """Every tensor of `tree` is in the version, to the bit."""
    found = read(version)
    expected = {
        "layer/0/kernel": tree["layer"][0]["kernel"],
        "layer/0/bias": tree["layer"][0]["bias"],
        **{name: np.asarray(value) for name, value in tree.items() if name != "layer"},
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype.newbyteorder("=")


async def in_thread(function, *args, **kwargs):
    """The trainer's code is plain and synchronous: it runs in a thread."""
    return await trio.to_thread.run_sync(partial(function, *args, **kwargs))


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
    """RESERVE is refused with a code; so is the save that would need it."""

    def training(sidecar):
        assert not sidecar.reserve(1 << 20)
        return sidecar.save(1, {"w": np.zeros(1 << 18)}, model="ranker").result(0)

    outcome, _ = await trainer(training, daemon='handoff_memory = "64KiB"')
    assert (outcome.state, outcome.code) == ("skipped", "handoff-memory")
    assert "handoff_memory" in outcome.remedy


async def test_status_and_metrics_tell_of_handoffs(started, tmp_path):
    """Trainers, memory, saves, stalls."""
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


TRAINER = """
import sys, numpy as np
from smdaemon.handoff import attach, attach_async
sidecar = attach(sys.argv[1])
sidecar.reserve(1 << 20)
{body}
print("ready", flush=True)
sys.stdin.read()
"""


def killed_trainer(root: Path, body: str) -> None:
    """A trainer in a process of its own that does `body` and is killed."""
    trainer = subprocess.Popen(
        [sys.executable, "-c", TRAINER.format(body=body), str(root / "handoff.sock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with trainer:
        assert trainer.stdout.readline() == "ready\n"
        trainer.send_signal(signal.SIGKILL)


async def test_a_trainer_killed_before_its_commit_publishes_nothing(started, tmp_path):
    """And its memory is the machine's again."""
    async with started(daemon=HANDOFF) as running:
        body = """
from smdaemon.handoff.handle import Handle
sidecar._link.take(Handle(1, "ranker"), 100, 0, wait=False)
"""
        await in_thread(killed_trainer, tmp_path, body)
        while (handoff := (await running.ask(running.client.get, "/v1/status"))["handoff"])["trainers"]:
            await trio.lowlevel.checkpoint()
        assert (handoff["memory_used_bytes"], handoff["exports"], handoff["saves"]) == (0, 0, 0)
    assert not (tmp_path / "models").exists() or not list((tmp_path / "models").iterdir())


async def test_a_trainer_killed_after_its_commit_is_exported(started, tmp_path):
    """The daemon has the bytes: the version appears without the trainer."""
    async with started(daemon=HANDOFF) as running:
        body = 'sidecar.save(9, {"w": np.arange(1000.0)}, model="ranker")'
        await in_thread(killed_trainer, tmp_path, body)
        (job,) = await running.ended()
        assert (job["state"], job["version"]) == ("published", 9)
    np.testing.assert_array_equal(read(tmp_path / "models" / "9")["w"], np.arange(1000.0))


@pytest.fixture
def root(tmp_path) -> Path:
    """Directories and a configuration with a handoff socket."""
    (tmp_path / "runs").mkdir()
    write_config(tmp_path, daemon=HANDOFF)
    return tmp_path


def daemon(root: Path, **options) -> SmdaemonProcess:
    """A daemon on `root`."""
    return SmdaemonProcess(root, "run", "--config", "config.toml", **options)


def test_a_killed_daemon_gets_the_tensors_again(root):
    """SIGKILL in the middle of the export: the trainer skips, connects again, offers what was not done, and it is published."""
    with daemon(root, held=True) as first:
        first.logged("running")
        sidecar = attach(root / "handoff.sock")
        handle = sidecar.save(4, params(4), model="ranker")
        first.held()
        first.signal(signal.SIGKILL)
    with sidecar:
        with sidecar._link.changed:
            sidecar._link.changed.wait_for(lambda: not sidecar.connected, PATIENCE_SECONDS)
        skipped = sidecar.save(5, params(5), model="ranker")
        assert skipped.result(0).code == "handoff-away"
        with daemon(root) as second:
            second.logged("running")
            outcome = handle.result(PATIENCE_SECONDS)
            assert (outcome.state, outcome.version) == ("published", 4)
            assert sidecar.save(6, params(6), model="ranker", on_busy="wait").result(PATIENCE_SECONDS).version == 6
            second.stop()
    assert_saved(root / "models" / "4", params(4))
    assert_saved(root / "models" / "6", params(6))
    assert sorted(path.name for path in (root / "models").iterdir()) == ["4", "6"]


def test_when_both_sides_die_the_job_says_so(root):
    """Nobody has the tensors: once the grace is over the job fails, and says what to do."""
    write_config(root, daemon=f"{HANDOFF}\nhandoff_grace_seconds = 0")
    with daemon(root, held=True) as first:
        first.logged("running")
        sidecar = attach(root / "handoff.sock")
        sidecar.save(4, params(4), model="ranker")
        first.held()
        first.signal(signal.SIGKILL)
    sidecar.close()
    with daemon(root) as second:
        second.logged("running")
        job = second.job()
        assert (job["state"], job["error"]["code"]) == ("failed", "handoff-lost")
        second.stop()


def test_the_service_manager_keeps_the_tensors_over_a_restart(root, monkeypatch):
    """FDSTORE: trainer and daemon are both gone, and what the manager hands back is published, then forgotten."""
    with ServiceManager(root / "notify") as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
        with daemon(root, held=True) as first:
            first.logged("running")
            sidecar = attach(root / "handoff.sock")
            sidecar.save(4, params(4), model="ranker")
            first.held()
            first.signal(signal.SIGKILL)
        sidecar.close()
        kept = [manager.told("FDSTORE") for _ in range(2)]
        assert [(notice.lines["FDPOLL"], len(notice.fds)) for notice in kept] == [("0", 1)] * 2
        handed = [(notice.lines["FDNAME"], notice.fds[0]) for notice in kept]
        with daemon(root, handed=handed) as second:
            assert second.logged("handoff taken back")["job"] == 1
            second.logged("job published")
            forgotten = {manager.told("FDSTOREREMOVE").lines["FDNAME"] for _ in range(2)}
            assert forgotten == {name for name, _ in handed}
            second.stop()
        close(*(fd for _, fd in handed))
    assert_saved(root / "models" / "4", params(4))


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
