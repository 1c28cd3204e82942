"""Commands that are told what became of jobs: what they read, and what happens where they fail, hang, or are missing."""

import json
import os
import sys

import pytest
import trio
from daemon_kit import until_gone
from notifier_kit import notify, shell, told

pytestmark = pytest.mark.usefixtures("impatient")


async def test_a_command_reads_the_event(started, tmp_path):
    """The event as JSON on its standard input; a clean environment with the few words that a short script needs."""
    program = (
        "import json, os, sys; "
        "print(json.dumps([json.load(sys.stdin), dict(os.environ), os.getcwd(), os.getpid() == os.getsid(0)]), "
        "file=open(sys.argv[1], 'w'))"
    )
    out = tmp_path / "out"
    os.environ["SECRET"] = "token"
    command = [sys.executable, "-I", "-S", "-c", program, str(out)]
    try:
        async with started(model=notify(command=command)) as running:
            running.drop("ckpt-41.npz")
            state = await told(running, lambda each: each["delivered"] == 1)
    finally:
        del os.environ["SECRET"]
    assert state["kind"] == "command"
    event, environment, folder, alone = json.loads(out.read_text())
    environment.pop("LC_CTYPE", None)  # Python sets it for itself
    assert (event["data"]["version"], folder, alone) == (41, "/", True)
    assert environment == {
        "PATH": os.environ["PATH"],
        "SMDAEMON_EVENT_ID": event["id"],
        "SMDAEMON_EVENT_TYPE": "smdaemon.job.published",
        "SMDAEMON_MODEL": "ranker",
        "SMDAEMON_VERSION": "41",
        "SMDAEMON_EXPORT_DIR": str(running.models / "41"),
    }


async def test_a_command_that_fails_is_run_again(started, tmp_path):
    """Until it ends with 0; the last line that it said stands in the status."""
    script = f"test -e {tmp_path}/good || {{ echo 'no route' >&2; exit 7; }}"
    async with started(model=shell(script)) as running:
        running.drop("ckpt-1.npz")
        state = await told(running, lambda each: "error" in each)
        assert state["error"]["code"] == "notifier-failed"
        assert state["error"]["message"] == "the command '/bin/sh' ended with 7: no route"
        (tmp_path / "good").touch()
        await told(running, lambda each: each["delivered"] == 1)


async def test_a_command_that_is_missing_is_waited_for(started, tmp_path):
    """The operator's to mend, without a restart."""
    async with started(model=notify(command=["./hook"])) as running:
        running.drop("ckpt-1.npz")
        state = await told(running, lambda each: "error" in each)
        assert state["error"]["code"] == "notifier-missing"
        (tmp_path / "hook").write_text("#!/bin/sh\n")
        (tmp_path / "hook").chmod(0o755)
        await told(running, lambda each: each["delivered"] == 1)


async def test_a_command_that_hangs_is_killed(started, tmp_path):
    """With all of its group, after timeout_seconds; then it is run again."""
    script = f"test -e {tmp_path}/pid && exit; echo $$ > {tmp_path}/pid; mkfifo {tmp_path}/f; cat {tmp_path}/f & cat {tmp_path}/f"
    async with started(model=shell(script, timeout_seconds=1)) as running:
        running.drop("ckpt-1.npz")
        state = await told(running, lambda each: each["delivered"] == 1)
        assert state["failed"] == 1
        await until_gone(int((tmp_path / "pid").read_text()))


async def test_what_a_command_leaves_running_is_killed(started, tmp_path):
    """A child in the background ends with it, and holds up nothing."""
    script = f"echo $$ > {tmp_path}/pid; mkfifo {tmp_path}/f; cat {tmp_path}/f & true"
    async with started(model=shell(script)) as running:
        running.drop("ckpt-1.npz")
        await told(running, lambda each: each["delivered"] == 1)
        await until_gone(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize(
    "script", ["exec true", "exec <&-; i=0; while [ $i -lt 50000 ]; do echo many words; i=$((i+1)); done"]
)
async def test_a_command_may_ignore_the_event_and_say_much(started, script):
    """Neither a full pipe nor a closed one fails it."""
    async with started(model=shell(script)) as running:
        running.drop("ckpt-1.npz")
        assert (await told(running, lambda each: each["delivered"] == 1))["failed"] == 0


async def test_a_stop_ends_a_command_and_the_next_start_runs_it_again(started, tmp_path):
    """Asked twice to stop, a daemon does not wait for it; the event is not lost."""
    os.mkfifo(tmp_path / "begun")
    script = f"test -e {tmp_path}/good && exit 0; echo $$ > {tmp_path}/begun; cat {tmp_path}/begun"
    async with started(model=shell(script)) as running:
        running.drop("ckpt-1.npz")
        group = int(await trio.to_thread.run_sync((tmp_path / "begun").read_text))
        running.daemon.stop()
        running.daemon.stop()
    await until_gone(group)
    (tmp_path / "good").touch()
    async with started(config=running.root / "config.toml") as running:
        await told(running, lambda each: each["delivered"] == 1)
