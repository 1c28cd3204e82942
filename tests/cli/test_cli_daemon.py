"""The commands that ask the daemon, against the real server over a daemon in memory."""

import json
import re

import pytest
import trio

from smdaemon.cli import status as cli_status
from smdaemon.cli.client import Client, RemoteError
from smdaemon.cli.main import dispatch
from smdaemon.errors import ConfigError, EnvironmentFault


@pytest.fixture
def with_jobs(server):
    """Three jobs: one published, one that runs, one that failed with an error."""
    client = Client()
    for name in ("one.npz", "two.npz", "three\x1b[2J.npz"):
        client.post("/v1/exports", {"model": "ranker", "source": name, "version": 41})
    backend = server.backend

    async def progress():
        await backend.move(1, "published")
        running = backend._jobs[2]
        running.bytes_done, running.bytes_total, running.bytes_per_second = 2**30, 2**31, 2**29
        await backend.move(2, "writing")
        failed = backend._jobs[3]
        failed.error.code, failed.error.message = "source-corrupt", "'x' contradicts its header"
        failed.error.remedy = "write the source again"
        await backend.move(3, "failed")

    server.call(progress)
    return server


def run(capsys, *argv):
    """Exit code, stdout and stderr of a command."""
    code = dispatch(argv)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_status_page(with_jobs, capsys):
    """The page tells the phase, the models, what runs and what failed; no escape character reaches the terminal."""
    code, out, err = run(capsys, "status")
    assert (code, err) == (0, "")
    for part in (
        "0.1.0, running, pid 7",
        "1 of 2 busy",
        "1.0 MiB of 1.0 GiB",
        "1 failed, 1 published, 1 writing",
        "degraded",
        "no '/gone' (directory-missing); make the directory",
        "50% of 2.0 GiB, 512.0 MiB/s",
        "'x' contradicts its header (source-corrupt)",
        "tower\\x1b[31m",
        "registry",
        "webhook",
        "registry: the receiver answered 500 (webhook-refused); see its log",
        "/models/models.config: no 'x' (read-only); mount it writable",
    ):
        assert part in out
    assert "\x1b" not in out


def test_status_json(server, capsys):
    """--json prints what the daemon answered."""
    code, out, _ = run(capsys, "status", "--json")
    assert code == 0
    assert json.loads(out) == Client().get("/v1/status")
    assert out.isascii()


def test_status_of_an_empty_daemon(server):
    """A daemon without models or jobs has a page too, and says which reload it refused."""
    answer = Client().get("/v1/status") | {"models": [], "jobs": {}}
    answer["config_error"] = {"code": "config-syntax", "message": "m", "remedy": "r", "retryable": False}
    facts = dict(cli_status._daemon_facts(answer, cli_status.datetime.now(cli_status.UTC)))
    assert facts["jobs"] == "none"
    assert facts["reload refused"] == "m (config-syntax); r"


def test_status_watch_draws_until_interrupted(with_jobs, capsys, monkeypatch):
    """--watch draws again and again, and Ctrl-C ends it without an error."""
    pictures = []

    def sleep(_seconds):
        pictures.append(capsys.readouterr().out)
        if len(pictures) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(cli_status, "_listen", lambda client, changed: changed.set())
    monkeypatch.setattr(cli_status, "_REDRAW_SECONDS", 0)
    monkeypatch.setattr(cli_status.time, "sleep", sleep)
    assert dispatch(["status", "--watch", "--json"]) == 0
    assert [json.loads(each)["pid"] for each in pictures] == [7, 7]
    pictures.clear()
    assert dispatch(["status", "--watch"]) == 0
    assert all("running, pid 7" in each for each in pictures)


def test_status_watch_goes_on_without_a_daemon(tmp_path):
    """While the daemon is away the picture is the error, for people and for programs."""
    picture = cli_status._picture(Client(str(tmp_path / "none")))
    assert "no-daemon" in str(picture)


def test_listen_wakes_on_events(with_jobs, monkeypatch):
    """Every event of the daemon asks for a new picture; a stream that ends is asked for again."""

    class Counted(Exception):  # noqa: N818 - ends the endless loop
        pass

    class Changed:
        times = 0

        def set(self):
            self.times += 1

    def sleep(_seconds):
        raise Counted

    client = Client()
    live = client.events
    monkeypatch.setattr(client, "events", lambda: (event for event, _ in zip(live(after=0), range(3), strict=False)))
    monkeypatch.setattr(cli_status.time, "sleep", sleep)
    changed = Changed()
    with pytest.raises(Counted):
        cli_status._listen(client, changed)
    assert changed.times == 3


def test_jobs(with_jobs, capsys):
    """Jobs are listed newest first, filtered, with the way to the next page."""
    code, out, _ = run(capsys, "jobs", "--limit", "2")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["3", "2"]
    assert "smdaemon jobs --before 2" in out
    assert "\x1b" not in out
    assert run(capsys, "jobs", "--state", "waiting")[1] == "no jobs\n"
    assert [job["id"] for job in json.loads(run(capsys, "jobs", "--json", "--model", "ranker")[1])["jobs"]] == [3, 2, 1]


def test_show(with_jobs, capsys):
    """One job shows its error with the remedy, its source made visible, and its history."""
    code, out, _ = run(capsys, "show", "3")
    assert code == 0
    assert "write the source again" in out
    assert "three\\x1b[2J.npz" in out
    assert "+3.0 s" in out
    assert json.loads(run(capsys, "show", "3", "--json")[1])["error"]["code"] == "source-corrupt"


def test_cancel_and_retry(with_jobs, capsys):
    """A job is cancelled and retried; the answer is one line."""
    assert run(capsys, "cancel", "2") == (0, "job 2: cancelled\n", "")
    assert run(capsys, "retry", "2") == (0, "job 2: queued\n", "")
    assert json.loads(run(capsys, "cancel", "2", "--json")[1])["state"] == "cancelled"


def test_retry_of_several_and_of_all_that_failed(with_jobs, capsys):
    """In their order; --failed finds them, of one model if it is named."""
    run(capsys, "cancel", "2")
    assert run(capsys, "retry", "2", "3") == (0, "job 2: queued\njob 3: queued\n", "")
    for number in (2, 3):
        with_jobs.call(lambda number=number: with_jobs.backend.move(number, "failed"))
    assert run(capsys, "retry", "--failed", "--model", "nobody") == (0, "", "")
    assert run(capsys, "retry", "--failed", "--model", "ranker") == (0, "job 2: queued\njob 3: queued\n", "")
    assert run(capsys, "retry", "--failed") == (0, "", "")


@pytest.mark.parametrize("words", [[], ["1", "--failed"], ["1", "--model", "ranker"]])
def test_retry_of_what(with_jobs, capsys, words):
    """Jobs by number, or all that failed: one of them."""
    code, _, err = run(capsys, "retry", *words)
    assert (code, "--failed" in err) == (2, True)


def test_a_job_that_is_tried_again_is_not_listed_with_the_error_of_before(with_jobs, capsys):
    """What an earlier attempt met is in its page; the list says what is so now."""
    with_jobs.call(lambda: with_jobs.backend.move(3, "superseded", "job 4 is newer"))
    out = run(capsys, "jobs")[1]
    assert "job 4 is newer" in out
    assert "contradicts" not in out
    assert "contradicts" in run(capsys, "show", "3")[1]


def test_versions(server, capsys):
    """One line a version: what it is worth, what lies there, why it stays or that it goes."""
    code, out, _ = run(capsys, "versions", "ranker")
    assert code == 0
    head, *lines = out.splitlines()
    assert head.split() == ["version", "age", "metrics", "copy", "of", "what", "lies", "there", "stays", "by"]
    assert [line.split()[0] for line in lines] == ["43", "42", "41"]
    assert "auc 0.41" in lines[2]
    assert "keep_best = 1" in lines[2]
    assert "nothing: the next commit removes it" in lines[1]
    assert json.loads(run(capsys, "versions", "ranker", "--json")[1])["model"] == "ranker"


def test_pin_and_unpin(server, capsys):
    """The answer is one line that says why the version stays."""
    assert run(capsys, "pin", "ranker", "42") == (0, "version 42: pinned\n", "")
    assert run(capsys, "unpin", "ranker", "42") == (
        0,
        "version 42: no rule keeps it; the next commit removes it\n",
        "",
    )
    assert json.loads(run(capsys, "pin", "ranker", "42", "--json")[1])["pinned"] is True


def test_prune(server, capsys):
    """What went, or would go, and why the rest stays."""
    code, out, _ = run(capsys, "prune", "ranker", "--dry-run")
    assert (code, out.splitlines()[0]) == (0, "would remove: 42")
    assert len(out.splitlines()) == 4
    assert run(capsys, "prune", "ranker")[1].startswith("removed: 42\n")
    assert json.loads(run(capsys, "prune", "ranker", "--json")[1])["removed"] == [42]


def test_rollback(server, capsys):
    """Waited for: the numbers, old and new; a failure is one line with its code and exit code 1."""
    assert run(capsys, "rollback", "ranker") == (0, "version 42 is published once more as version 44 (job 1)\n", "")
    code, out, err = run(capsys, "rollback", "ranker", "--to", "0")
    assert (code, out) == (1, "job 2: failed, publishes version 0 once more\n")
    assert err == "error: a checksum (bundle-corrupt); another\n"
    assert json.loads(run(capsys, "rollback", "ranker", "--json")[1])["version"] == 44


def test_rollback_without_waiting(server, capsys):
    """It says what was accepted."""
    code, out, _ = run(capsys, "rollback", "ranker", "--to", "41", "--no-wait")
    assert (code, out) == (0, "job 1: queued, publishes version 41 once more\n")


def test_rollback_follows_the_job(server, capsys):
    """A job that takes its time is waited for, through the moves of others."""
    other = Client().post("/v1/exports", {"model": "ranker", "source": "x"})["id"]
    backend, submit = server.backend, server.backend.rollback

    async def slow(model, to, /):
        job = await submit(model, 41)

        async def later():
            await backend.move(other, "failed")
            await backend.move(job.id, "writing")
            job.version = 44
            await backend.move(job.id, "published")

        trio.lowlevel.spawn_system_task(later)
        return job

    backend.rollback = slow
    assert run(capsys, "rollback", "ranker")[1] == "version 41 is published once more as version 44 (job 2)\n"


def test_rollback_that_is_cancelled_has_failed(server, capsys):
    """A script that goes on at exit code 0 does not go on with the bad version."""
    rollback = server.backend.rollback

    async def cancelled(model, _to, /):
        return await server.backend.cancel((await rollback(model, 41)).id)

    server.backend.rollback = cancelled
    code, out, err = run(capsys, "rollback", "ranker")
    assert (code, out) == (1, "job 1: cancelled, publishes version 41 once more\n")
    assert err.startswith("error: job 1 was cancelled: version 41 is not published once more (job-cancelled); ")


def test_show_prints_what_the_validator_said(with_jobs, capsys):
    """Line by line, made visible."""
    with_jobs.backend._jobs[3].validator_output = "first\n\tsecond\x1b[2J\n"
    out = run(capsys, "show", "3")[1]
    assert "the validator said\n  first\n          second\\x1b[2J\n" in out


def test_status_tells_of_versions_that_cannot_be_removed(server, capsys, monkeypatch):
    """A line for each model, beside the errors of its watch."""
    models = server.backend.models

    def troubled():
        answer = models()
        answer.models[0].retention_error.code = "permission-denied"
        answer.models[0].retention_error.message = "removing a version"
        return answer

    monkeypatch.setattr(server.backend, "models", troubled)
    assert "ranker: removing a version (permission-denied); " in run(capsys, "status")[1]


@pytest.mark.parametrize(
    ("argv", "code", "start"),
    [
        (["versions", "nobody"], 1, "error: no model is called 'nobody' (request-model-unknown); "),
        (["versions", "a/b"], 1, "error: no model is called 'a/b' (request-model-unknown); "),
        (["pin", "ranker", "9"], 1, "error: no version 9 (version-unknown); "),
        (["pin", "ranker"], 2, "error: "),
        (["rollback", "ranker", "--to", "x"], 2, "error: invalid value for --to"),
        (["show", "99"], 1, "error: there is no job 99 (job-unknown); "),
        (["retry", "1"], 1, "error: job 1 is published (job-not-retryable); "),
        (["jobs", "--limit", "0"], 2, "error: limit is '0' (usage); "),
        (["show", "x"], 2, "error: invalid value for JOB"),
        (["show"], 2, "error: "),
        (["jobs", "--limt", "1"], 2, "error: unknown option: --limt. Did you mean --limit? (usage); "),
    ],
)
def test_errors_are_one_line(with_jobs, capsys, argv, code, start):
    """An error is one line on stderr with its code and the remedy; nothing is on stdout."""
    got, out, err = run(capsys, *argv)
    assert (got, out) == (code, "")
    assert err.startswith(start)
    assert err.count("\n") == 1


def test_socket_option_beats_the_environment(server, capsys, monkeypatch):
    """--socket names the daemon; without it $SMDAEMON_SOCKET does."""
    monkeypatch.setenv("SMDAEMON_SOCKET", "/nowhere")
    assert run(capsys, "status", "--socket", str(server.path))[0] == 0
    code, _, err = run(capsys, "status")
    assert code == 1
    assert err == (
        "error: no daemon answers on '/nowhere': no such file or directory (no-daemon); "
        "start it with: smdaemon run, or give its socket with --socket\n"
    )


@pytest.mark.parametrize(
    "address", ["https://localhost", "http://localhost", "http://h:port", "http://[::1", "ftp://x"]
)
def test_bad_addresses(address):
    """An address that is no path and no URL of http or https with a port is a usage error."""
    with pytest.raises(ConfigError, match="is not understood") as caught:
        Client(address).get("/v1/status")
    assert caught.value.code == "usage"


@pytest.mark.parametrize("content", [b"\xff", b"first\nsecond\n"], ids=["no text", "two lines"])
def test_a_file_that_holds_no_token_is_refused(server, tmp_path, monkeypatch, content):
    """The error names the file, and shows nothing of what is in it."""
    path = tmp_path / "token"
    path.write_bytes(content)
    monkeypatch.setenv("SMDAEMON_TOKEN_FILE", str(path))
    with pytest.raises(ConfigError, match=re.escape(repr(str(path)))) as caught:
        Client(str(server.path)).get("/v1/status")
    assert caught.value.code == "usage"
    assert "second" not in caught.value.message


def test_unusable_sockets(tmp_path, monkeypatch):
    """A path that is too long, or may not be opened, is an error that says so."""
    with pytest.raises(ConfigError, match="path too long"):
        Client("/" + "x" * 200).get("/v1/status")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    client = Client(str(tmp_path / "s"))
    monkeypatch.setattr(client, "_send", refuse)
    with pytest.raises(EnvironmentFault) as caught:
        client.get("/v1/status")
    assert caught.value.code == "permission-denied"


def test_events_of_no_daemon_and_refused_events(server):
    """The event stream has the same errors as the other calls."""
    with pytest.raises(ConfigError):
        next(Client("/nowhere").events())
    with pytest.raises(RemoteError):
        next(Client().events(after=-1))
