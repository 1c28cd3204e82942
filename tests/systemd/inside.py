"""What is tried on a machine whose first process is systemd: one check after the other, each a line of JSON in the file that is named.

Runs there as root, in a folder with systemd/ and config.toml, with smdaemon installed as the README says and nothing done for it yet.
"""

import http.client
import json
import os
import re
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import numpy as np

from smdaemon.cli.client import Client
from smdaemon.errors import SmdaemonError

SMDAEMON = "/opt/smdaemon/bin/smdaemon"
CONFIG = Path("/etc/smdaemon/config.toml")
PAGE = Path("systemd/README.md")
RUNS = Path("/runs/ranker")
MODELS = Path("/models/ranker")
PATIENCE_SECONDS = 240
# A trainer that hands one tensor over and ends at once.
TRAINER = """
import sys
import numpy as np
from smdaemon.handoff import attach
with attach("/run/smdaemon/handoff.sock", strict=True) as sidecar:
    sidecar.reserve(1 << 20)
    sidecar.save(int(sys.argv[1]), {"kernel": np.full((512, 512), float(sys.argv[1]), np.float32)}, model="ranker")
"""
# What a validator can do inside the sandbox: each line is an act and what came of it.
PROBE = """#!/usr/bin/python3
import os, socket
def tried(what, act):
    try:
        act()
        print(what, "done")
    except OSError as error:
        print(what, error.strerror)
tried("write /etc", lambda: open("/etc/smdaemon/x", "w"))
tried("write /usr", lambda: open("/usr/x", "w"))
tried("read /root", lambda: os.listdir("/root"))
tried("connect", lambda: socket.create_connection(("127.0.0.1", 9), 1))
tried("open a disk", lambda: open("/dev/vda", "rb"))
tried("write /runs", lambda: open("/runs/ranker/probe", "w"))
print("processes", sum(name.isdigit() and name != "1" for name in os.listdir("/proc")) > 0)
print("user", os.getuid() != 0)
"""
figures: dict[str, object] = {}


def run(*command: str, ok: bool = True, given: str = "") -> str:
    """What a command says; AssertionError where it fails, or with `ok` false where it does not."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert (done.returncode == 0) is ok, f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}"
    return (done.stdout + done.stderr).strip()


def until(holds: Callable[[], object], what: str) -> None:
    """Look until it holds."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline, (
            f"it never came to this: {what}\n{run('journalctl', '-u', 'smdaemon', '-n', '30')}"
        )


def show(key: str, unit: str = "smdaemon.service") -> str:
    """One property of a unit."""
    return run("systemctl", "show", "--property", key, "--value", unit)


def drop(number: int, runs: Path = RUNS, size: int = 4) -> None:
    """A finished npz, renamed into the watched directory."""
    np.savez(runs / ".writing.npz", kernel=np.full(size, number, np.float32))
    (runs / ".writing.npz").rename(runs / f"ckpt-{number}.npz")


def published(number: int, models: Path = MODELS) -> bool:
    """Whether there is that version."""
    return (models / str(number) / "saved_model.pb").exists()


def drop_in(unit: str, text: str) -> None:
    """What `systemctl edit` would write, put in force."""
    folder = Path(f"/etc/systemd/system/{unit}.d")
    folder.mkdir(exist_ok=True)
    (folder / "test.conf").write_text(text)
    run("systemctl", "daemon-reload")


def job(number: int) -> dict:
    """The newest job of that version."""
    client = Client()
    found = next(each for each in client.get("/v1/jobs")["jobs"] if each.get("version") == number)
    return client.get(f"/v1/jobs/{found['id']}")


def check_the_page_is_followed() -> None:
    """The block under "Install", line by line; the service is up although its directories are not there yet."""
    block = re.search(r"^## Install\n\n((?:    .*\n)+)", PAGE.read_text(), re.MULTILINE)[1]
    run("sh", "-e", given=block)
    assert run("systemctl", "is-active", "smdaemon.service", "smdaemon.socket") == "active\nactive"
    assert "directory-missing" in run(SMDAEMON, "status", "--json")


def check_a_drop_is_published() -> None:
    """Once the directories are there and the user smdaemon's; the state stands in one line."""
    for path in (RUNS, MODELS):
        path.mkdir(parents=True)
        run("chown", "smdaemon:", str(path))
    run("systemctl", "restart", "smdaemon")
    drop(1)
    until(lambda: published(1), "version 1")
    owner = (MODELS / "1" / "saved_model.pb").owner()
    assert owner == "smdaemon"
    until(
        lambda: re.fullmatch(r"running: 1 model, 0 queued, 0 running, 0 failed", show("StatusText")), "the status line"
    )


def check_who_may_connect_and_who_may_act() -> None:
    """A user outside the group cannot connect; one in it may read; control_users may act."""
    for user in ("anna", "ben"):
        run("adduser", "--disabled-password", "--gecos", "", user)
    as_anna = ("runuser", "-u", "anna", "--", SMDAEMON)
    refused = run(*as_anna, "status", ok=False)
    assert "ermission" in refused, refused
    run("adduser", "anna", "smdaemon")
    assert "ranker" in run(*as_anna, "status")
    assert "not-allowed" in run(*as_anna, "cancel", "1", ok=False)
    CONFIG.write_text(CONFIG.read_text().replace("[daemon]\n", '[daemon]\ncontrol_users = ["anna"]\n', 1))
    run("systemctl", "reload", "smdaemon")
    assert "not-allowed" not in run(*as_anna, "cancel", "1", ok=False)


def check_a_reload_with_a_mistake() -> None:
    """The old configuration stays in force, and the status line says so."""
    good = CONFIG.read_text()
    CONFIG.write_text(good + "\nworkers = 'many'\n")
    run("systemctl", "reload", "smdaemon")
    until(lambda: "reload refused (config-" in show("StatusText"), "a line about the mistake")
    drop(2)
    until(lambda: published(2), "version 2")
    CONFIG.write_text(good)
    run("systemctl", "reload", "smdaemon")
    until(lambda: "refused" not in show("StatusText"), "a line without it")


def check_the_sandbox() -> None:
    """What a validator of ours may do there: nothing but what the page says."""
    probe = Path("/opt/probe")
    probe.write_text(PROBE)
    probe.chmod(0o755)
    CONFIG.write_text(CONFIG.read_text() + 'validator = ["/opt/probe"]\n')
    run("systemctl", "reload", "smdaemon")
    drop(3)
    until(lambda: published(3), "version 3")
    said = job(3)["validator_output"].splitlines()
    assert said == [
        "write /etc Permission denied",
        "write /usr Read-only file system",
        "read /root Permission denied",
        "connect Address family not supported by protocol",
        "open a disk No such file or directory",
        "write /runs done",
        "processes True",
        "user True",
    ], said
    CONFIG.write_text(CONFIG.read_text().replace('validator = ["/opt/probe"]\n', ""))
    run("systemctl", "reload", "smdaemon")


def check_a_kill_is_survived() -> None:
    """It is started again; the sockets stayed open, and who connects meanwhile waits."""
    before = show("MainPID")
    os.kill(int(before), 9)
    assert "ranker" in run(SMDAEMON, "status")
    assert show("MainPID") not in {before, "0"}
    assert int(show("NRestarts")) >= 1
    drop(4)
    until(lambda: published(4), "version 4")


def check_the_socket_starts_the_service() -> None:
    """With the socket enabled the next who connects starts a service that was stopped."""
    run("systemctl", "stop", "smdaemon.service")
    assert show("ActiveState") == "inactive"
    assert "ranker" in run(SMDAEMON, "status")
    assert show("ActiveState") == "active"


def check_a_port_is_handed_over() -> None:
    """The service has no network, the socket that systemd opened for it answers."""
    drop_in(
        "smdaemon.socket", re.search(r"^```ini\n(\[Socket\]\n.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)[1]
    )
    run("systemctl", "stop", "smdaemon.service", "smdaemon.socket")
    run("systemctl", "start", "smdaemon.socket", "smdaemon.service")
    connection = http.client.HTTPConnection("127.0.0.1:8470", timeout=PATIENCE_SECONDS)
    connection.request("GET", "/v1/status", headers={"Accept": "application/json"})
    answer = json.loads(connection.getresponse().read())
    assert (answer["models"][0]["name"], answer["may_act"]) == ("ranker", False)


def check_what_was_handed_over_outlives_trainer_and_restart() -> None:
    """A trainer hands over while the queue pauses for want of room, and ends; the service restarts; then there is room."""
    good = CONFIG.read_text()
    more = 'handoff_socket = "/run/smdaemon/handoff.sock"\nhandoff_users = ["anna"]\n'
    CONFIG.write_text(good.replace("[daemon]\n", f'[daemon]\nmin_free = "900GB"\n{more}', 1))
    block = re.search(r"For handoffs.*\n\n((?:    .*\n)+)", PAGE.read_text(), re.MULTILINE)[1]
    run("sh", "-e", given=block)
    run("runuser", "-u", "anna", "--", "/opt/smdaemon/bin/python", "-c", TRAINER, "5")
    until(lambda: int(show("NFileDescriptorStore")) > 0, "memory that systemd keeps")
    assert not published(5)
    run("systemctl", "restart", "smdaemon")
    assert not published(5)
    CONFIG.write_text(good.replace("[daemon]\n", f"[daemon]\n{more}", 1))
    run("systemctl", "reload", "smdaemon")
    until(lambda: published(5), "version 5")
    assert "float32" in run(SMDAEMON, "inspect", str(MODELS / "5"))
    until(lambda: int(show("NFileDescriptorStore")) == 0, "nothing kept for what is published")
    assert job(5)["state"] == "published"


def check_the_watchdog() -> None:
    """A daemon that makes no progress is ended and started again."""
    drop_in("smdaemon.service", "[Service]\nWatchdogSec=2\nTimeoutAbortSec=2\n")
    run("systemctl", "restart", "smdaemon")
    pid = show("MainPID")
    os.kill(int(pid), 19)
    until(lambda: show("MainPID") not in {pid, "0"} and show("ActiveState") == "active", "another process")
    assert "watchdog" in run("journalctl", "-u", "smdaemon", "-o", "cat").lower()
    drop(6)
    until(lambda: published(6), "version 6")
    drop_in("smdaemon.service", "")
    run("systemctl", "restart", "smdaemon")


def check_several_daemons() -> None:
    """smdaemon@tower beside smdaemon, with the commands of the page."""
    runs, models = Path("/runs/tower"), Path("/models/tower")
    for path in (runs, models):
        path.mkdir()
        run("chown", "smdaemon:", str(path))
    Path("/etc/smdaemon/tower.toml").write_text(
        '[daemon]\nstate_dir = "/var/lib/smdaemon-tower"\ncontrol_socket = "/run/smdaemon-tower/control.sock"\n'
        'handoff_socket = "/run/smdaemon-tower/handoff.sock"\n'
        '[[model]]\nname = "tower"\nwatch = "/runs/tower"\npublish = "/models/tower"\n'
    )
    units = ("smdaemon@tower.socket", "smdaemon-handoff@tower.socket", "smdaemon@tower.service")
    run("systemctl", "enable", "--now", *units)
    drop(7, runs)
    until(lambda: published(7, models), "version 7 of tower")
    assert "tower" in run(SMDAEMON, "status", "--socket", "/run/smdaemon-tower/control.sock")
    run("systemctl", "stop", *units)
    assert not Path("/run/smdaemon-tower/control.sock").exists()


def check_the_log() -> None:
    """Every line is JSON with a level, and the journal knows which matter."""
    lines = run("journalctl", "_SYSTEMD_UNIT=smdaemon.service", "-o", "json").splitlines()
    ours = [json.loads(line) for line in lines]
    ours = [
        line for line in ours if line.get("SYSLOG_IDENTIFIER") != "systemd" and str(line["MESSAGE"]).startswith("{")
    ]
    assert len(ours) > 20
    levels = {json.loads(line["MESSAGE"])["level"]: line["PRIORITY"] for line in ours}
    assert levels["info"] == "6"
    assert levels["error"] == "3"
    (command,) = re.findall(r"^\| `(.*jq.*)` \|", PAGE.read_text(), re.MULTILINE)
    about = run("bash", "-o", "pipefail", "-c", command.replace("\\|", "|").replace("17", "1").replace("jq ", "jq -c "))
    assert about
    assert all(json.loads(line)["job"] == 1 for line in about.splitlines())
    assert {line["SYSLOG_IDENTIFIER"] for line in ours} == {"smdaemon"}


def check_training_goes_first() -> None:
    """CPUWeight=20 of the page: of one processor that both want, training gets five times as much."""
    drop_in("smdaemon.service", "[Service]\nCPUWeight=20\nCPUAffinity=0\n")
    run("systemctl", "restart", "smdaemon")
    run("systemd-run", "--unit=training", "--property=CPUAffinity=0", "/usr/bin/python3", "-c", "while True: pass")
    before = {unit: int(show("CPUUsageNSec", unit)) for unit in ("training.service", "smdaemon.service")}
    for number in (10, 11):
        drop(number, size=1 << 18)
    until(lambda: published(10) and published(11), "the versions")
    used = {unit: int(show("CPUUsageNSec", unit)) - at for unit, at in before.items()}
    run("systemctl", "stop", "training.service")
    figures["training's part of the processor"] = share = used["training.service"] / sum(used.values())
    figures["seconds"] = sum(used.values()) / 1e9
    assert share > 0.75, used
    drop_in("smdaemon.service", "")


def check_a_stop_is_clean() -> None:
    """It drains, ends with 0, and its sockets go."""
    run("systemctl", "stop", "smdaemon.socket", "smdaemon-handoff.socket", "smdaemon.service")
    assert (show("Result"), show("ExecMainStatus"), show("ActiveState")) == ("success", "0", "inactive")
    assert not Path("/run/smdaemon/control.sock").exists()
    for path in MODELS.iterdir():
        run(SMDAEMON, "verify", str(path))


def check_how_exposed_it_is() -> None:
    """What systemd says of the installed unit is what the page says."""
    said = run("systemd-analyze", "security", "--no-pager", "smdaemon.service")
    figure = re.search(r"Overall exposure level for \S+: ([\d.]+)", said)[1]
    assert f"says {figure} of 10" in PAGE.read_text()


def main(results: Path) -> None:
    """Make every check, in the order in which they stand; one that fails does not keep the next from being made."""
    with results.open("w") as file:
        for name, check in [(name, each) for name, each in globals().items() if name.startswith("check_")]:
            figures.clear()
            began = time.monotonic()
            error = ""
            try:
                check()
            except (
                AssertionError,
                OSError,
                SmdaemonError,
                subprocess.SubprocessError,
                StopIteration,
                TypeError,
                KeyError,
            ):
                error = traceback.format_exc()
            found = {"name": name, "error": error, "figures": figures, "seconds": round(time.monotonic() - began, 1)}
            file.write(json.dumps(found) + "\n")
            file.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
