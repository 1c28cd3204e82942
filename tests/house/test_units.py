"""The files of systemd/: systemd finds no fault with them, they are hardened, and the template differs from the unit only where it must."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from smdaemon.config import parse_config

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "systemd"
SERVICES = sorted(FOLDER.glob("*.service"))
UNITS = [*SERVICES, *sorted(FOLDER.glob("*.socket"))]
# Of 10. What is left is named in systemd/README.md.
MOST_EXPOSURE = 1.5


def tool(name: str) -> str:
    """The path of a tool of systemd's."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} IS NOT INSTALLED (apt-get install systemd): systemd/ is not looked at")
    return found


def run(*command: str) -> str:
    """What a command says, on both streams."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def keys(unit: Path) -> dict[str, list[str]]:
    """A unit's keys with their values, in order."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def named(path: Path) -> str:
    """The file's name, as a test's."""
    return path.name


@pytest.mark.parametrize("unit", UNITS, ids=named)
def test_systemd_has_nothing_to_say_about_a_unit(unit: Path, tmp_path: Path):
    """`systemd-analyze verify` prints nothing; its exit code does not count: it is 0 for unknown keys too."""
    analyze = tool("systemd-analyze")
    for each in UNITS:
        shutil.copy(each, tmp_path)
    assert run(analyze, "verify", "--man=no", str(tmp_path / unit.name)) == ""


def test_verify_is_a_judge_at_all(tmp_path: Path):
    """A unit with a misspelt key and a value that systemd does not know is complained about."""
    analyze = tool("systemd-analyze")
    text = (FOLDER / "smdaemon.service").read_text()
    (tmp_path / "smdaemon.service").write_text(
        text.replace("KillMode=mixed", "KilMode=mixed").replace("=strict", "=some")
    )
    said = run(analyze, "verify", "--man=no", str(tmp_path / "smdaemon.service"))
    assert "KilMode" in said
    assert "protect system" in said


@pytest.mark.parametrize("service", SERVICES, ids=named)
def test_a_service_is_hardly_exposed(service: Path):
    """`systemd-analyze security` gives it at most 1.5 of 10."""
    said = run(tool("systemd-analyze"), "security", "--offline=true", "--no-pager", str(service))
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert float(exposure) <= MOST_EXPOSURE, said


@pytest.mark.parametrize("name", ["smdaemon", "smdaemon-handoff"])
@pytest.mark.parametrize("kind", ["service", "socket"])
def test_the_template_is_the_unit_for_several(name: str, kind: str):
    """Line by line the same, but for what each instance has for itself."""
    if (name, kind) == ("smdaemon-handoff", "service"):
        return
    alone = (FOLDER / f"{name}.{kind}").read_text()
    template = (FOLDER / f"{name}@.{kind}").read_text()
    own = (
        ("/etc/smdaemon/%i.toml", "/etc/smdaemon/config.toml"),
        ("smdaemon@%i.service", "smdaemon.service"),
        ("smdaemon@.socket", "smdaemon.socket"),
        ("smdaemon-%i", "smdaemon"),
        ("smdaemon %i: ", "smdaemon: "),
    )
    for ours, theirs in own:
        template = template.replace(ours, theirs)
    assert "%" not in template
    assert re.sub(r"^# Several daemons.*\n", "", template) == alone


def test_units_agree_with_the_example_configuration():
    """Paths of sockets and state, and the names by which the daemon knows its sockets."""
    daemon = parse_config((ROOT / "config.toml").read_bytes(), Path("/etc/smdaemon/config.toml")).daemon
    service = keys(FOLDER / "smdaemon.service")
    assert f"/var/lib/{service['StateDirectory'][0]}" == daemon.state_dir
    assert keys(FOLDER / "smdaemon.socket")["ListenStream"] == [daemon.control_socket]
    assert keys(FOLDER / "smdaemon.socket")["SocketMode"] == [daemon.control_mode]
    handoff = keys(FOLDER / "smdaemon-handoff.socket")
    assert Path(handoff["ListenSequentialPacket"][0]).parent == Path(daemon.control_socket).parent
    assert handoff["SocketMode"] == [daemon.handoff_mode]
    names = [keys(unit)["FileDescriptorName"] for unit in sorted(FOLDER.glob("*.socket"))]
    assert names == [["handoff"], ["handoff"], ["control"], ["control"]]


def test_the_service_notifies_as_debians_systemd_understands_it():
    """Debian 12 has 252, which knows no notify-reload: SIGHUP by ExecReload, and the daemon tells its begin and end."""
    service = keys(FOLDER / "smdaemon.service")
    assert service["Type"] == ["notify"]
    assert service["NotifyAccess"] == ["main"]
    assert service["ExecReload"] == ["/bin/kill -HUP $MAINPID"]
    assert int(service["WatchdogSec"][0]) >= 30
    assert int(service["FileDescriptorStoreMax"][0]) > 0


def test_the_user_is_made(tmp_path: Path):
    """systemd-sysusers makes it from its file, systemd-tmpfiles gives it the directory of the sockets."""
    root = f"--root={tmp_path}"
    (tmp_path / "etc").mkdir()
    if shutil.which("systemd-sysusers") is None:
        pytest.skip("systemd-sysusers IS NOT INSTALLED: sysusers.d/ and tmpfiles.d/ are not looked at")
    run("systemd-sysusers", root, str(FOLDER / "sysusers.d" / "smdaemon.conf"))
    passwd = (tmp_path / "etc" / "passwd").read_text()
    assert re.search(
        r"^smdaemon:x:\d+:\d+:SavedModel publisher:/var/lib/smdaemon:/usr/sbin/nologin$", passwd, re.MULTILINE
    )
    assert run("systemd-tmpfiles", root, "--create", str(FOLDER / "tmpfiles.d" / "smdaemon.conf")) == ""
    assert (tmp_path / "run" / "smdaemon").is_dir()


def test_every_file_is_installed_by_the_readme():
    """What the page says to copy is all that there is."""
    lines = re.findall(r"^    install .*", (FOLDER / "README.md").read_text(), re.MULTILINE)
    words = [word for line in lines for word in line.split() if not word.startswith("/")]
    copied = {path for word in words for path in ROOT.glob(word)}
    assert copied == {*UNITS, *FOLDER.glob("*/*.conf"), ROOT / "config.toml"}


def test_the_page_says_how_exposed_the_service_is():
    """The figure of the page is systemd's."""
    said = run(tool("systemd-analyze"), "security", "--offline=true", "--no-pager", str(FOLDER / "smdaemon.service"))
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)
    assert f"says {exposure} of 10" in (FOLDER / "README.md").read_text()
