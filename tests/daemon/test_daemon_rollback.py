"""Rollbacks by the real daemon: which version, under which number, as a job like all others; what is refused."""

import json
import os
import shutil
import uuid
from pathlib import Path

import numpy as np
import pytest
import trio
from versions_kit import listed, names, publish

from smdaemon.cli.client import RemoteError
from smdaemon.cli.main import dispatch
from smdaemon.jobs.job import NewJob
from smdaemon.jobs.journal import Journal
from smdaemon.jobs.states import Event
from smdaemon.publish.local import same_export
from smdaemon.savedmodel.verify import verify


async def rollback(running, to: int | None = None) -> dict:
    """The job of a rollback once it has ended."""
    job = await running.ask(running.client.post, "/v1/models/ranker/rollback", {} if to is None else {"to": to})
    assert (job["origin"], job["state"]) == ("api", "queued")
    while job["state"] not in {"published", "failed"}:
        job = await running.ask(running.client.get, f"/v1/jobs/{job['id']}")
    return job


async def refused(running, to: int | None = None) -> RemoteError:
    """The error of a rollback that is not accepted."""
    with pytest.raises(RemoteError) as caught:
        await rollback(running, to)
    return caught.value


async def test_the_version_before_the_newest_becomes_the_newest(started):
    """Whole, verified and linked, by a job that names both numbers; the bad one is older now, and is said not to be good."""
    async with started() as running:
        await publish(running, 10, 20, 30)
        job = await rollback(running)
        assert (job["state"], job["restores"], job["version"]) == ("published", 20, 31)
        assert (job["export_dir"], job["source"]) == (str(running.models / "31"), str(running.models / "20"))
        assert (job["tensors"], job["bytes_total"]) == (1, 16)
        assert [move["state"] for move in job["history"]] == [
            "detected",
            "queued",
            "staging",
            "writing",
            "verifying",
            "committing",
            "published",
        ]
        assert names(running.models) == ["10", "20", "30", "31"]
        assert same_export(running.models / "20", running.models / "31")
        model = running.models / "31" / "saved_model.pb"
        assert model.stat().st_ino == (running.models / "20" / "saved_model.pb").stat().st_ino
        verify(running.models / "31")
        found = await listed(running)
        assert (found[31]["restores"], found[31]["kept_by"][:2]) == (20, ["the newest", "the newest good one"])
        assert {number for number, each in found.items() if "withdrawn_at" in each} == {30}
        status = await running.ask(running.client.get, "/v1/status")
        assert status["models"][0]["newest_version"] == 31


async def test_tensorflow_loads_what_was_published_once_more(started):
    """The judge: the values of the older version, under the newest number, when the older one is gone."""
    tf = pytest.importorskip("tensorflow")
    async with started() as running:
        await publish(running, 1, 2)
        await rollback(running)
        shutil.rmtree(running.models / "1")
        loaded = tf.saved_model.load(str(running.models / "3"))
        np.testing.assert_array_equal(loaded.a.numpy(), np.full(4, 1, np.float32))


async def test_to_any_version_that_is_there(started):
    """By its number, published by this daemon or not; the drop that it came from need not exist any more."""
    async with started() as running:
        await publish(running, 1, 2, 3)
        for drop in running.runs.iterdir():
            drop.unlink()
        assert (await rollback(running, 1))["version"] == 4
        shutil.copytree(running.models / "2", running.models / "0")
        job = await rollback(running, 0)
        assert (job["restores"], job["version"]) == (0, 5)
        assert same_export(running.models / "2", running.models / "5")
        shutil.rmtree(running.models / "1")
        verify(running.models / "4")


async def test_a_second_rollback_goes_further_back(started):
    """Neither to the bad version that the first left, nor to the same content again; when nothing good is left it says so."""
    async with started() as running:
        await publish(running, 1, 2, 3)
        assert (await rollback(running))["restores"] == 2
        assert (await rollback(running))["restores"] == 1
        error = await refused(running)
        assert (error.code, "no good version that is older than its newest, 5" in error.message) == (
            "version-unknown",
            True,
        )
        assert (await rollback(running, 3))["version"] == 6


async def test_training_goes_on_after_a_rollback(started):
    """With version = "step" the new number is one more than the newest: later steps are newer still, that very step is taken."""
    async with started() as running:
        await publish(running, 10, 20)
        assert (await rollback(running))["version"] == 21
        running.drop("ckpt-21.npz", a=np.full(4, 21, np.float32))
        job = (await running.ended(4))[-1]
        assert (job["state"], job["error"]["code"]) == ("failed", "version-exists")
        await publish(running, 30)
        assert (await rollback(running))["restores"] == 21


async def test_numbers_by_the_other_rules(started):
    """A sequence goes on, a time stays a time; both are newer than the newest."""
    async with started(model='version = "sequence"') as running:
        for drops in range(2):
            running.drop(f"{drops}.npz", a=np.full(4, drops))
            await running.ended(drops + 1)
        assert (await rollback(running))["version"] == 3
    config = running.root / "config.toml"
    config.write_text(config.read_text().replace("sequence", "timestamp"))
    async with started(config=config) as running:
        assert (await rollback(running, 2))["version"] > 1_700_000_000


async def test_what_cannot_be_rolled_back_to(started):
    """The newest itself, what there is not, a model that there is not, a word; and while there is but one version."""
    async with started() as running:
        assert (await refused(running)).code == "version-unknown"
        await publish(running, 5)
        assert (await refused(running)).code == "version-unknown"
        assert (await refused(running, 4)).code == "version-unknown"
        newest = await refused(running, 5)
        assert (newest.code, "is the newest already" in newest.message) == ("usage", True)
        for path, body, code in (
            ("/v1/models/nobody/rollback", {}, "request-model-unknown"),
            ("/v1/models/ranker/rollback", {"to": "x"}, "request-invalid"),
            ("/v1/models/ranker/rollback", {"too": 1}, "request-invalid"),
        ):
            with pytest.raises(RemoteError) as caught:
                await running.ask(running.client.post, path, body)
            assert caught.value.code == code
        assert names(running.models) == ["5"]


async def test_a_version_that_fails_verification_is_not_published(started):
    """The job fails with what is wrong with it; the next rollback passes it over."""
    async with started() as running:
        await publish(running, 1, 2, 3)
        data = next((running.models / "2" / "variables").glob("*.data-*"))
        data.write_bytes(data.read_bytes()[:-1] + b"\xff")
        job = await rollback(running)
        assert (job["state"], job["error"]["code"], job["restores"]) == ("failed", "bundle-corrupt", 2)
        assert job["error"]["message"].startswith("version 2 cannot be published once more: ")
        assert "smdaemon rollback ranker --to VERSION" in job["error"]["remedy"]
        assert names(running.models) == ["1", "2", "3"]
        assert "withdrawn_at" in (await listed(running))[2]
        assert (await rollback(running))["restores"] == 1


async def test_the_validator_judges_a_rollback_too(started):
    """By the number that it is to get; a refusal publishes nothing."""
    words = ["/bin/sh", "-c", 'echo "$SMDAEMON_VERSION"; test "$SMDAEMON_VERSION" -lt 5', "validator"]
    async with started(model=f"validator = {json.dumps(words)}") as running:
        await publish(running, 1, 2, 3)
        job = await rollback(running)
        assert (job["state"], job["validator_output"]) == ("published", "4\n")
        job = await rollback(running)
        assert (job["state"], job["error"]["code"]) == ("failed", "validator-refused")
        assert names(running.models) == ["1", "2", "3", "4"]


async def test_one_rollback_of_a_model_at_a_time_and_its_source_is_held(started, tmp_path):
    """A second is refused while one is open; retention takes away neither what it reads nor what it publishes."""
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "go")
    script = f"test $SMDAEMON_VERSION -lt 4 || {{ echo > {tmp_path}/begun; cat {tmp_path}/go; }}"
    async with started(model=f"validator = {json.dumps(['/bin/sh', '-c', script])}\nkeep_last = 9") as running:
        await publish(running, 1, 2, 3)
        asked = await running.ask(running.client.post, "/v1/models/ranker/rollback", {"to": 1})
        await trio.to_thread.run_sync((tmp_path / "begun").read_text)
        error = await refused(running)
        assert (error.code, "rolls 'ranker' back to version 1 already" in error.message) == ("request-duplicate", True)
        config = running.root / "config.toml"
        config.write_text(config.read_text().replace("keep_last = 9", "keep_last = 1"))
        await running.daemon.reload()
        answer = await running.ask(running.client.post, "/v1/models/ranker/prune")
        assert answer["removed"] == [2]
        assert {each["version"]: each["kept_by"][-1] for each in answer["kept"]} == {
            3: "keep_last = 1",
            1: f"job {asked['id']} reads it",
        }
        await trio.to_thread.run_sync((tmp_path / "go").write_text, "go")
        await running.ended(4)
        while "4" not in names(running.models) or len(names(running.models)) > 1:
            await trio.lowlevel.checkpoint()
        verify(running.models / "4")


async def test_a_failed_rollback_can_be_retried(started):
    """Once its version is whole again, under the number that is the newest by then; an ended one cannot be cancelled."""
    async with started() as running:
        await publish(running, 1, 2, 3)
        data = next((running.models / "2" / "variables").glob("*.data-*"))
        content = data.read_bytes()
        data.unlink()
        failed = await rollback(running, 2)
        assert (failed["state"], failed["version"], failed["error"]["code"]) == ("failed", 4, "bundle-missing-shard")
        data.write_bytes(content)
        await publish(running, 9)
        await running.ask(running.client.post, f"/v1/jobs/{failed['id']}/retry")
        job = failed
        while job["state"] != "published":
            job = await running.ask(running.client.get, f"/v1/jobs/{failed['id']}")
        assert job["version"] == 10
        with pytest.raises(RemoteError) as caught:
            await running.ask(running.client.post, f"/v1/jobs/{failed['id']}/cancel")
        assert caught.value.code == "job-not-cancellable"


async def test_a_model_whose_watch_is_gone_can_be_rolled_back(started):
    """A rollback needs the publish directory and nothing else."""
    async with started() as running:
        await publish(running, 1, 2)
    shutil.rmtree(running.runs)
    async with started() as running:
        assert (await rollback(running))["version"] == 3


async def test_a_crash_between_rename_and_journal_publishes_once(started):
    """The job goes on under the number that it had and finds itself done; a number that another took since is not kept."""
    async with started() as running:
        await publish(running, 1, 2)
    interrupt(running.root, 1)
    shutil.copytree(running.models / "1", running.models / "3")
    async with started() as running:
        job = (await running.ended(3))[-1]
        assert (job["state"], job["restores"], job["version"]) == ("published", 1, 3)
        assert names(running.models) == ["1", "2", "3"]
        assert (await listed(running))[3]["restores"] == 1
    interrupt(running.root, 2, version=4)
    shutil.copytree(running.models / "1", running.models / "4")
    async with started() as running:
        job = (await running.ended(4))[-1]
        assert (job["state"], job["version"]) == ("published", 5)
        assert same_export(running.models / "2", running.models / "5")


def interrupt(root: Path, restores: int, version: int = 3) -> None:
    """Leave the journal as a daemon does that dies while it commits a rollback."""
    journal = Journal(root / "state" / "journal.sqlite")
    source = str(root / "models" / str(restores))
    new = NewJob(model="ranker", origin="api", source=source, identity=uuid.uuid4().hex, order=0.0, restores=restores)
    job = journal.accept(new, 1.0)[-1].job
    journal.move(job.id, Event.STAGE, 1.0, version=version)
    for event in (Event.WRITE, Event.VERIFY, Event.COMMIT):
        journal.move(job.id, event, 1.0)
    journal.close()


async def test_retention_after_a_rollback(started):
    """The copy counts as any version; what it was made of may go, and the copy stays whole."""
    async with started(model="keep_last = 2") as running:
        await publish(running, 1, 2)
        await rollback(running)
        while names(running.models) != ["2", "3"]:
            await trio.lowlevel.checkpoint()
        verify(running.models / "3")


async def test_the_commands_over_the_real_socket(started, capsys):
    """Each says in a line what was done; versions, rollback, pin and prune agree with each other."""

    async def smdaemon(*argv: str) -> str:
        code = await trio.to_thread.run_sync(dispatch, [*argv, "--socket", str(running.root / "control.sock")])
        out = capsys.readouterr().out
        assert code == 0, out
        return out

    async with started(model="keep_last = 2") as running:
        await publish(running, 1)
        said = await smdaemon("pin", "ranker", "1")
        assert said == "version 1: the newest, the newest good one, pinned, keep_last = 2\n"
        await publish(running, 2)
        await smdaemon("pin", "ranker", "2")
        await publish(running, 3)
        assert await smdaemon("rollback", "ranker") == "version 2 is published once more as version 4 (job 4)\n"
        said = await smdaemon("unpin", "ranker", "2")
        assert said == "version 2: no rule keeps it; the next commit removes it\n"
        assert (await smdaemon("prune", "ranker", "--dry-run")).startswith("would remove: 2\n")
        assert json.loads(await smdaemon("prune", "ranker", "--json"))["removed"] == [2]
        table = (await smdaemon("versions", "ranker")).splitlines()
        assert [line.split()[0] for line in table] == ["version", "4", "3", "1"]
        assert "not good" in table[2]
        assert "pinned" in table[3]
        assert "restores" in await smdaemon("show", "4")
