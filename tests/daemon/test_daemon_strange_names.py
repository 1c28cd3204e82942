"""Names and numbers that no sound writer gives: each costs its own job at most, and the daemon goes on."""

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from structlog.testing import capture_logs

from smdaemon.daemon import results


def bytes_named(folder: Path, name: bytes) -> Path:
    """A path in `folder` whose name is any bytes."""
    return Path(os.fsdecode(os.fsencode(folder) + b"/" + name))


def result_of(request: Path):
    """What the result file of a request says."""
    return json.loads(bytes_named(request.parent, os.fsencode(request.name)[:-5] + b".result.json").read_text())


async def goes_on(running, ended: int) -> None:
    """Another drop is published."""
    running.drop("ckpt-77.npz")
    *_, job = await running.ended(ended + 1)
    assert (job["state"], job["version"]) == ("published", 77)


async def test_a_drop_whose_name_is_not_utf_8_is_published(started):
    """The kernel takes any bytes as a name, so the daemon does."""
    async with started() as running:
        running.write().rename(bytes_named(running.runs, b"\xe9-step_3.npz"))
        (job,) = await running.ended()
        assert (job["state"], job["version"]) == ("published", 3)
        assert job["source"] == f"{running.runs}/\\udce9-step_3.npz"


async def test_a_request_whose_name_is_not_utf_8_is_answered(started):
    """One that cannot be understood too: the result tells its path with the byte escaped."""
    async with started() as running:
        request = bytes_named(running.runs, b"\xff.export.json")
        request.write_text("garbage")
        (job,) = await running.ended()
        assert job["error"]["code"] == "request-invalid"
        await goes_on(running, 1)
    result = result_of(request)
    assert (result["state"], result["source"]) == ("failed", f"{running.runs}/\\udcff.export.json")


async def test_a_request_in_a_directory_that_is_not_utf_8_says_so(started):
    """A request holds its paths as text: the job and the result say that this one is none."""
    async with started(model="recursive = true") as running:
        folder = bytes_named(running.runs, b"\xe9")
        folder.mkdir()
        running.write().rename(running.runs / "weights.bin")
        (folder / "r.export.json").write_text('{"source": "../weights.bin", "template": "t"}')
        (job,) = await running.ended()
        assert (job["state"], job["error"]["code"]) == ("failed", "request-invalid")
        assert "not UTF-8" in job["error"]["message"]
        await goes_on(running, 1)
    assert result_of(folder / "r.export.json")["error"]["code"] == "request-invalid"


async def test_a_request_for_a_link_to_a_name_that_is_not_utf_8_says_so(started):
    """The link is text, what it leads to is none."""
    async with started() as running:
        running.write().rename(bytes_named(running.runs, b"\xe9.bin"))
        (running.runs / "link.bin").symlink_to(os.fsdecode(b"\xe9.bin"))
        (running.runs / "r.export.json").write_text('{"source": "link.bin"}')
        (job,) = await running.ended()
        assert (job["state"], job["error"]["code"]) == ("failed", "request-invalid")
        await goes_on(running, 1)


@pytest.mark.parametrize("length", [210, 236])
async def test_a_request_of_a_long_name_is_answered(started, length):
    """The result's name may be as long as a name can be: what it is written under first is no longer."""
    async with started() as running:
        request = running.runs / f"{'n' * length}.export.json"
        request.write_text('{"source": "none.npz"}')
        await running.ended()
        await goes_on(running, 1)
    assert result_of(request)["error"]["code"] == "source-missing"


async def test_a_request_whose_result_would_have_too_long_a_name_ends_nothing(started):
    """Neither when it is answered nor at the next start, which looks for results that a crash left unwritten."""
    with capture_logs() as logs:
        async with started() as running:
            (running.runs / f"{'n' * 238}.export.json").write_text('{"source": "none.npz"}')
            await running.ended()
            await goes_on(running, 1)
        async with started() as running:
            running.drop("ckpt-78.npz")
            await running.ended(3)
    told = [entry for entry in logs if entry["event"] == "result not written"]
    assert len(told) == 2
    assert all("too long" in entry["reason"] for entry in told)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES], ids=errno.errorcode.get)
async def test_a_result_that_cannot_be_looked_for_ends_no_start(started, monkeypatch, number):
    """The directory of the request gives no answer: the result is not written, which is told, and the daemon goes on."""

    def refuse(path):
        raise OSError(number, os.strerror(number), str(path))

    async with started() as running:
        (running.runs / "r.export.json").write_text('{"source": "none.npz"}')
        await running.ended()
    monkeypatch.setattr(results, "is_directory", refuse)
    with capture_logs() as logs:
        async with started() as running:
            await goes_on(running, 1)
    assert "result not written" in [entry["event"] for entry in logs]


async def test_a_bug_in_writing_a_result_costs_that_result(started, monkeypatch):
    """Its traceback stands in the log; other results are written, and the daemon goes on."""
    write = results.write_result

    def broken(job, root):
        if job.id == 1:
            raise ValueError("unforeseen")
        write(job, root)

    monkeypatch.setattr(results, "write_result", broken)
    with capture_logs() as logs:
        async with started() as running:
            for count, name in enumerate(("a", "b"), 1):
                (running.runs / f"{name}.export.json").write_text('{"source": "none.npz"}')
                await running.ended(count)
    assert [(entry["job"], entry["exc_info"]) for entry in logs if entry["event"] == "internal error"] == [(1, True)]
    assert [path.name for path in running.runs.glob("*.result.json")] == ["b.export.result.json"]


@pytest.mark.parametrize(
    ("name", "metadata"),
    [("model-20261127204200123456.safetensors", {}), ("model.safetensors", {"step": "9999999999999999999"})],
)
async def test_a_step_that_is_no_version_fails_its_job(started, name, metadata):
    """A time to the microsecond, say: more than TensorFlow Serving reads. A request that names the version exports it."""
    async with started() as running:
        (running.runs / name).write_bytes(save({"w": np.ones(3)}, metadata))
        (job,) = await running.ended()
        assert (job["state"], job["error"]["code"]) == ("failed", "version-invalid")
        (running.runs / "r.export.json").write_text(json.dumps({"source": name, "version": 5}))
        *_, asked = await running.ended(2)
        assert (asked["state"], asked["version"]) == ("published", 5)
        await goes_on(running, 2)


async def test_a_request_for_a_step_of_thousands_of_digits_is_answered(started):
    """There is no such file; the number is not read at all."""
    async with started() as running:
        (running.runs / "r.export.json").write_text(json.dumps({"source": f"step-{'9' * 5000}.npz"}))
        (job,) = await running.ended()
        assert job["error"]["code"] == "source-missing"
        await goes_on(running, 1)


async def test_a_directory_of_a_greater_number_than_versions_have_is_none(started):
    """TensorFlow Serving does not read it as a version: neither sequence nor labels go by it."""
    lines = '\nversion = "sequence"\n[serving]\nconfig_file = "serving.config"\nlabels = { stable = "newest" }\n'
    async with started(model=lines) as running:
        (running.models / "9999999999999999999").mkdir(parents=True)
        running.drop("a.npz")
        (job,) = await running.ended()
        assert (job["state"], job["version"]) == ("published", 1)
    assert "value: 1" in (running.root / "serving.config").read_text()


async def test_behind_the_greatest_version_none_is_published(started):
    """The job says which directory is in the way; a step of its own is no question of it."""
    async with started(model='version = "sequence"') as running:
        (running.models / str(2**63 - 1)).mkdir(parents=True)
        running.drop("a.npz")
        (job,) = await running.ended()
        assert (job["state"], job["error"]["code"]) == ("failed", "version-invalid")
        assert str(2**63 - 1) in job["error"]["message"]
