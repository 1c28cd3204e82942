"""`smdaemon top` on real terminals, and its picture as such."""

import os
import signal
from datetime import UTC, datetime

import pytest
from daemon_kit import write_config
from rich.console import Console

from smdaemon.cli.client import Client
from smdaemon.cli.follow import Follower, Known
from smdaemon.cli.main import dispatch
from smdaemon.cli.status import all_errors
from smdaemon.cli.terminal import keys_of
from smdaemon.cli.top_page import View, picture, sparkline, time_left

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ESCAPE_SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1b[1~": "home",
    b"\x1b[F": "end",
    b"\x1bOF": "end",
}


@pytest.fixture
def terminal():
    """A function that runs a command on a terminal of its own."""
    from terminal_kit import OnTerminal

    started = []

    def start(*argv, **size):
        started.append(OnTerminal(*argv, **size))
        return started[-1]

    yield start
    for each in started:
        each.__exit__()


@pytest.fixture
def daemon(tmp_path):
    """A function that starts the real daemon on tmp_path; its exports hang with `held`."""
    from daemon_process import SmdaemonProcess

    (tmp_path / "runs").mkdir()
    write_config(tmp_path)
    started = []

    def start(**how):
        process = SmdaemonProcess(tmp_path, "run", "--config", "config.toml", **how)
        started.append(process)
        process.logged("running")
        return process

    yield start
    for each in started:
        each.__exit__()


def drop(root, name, floats=12):
    """A finished npz, renamed into the watched directory."""
    import numpy as np

    np.savez(root / "writing.npz", kernel=np.zeros(floats, np.float32))
    (root / "writing.npz").rename(root / "runs" / name)


def known_of(models=3, **status):
    """A daemon as it is known, with so many models."""
    rows = [
        {
            "name": f"model-{number:02}",
            "health": "ok",
            "jobs": {},
            "newest_bytes": 0,
            "disk_bytes": 0,
            "disk_free_bytes": 0,
        }
        for number in range(models)
    ]
    whole = {"version": "1", "phase": "running", "models": rows, "jobs": {}, "workers": 2, "workers_busy": 1}
    return Known(status=whole | {"host_memory_used_bytes": 1 << 20, "host_memory_bytes": 1 << 30} | status)


def job_of(number, state, **more):
    """A job as the socket tells it."""
    numbers = {
        "bytes_done": 0,
        "bytes_total": 0,
        "bytes_per_second": 0,
        "reason": "",
        "export_dir": "",
        "source": f"/runs/{number}",
    }
    return {"id": number, "model": "ranker", "state": state} | numbers | more


def drawn(known, view=None, columns=100, lines=30):
    """The lines of a picture."""
    console = Console(width=columns, height=lines, color_system=None, legacy_windows=False, force_terminal=True)
    with console.capture() as captured:
        console.print(picture(known, view or View(), NOW, columns, lines).page)
    return [line.rstrip() for line in captured.get().splitlines()]


def test_top_shows_a_drop_as_it_is_published(terminal, daemon, tmp_path):
    """By the stream of events: a bar while it is written, and the newest version afterwards."""
    process = daemon(held=True)
    top = terminal("top", "--socket", str(tmp_path / "control.sock"))
    top.until("live", "all well", "ranker", "0 of 2 busy")
    drop(tmp_path, "ckpt-41.npz", 4 << 20)
    process.held()
    top.until("writing", "1 of 2 busy", "━")
    process.release()
    top.until("1 published", "0 of 2 busy", absent="writing")
    assert " 41 " in top.text()
    top.type("q")
    assert top.ended() == 0
    process.stop()


@pytest.mark.parametrize(
    ("leave", "status"),
    [
        (lambda top: top.type("q"), 0),
        (lambda top: top.type("\x03"), 0),
        (lambda top: top.signal(signal.SIGTERM), -signal.SIGTERM),
        (lambda top: top.signal(signal.SIGHUP), -signal.SIGHUP),
    ],
    ids=["q", "Ctrl-C", "SIGTERM", "SIGHUP"],
)
def test_the_terminal_is_as_it_was(terminal, server, leave, status):
    """However one leaves: modes, cursor and screen are back, and nothing is said."""
    top = terminal("top")
    top.until("running", "live")
    assert top.modes_now() != top.modes
    leave(top)
    assert top.ended() == status
    assert top.modes_now() == top.modes
    for begun, ended in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h")):
        assert top.raw.rindex(begun) < top.raw.rindex(ended)
    assert b"Traceback" not in top.raw


def test_a_stopped_top_leaves_the_terminal_alone(terminal, server):
    """Ctrl-Z gives the terminal back, and going on takes it again."""
    top = terminal("top")
    top.until("live")
    top.type("\x1a")
    while b"\x1b[?1049l" not in top.raw:
        assert top._read()
    os.waitid(os.P_PID, top.process.pid, os.WSTOPPED | os.WNOWAIT)
    assert top.modes_now() == top.modes
    top.signal(signal.SIGCONT)
    top.screen.reset()
    top.until("live")
    assert top.modes_now() != top.modes
    top.type("q")
    assert top.ended() == 0


def test_another_size_is_another_picture(terminal, server):
    """The picture fits the terminal as it is, whatever $COLUMNS says; the foot stays on the last lines."""
    top = terminal("top", columns=120, lines=30)
    top.until("live", "q quit")
    assert top.text().splitlines()[0].endswith("live")
    assert len(top.text().splitlines()[0]) == 120
    top.resize(60, 16)
    top.until("live", "q quit", absent="host memory")
    assert max(len(line) for line in top.text().splitlines()) <= 60
    top.resize(100, 40)
    top.until("live", "host memory")
    top.type("q")
    assert top.ended() == 0


def test_keys_choose_and_scroll(terminal, server):
    """A slash and letters choose models by name, q among them; Enter ends that, and then q leaves."""
    top = terminal("top")
    top.until("ranker", "tower")
    top.type("/q")
    top.until("/q_", absent="ranker")
    top.type("\x7ftow")
    top.until("/tow_", "tower", absent="ranker")
    top.type("\r")
    top.until("/tow", absent="tow_")
    top.type("\x1b[B\x1b[6~q")
    assert top.ended() == 0


def test_top_says_when_the_daemon_is_away_and_goes_on(terminal, daemon, tmp_path):
    """What was known stays to be seen, with the reason; a daemon that comes back is live again."""
    socket = str(tmp_path / "control.sock")
    top = terminal("top", "--socket", socket, columns=160)
    top.until("no daemon answers")
    process = daemon()
    top.until("live", "ranker")
    process.stop()
    top.until("away, trying again", "ranker")
    drop(tmp_path, "ckpt-7.npz")
    process = daemon()
    top.until("live", "1 published", absent="away")
    top.type("q")
    assert top.ended() == 0
    process.stop()


def test_watching_the_status_on_a_terminal_is_top(terminal, server):
    """`smdaemon status --watch` draws the same picture."""
    top = terminal("status", "--watch")
    top.until("live", "q quit")
    top.type("q")
    assert top.ended() == 0


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_without_a_terminal_one_is_told(capsys, monkeypatch, term):
    """Into a file, a pipe or a terminal that cannot draw: one line of error, and the way out."""
    monkeypatch.setenv("TERM", term)
    assert dispatch(["top"]) == 2
    assert "use smdaemon status" in capsys.readouterr().err


@pytest.mark.parametrize(("typed", "key"), ESCAPE_SEQUENCES.items())
def test_keys_by_name_however_they_arrive(typed, key):
    """Each sequence as a whole, and in any two parts, between letters."""
    assert keys_of(b"a" + typed + b"b") == (["a", key, "b"], b"")
    for cut in range(1, len(typed)):
        assert keys_of(b"a" + typed[:cut]) == (["a"], typed[:cut])
    assert keys_of(typed[:1])[1] + typed[1:] == typed


def test_other_keys():
    """Letters beyond ASCII are letters; what is not known is passed over."""
    assert keys_of("ä\r\x7f\t".encode()) == (["ä", "enter", "backspace"], b"")
    assert keys_of(b"\x1b[15~x\x1b[1;5Cy\x1bOPz") == (["x", "y", "z"], b"")


def test_the_view_follows_the_keys():
    """Scrolling by one and by the page, never before the first; a picture never shows past the last."""
    view = View().pressed("up", 5)
    assert view.first == 0
    assert view.pressed("page down", 5).pressed("down", 5).first == 6
    assert View(first=6).pressed("page up", 5).first == 1
    assert View(first=6).pressed("home", 5).first == 0
    assert View(first=6).pressed("x", 5) == View(first=6)
    shown = picture(known_of(models=40), View().pressed("end", 5), NOW, 100, 30)
    assert shown.view.first == 40 - shown.rows
    assert View(words="ab", typing=True).pressed("up", 5).words == "ab"
    assert not View(typing=True).pressed("backspace", 5).typing


@pytest.mark.parametrize("lines", [1, 5, 8, 12, 20, 24, 60])
@pytest.mark.parametrize("columns", [20, 60, 80, 110, 200])
def test_the_picture_fits(columns, lines):
    """Whatever there is to show, it is not wider or higher than the terminal where that has room for its frame."""
    known = known_of(models=30, jobs={"queued": 5000, "failed": 1})
    for number in range(1, 80):
        known.keep(job_of(number, "queued"))
    known.keep(job_of(80, "writing", bytes_total=100, bytes_done=50, bytes_per_second=10.0, source="/" + "x" * 300))
    known.keep(job_of(81, "failed", error={"code": "c", "message": "m" * 300, "remedy": "r"}))
    seen = drawn(known, columns=columns, lines=lines)
    assert len(seen) <= max(lines, 9)
    assert max(map(len, seen)) <= columns
    if lines >= 20 and columns >= 60:
        assert any("models 1 to" in line for line in seen)
        assert any("of 5001" in line for line in seen)


def test_a_picture_of_nothing():
    """Before anything is known, without models and without jobs there is a picture, too; nothing raw is in it."""
    assert "asking the daemon" in drawn(Known())[0]
    assert any("no jobs" in line for line in drawn(known_of(models=0)))
    ill = known_of(config_error={"code": "config-syntax"})
    ill.status["models"][0] |= {
        "health": "degraded",
        "name": "\x1b[31m",
        "error": {"code": "c", "message": "gone", "remedy": "r"},
    }
    text = "\n".join(drawn(ill))
    assert "reload refused: config-syntax" in text
    assert "\\x1b[31m: gone (c); r" in text
    assert "\x1b[31m" not in text


def test_all_is_well_where_no_line_says_otherwise():
    """A model that is watched well may have another error; so may a notifier, or Serving's file."""
    error = {"code": "io-error", "message": "it broke", "remedy": "mend it"}
    assert "all well" in drawn(known_of())[0]
    ill = known_of(notifiers=[{"name": "pager", "error": error}])
    assert ("1 error" in drawn(ill)[0], "all well" in drawn(ill)[0]) == (True, False)
    ill.status["models"][0]["retention_error"] = error
    assert "2 errors" in drawn(ill)[0]


def test_the_queue_has_what_runs_first():
    """What runs, then what waits, the oldest first; jobs that have ended are gone, the last failures stay."""
    known = Known()
    for number, state in enumerate(["queued", "writing", "waiting", "published", "failed", "queued"], start=1):
        known.keep(job_of(number, state))
    assert [job["id"] for job in known.queue()] == [2, 1, 3, 6]
    assert list(known.failed_jobs) == [5]
    for number in range(10, 20):
        known.keep(job_of(number, "failed"))
    assert sorted(known.failed_jobs) == [15, 16, 17, 18, 19]
    known.take({"seq": 9, "job": job_of(19, "queued")})
    known.take({"seq": 0, "status": {"version": "2"}, "sample": {"at": "1"}})
    known.take({"seq": 0, "status": {"version": "2"}, "sample": {"at": "1"}})
    assert 19 in known.open_jobs
    assert 19 not in known.failed_jobs
    assert len(known.samples) == 1


def test_sparkline_and_time_left():
    """The newest values to the right, the highest a full block; time left only for what is written and moves."""
    assert sparkline([0, 1, 2, 4], 6) == "  ▁▃▅█"
    assert sparkline([], 3) == "   "
    assert sparkline([0, 0], 2) == "▁▁"
    assert sparkline([9, 0, 4], 2) == "▁█"
    assert time_left(job_of(1, "writing", bytes_total=300, bytes_done=100, bytes_per_second=20.0)) == "10 s"
    assert time_left(job_of(1, "writing", bytes_total=300)) == "-"
    assert time_left(job_of(1, "verifying", bytes_total=300, bytes_per_second=20.0)) == "-"


def test_a_follower_that_was_stopped_tells_nothing(server):
    """After `stop` nobody is called any more, though the daemon goes on."""
    called = []
    follower = Follower(Client(), lambda: called.append(1))
    follower.stop()
    follower._tell()
    assert called == []


def test_everything_that_is_wrong_has_a_line():
    """A model's two errors, a notifier's, and Serving's file; what is well has none."""
    error = {"code": "io-error", "message": "it broke", "remedy": "mend it"}
    status = {
        "models": [{"name": "a", "error": error, "retention_error": error}, {"name": "b"}],
        "notifiers": [{"name": "pager", "error": error}, {"name": "hook"}],
        "serving": {"config_file": "/m.config", "error": error},
    }
    told = "it broke (io-error); mend it"
    assert all_errors(status) == [f"a: {told}", f"a: {told}", f"pager: {told}", f"serving config: /m.config: {told}"]
    assert all_errors({"models": [], "serving": {"config_file": "/m.config"}}) == []
