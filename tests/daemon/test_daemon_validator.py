"""Validators by the real daemon: what they are given, what they may do, how they end, and what is kept of what they said."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import trio
from daemon_kit import until_gone
from versions_kit import names

from smdaemon.commands import OUTPUT_BYTES, Ended, printable_output
from smdaemon.daemon.validator import check_untouched, stamps
from smdaemon.errors import DropError


def shell(script: str, **settings: object) -> str:
    """Lines of a model's configuration: a validator that is a shell script, the draft being its $1."""
    return command("/bin/sh", "-c", script, "validator", **settings)


def command(*words: str, **settings: object) -> str:
    """Lines of a model's configuration with that validator."""
    lines = {"validator": list(words), **settings}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())


async def judged(running, step: int = 41) -> dict:
    """The job of a drop once it has ended, with all that is kept of it."""
    running.drop(f"ckpt-{step}.npz")
    (job,) = await running.ended()
    return await running.ask(running.client.get, f"/v1/jobs/{job['id']}")


async def test_exit_status_0_publishes(started):
    """The draft is whole and not visible yet when it is judged; what the validator said is kept with the job."""
    script = 'test -f "$1/saved_model.pb" && test -f "$1/variables/variables.index" && ls "$1/.."; echo fine >&2'
    async with started(model=shell(script)) as running:
        job = await judged(running)
        assert (job["state"], job["version"]) == ("published", 41)
        assert job["validator_output"] == "fine\n"
        assert [move["state"] for move in job["history"]][-3:] == ["verifying", "committing", "published"]
        assert names(running.models) == ["41"]
        listed = await running.ask(running.client.get, "/v1/jobs")
        assert listed["jobs"][0]["validator_output"] == ""


async def test_any_other_status_refuses(started):
    """The job fails with the code, the last line said and a remedy; no number appears, and nothing hidden is left."""
    async with started(model=shell("echo 'loss is nan' >&2; exit 3")) as running:
        job = await judged(running)
        assert (job["state"], job["error"]["code"]) == ("failed", "validator-refused")
        assert job["error"]["message"] == "the validator '/bin/sh' ended with 3: loss is nan"
        assert "smdaemon show" in job["error"]["remedy"]
        assert (job["validator_output"], names(running.models)) == ("loss is nan\n", [])


async def test_a_signal_refuses(started):
    """A validator that crashes has not found the export good."""
    async with started(model=shell("kill -SEGV $$")) as running:
        job = await judged(running)
        assert job["error"]["code"] == "validator-refused"
        assert f"was ended by signal {signal.SIGSEGV:d}" in job["error"]["message"]


async def test_a_retry_is_judged_anew(started, tmp_path):
    """A refused job may be retried; what was said in the attempt before is gone."""
    script = f"test -f {tmp_path}/good || {{ echo no; exit 1; }}"
    async with started(model=shell(script)) as running:
        assert (await judged(running))["validator_output"] == "no\n"
        (tmp_path / "good").touch()
        await running.ask(running.client.post, "/v1/jobs/1/retry")
        await running.ended(2)
        job = await running.ask(running.client.get, "/v1/jobs/1")
        assert (job["state"], job["validator_output"]) == ("published", "")


async def test_the_environment_is_clean(started, monkeypatch, tmp_path):
    """Nothing of the daemon's environment but PATH; no stdin, no shell, no open files; HOME is its own and is removed."""
    monkeypatch.setenv("SECRET", "token")
    program = (
        "import json, os, sys; "
        "print(json.dumps([dict(os.environ), sys.argv[1:], os.getcwd(), sys.stdin.read(), os.listdir('.'), "
        "sorted(os.listdir('/proc/self/fd'))[:-1], os.getpid() == os.getpgrp() == os.getsid(0), os.environ['HOME']]))"
    )
    async with started(model=command(sys.executable, "-I", "-S", "-c", program, "$HOME *")) as running:
        job = await judged(running)
        assert job["state"] == "published", job
        environment, argv, folder, stdin, files, descriptors, alone, home = json.loads(job["validator_output"])
        environment.pop("LC_CTYPE", None)  # Python sets it for itself
        draft = environment["SMDAEMON_EXPORT_DIR"]
        assert environment == {
            "PATH": os.environ["PATH"],
            "HOME": home,
            "SMDAEMON_MODEL": "ranker",
            "SMDAEMON_VERSION": "41",
            "SMDAEMON_EXPORT_DIR": draft,
        }
        assert (argv, folder, stdin, files, alone) == (["$HOME *", draft], home, "", [], True)
        assert descriptors == ["0", "1", "2"]
        assert Path(draft).parent == Path(home).parent == running.models
        assert draft != home
        assert names(running.models) == ["41"]


async def test_a_validator_that_takes_too_long_is_killed(started, tmp_path):
    """With all of its group; the job fails with a code of its own and keeps what was said until then."""
    script = (
        f"echo $$ > {tmp_path}/pid; echo thinking; mkfifo {tmp_path}/never; cat {tmp_path}/never & cat {tmp_path}/never"
    )
    async with started(model=shell(script, validator_seconds=0.5)) as running:
        job = await judged(running)
        assert (job["state"], job["error"]["code"]) == ("failed", "validator-timeout")
        assert job["error"]["message"] == "the validator '/bin/sh' did not end within 0.5 s"
        assert job["validator_output"] == "thinking\n"
        assert names(running.models) == []
        group = int((tmp_path / "pid").read_text())
        await until_gone(group)


async def test_what_a_validator_leaves_running_is_killed(started, tmp_path):
    """A child in the background ends with its validator, and does not hold up the export."""
    script = f"echo $$ > {tmp_path}/pid; mkfifo {tmp_path}/never; cat {tmp_path}/never & echo done"
    async with started(model=shell(script)) as running:
        job = await judged(running)
        assert (job["state"], job["validator_output"]) == ("published", "done\n")
        await until_gone(int((tmp_path / "pid").read_text()))


async def test_a_descendant_that_left_the_group_does_not_hold_up_the_export(started, tmp_path):
    """It keeps the pipe open, which nobody waits for."""
    program = (
        "import os, subprocess, sys; os.mkfifo(sys.argv[1]); "
        "child = subprocess.Popen(['cat', sys.argv[1]], start_new_session=True); child.returncode = 0; print('left', child.pid)"
    )
    async with started(model=command(sys.executable, "-I", "-S", "-c", program, str(tmp_path / "never"))) as running:
        job = await judged(running)
        assert job["state"] == "published", job
        word, pid = job["validator_output"].split()
        assert word == "left"
        os.kill(int(pid), signal.SIGKILL)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["/nowhere/check"], "no such file or directory"),
        (["no-such-command-anywhere"], "no such file or directory"),
        (["/etc/passwd"], "permission denied"),
        (["./script"], "exec format error"),
        (["/bin/echo", "x" * 3_000_000], "argument list too long"),
    ],
)
async def test_a_validator_that_cannot_be_started(started, tmp_path, words, reason):
    """The operator's to mend: the job fails with its own code, once, and is not tried again for ever."""
    (tmp_path / "script").write_bytes(b"\0\1\2")
    (tmp_path / "script").chmod(0o755)
    async with started(model=command(*words)) as running:
        job = await judged(running)
        assert (job["state"], job["error"]["code"]) == ("failed", "validator-missing")
        assert job["error"]["message"].endswith(f"cannot be started: {reason}")
        assert (names(running.models), job["validator_output"]) == ([], "")


async def test_a_cancelled_job_ends_its_validator(started, tmp_path):
    """It is killed at once, and what it said is kept."""
    os.mkfifo(tmp_path / "never")
    os.mkfifo(tmp_path / "begun")
    script = f"echo working; echo $$ > {tmp_path}/begun; cat {tmp_path}/never"
    async with started(model=shell(script)) as running:
        running.drop("ckpt-1.npz")
        group = int(await trio.to_thread.run_sync((tmp_path / "begun").read_text))
        job = await running.ask(running.client.post, "/v1/jobs/1/cancel")
        assert job["state"] == "cancelled"
        await until_gone(group)
        assert (await running.ask(running.client.get, "/v1/jobs/1"))["validator_output"] == "working\n"
        assert names(running.models) == []


async def test_a_stopping_daemon_ends_its_validators(started, tmp_path):
    """After drain_seconds it is killed; the next start exports and asks again."""
    os.mkfifo(tmp_path / "never")
    os.mkfifo(tmp_path / "begun")
    script = f"test -e {tmp_path}/good && exit 0; echo $$ > {tmp_path}/begun; cat {tmp_path}/never"
    async with started(daemon="drain_seconds = 0", model=shell(script)) as running:
        running.drop("ckpt-1.npz")
        group = int(await trio.to_thread.run_sync((tmp_path / "begun").read_text))
    await until_gone(group)
    assert names(running.models) == []
    (tmp_path / "good").touch()
    async with started(model=shell(script)) as running:
        (job,) = await running.ended()
        assert (job["state"], job["attempts"]) == ("published", 2)


async def test_a_validator_may_not_change_what_it_judges(started):
    """What was verified is what is published; HOME is there to be written to."""
    script = 'echo cache > "$HOME/cache"; mkdir "$HOME/more"; exec test ! -e "$1/cache"'
    async with started(model=shell(script)) as running:
        assert (await judged(running))["state"] == "published"
    config = running.root / "config.toml"
    config.write_text(config.read_text().replace("exec test ! -e", "touch"))
    async with started(config=config) as running:
        running.drop("ckpt-42.npz")
        job = (await running.ended(2))[1]
        assert job["error"]["code"] == "validator-refused"
        assert "has changed the draft: " in job["error"]["message"]
        assert names(running.models) == ["41"]


async def test_without_reading_back_the_validator_still_runs_while_verifying(started):
    """With verify = false there is a verifying step all the same."""
    async with started(model=shell("echo seen", verify=False)) as running:
        job = await judged(running)
        assert (job["state"], job["validator_output"]) == ("published", "seen\n")
        assert "verifying" in [move["state"] for move in job["history"]]


async def test_without_reading_back_and_without_a_validator_an_export_is_published(started):
    """With verify = false alone an export takes the same steps."""
    async with started(model="verify = false\n") as running:
        assert (await judged(running))["state"] == "published"


async def test_only_the_end_of_a_long_output_is_kept(started):
    """A validator may say as much as it likes without being held up or filling the journal."""
    script = "i=0; while [ $i -lt 20000 ]; do echo line $i of many many words; i=$((i+1)); done; echo the end"
    async with started(model=shell(script)) as running:
        said = (await judged(running))["validator_output"]
        assert said.endswith("line 19999 of many many words\nthe end\n")
        assert OUTPUT_BYTES - 40 < len(said) <= OUTPUT_BYTES


def test_what_is_kept_is_printable():
    """Control characters, bytes that are no UTF-8 and half characters are escapes; lines and tabs stay."""
    assert printable_output(b"a\tb\r\nc\x1b[31m\x00\xff\xc3\n") == "a\tb\nc\\x1b[31m\\x00\\xff\\xc3\n"
    assert printable_output("grün \u202e\u2028\n".encode()) == "grün \\u202e\\u2028\n"
    verdict = Ended()
    for _ in range(3):
        verdict.heard("ü".encode() * OUTPUT_BYTES)
    assert verdict.output == "ü" * (OUTPUT_BYTES // 2)


def test_every_change_of_a_draft_is_seen(tmp_path):
    """A file more, a file less, other bytes: the first of them is named."""
    (tmp_path / "variables").mkdir()
    (tmp_path / "variables" / "a").write_bytes(b"1")
    before = stamps(tmp_path)

    class Model:
        validator = ("check",)

    check_untouched(before, stamps(tmp_path), Model)
    for change in (
        (tmp_path / "b").touch,
        (tmp_path / "b").unlink,
        lambda: (tmp_path / "variables" / "a").write_bytes(b"22"),
    ):
        before = stamps(tmp_path)
        change()
        with pytest.raises(DropError, match="has changed the draft") as caught:
            check_untouched(before, stamps(tmp_path), Model)
        assert caught.value.code == "validator-refused"
