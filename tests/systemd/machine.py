"""A Debian of its own in a virtual machine, whose first process is systemd: made by debootstrap, started by QEMU, thrown away after its run.

The machine has two disks: Debian, made once, of which nothing is kept; and what it is to try, which it mounts at /payload.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_PACKAGES = (
    *("systemd", "systemd-sysv", "udev", "dbus", "adduser", "procps", "kmod", "util-linux"),
    *("python3", "python3-venv", "jq", "linux-image-cloud-amd64"),
)
_MIRROR = "http://deb.debian.org/debian"
_DISK = "3G"
_LONGEST_SECONDS = 1500
# The last of a start runs what the second disk brings, and ends the machine whatever comes of it.
_UNIT = """\
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/bin/sh /payload/run.sh
ExecStopPost=/bin/systemctl --no-block poweroff
StandardOutput=journal+console
StandardError=journal+console
TimeoutStartSec=infinity
[Install]
WantedBy=multi-user.target
"""
_FSTAB = "/dev/vda / ext4 defaults 0 1\n/dev/vdb /payload ext4 ro 0 2\n"
_RUN = """\
set -e
python3 -m venv /opt/smdaemon
/opt/smdaemon/bin/pip install --quiet --no-index --find-links /payload/wheels --require-hashes -r /payload/run.txt
/opt/smdaemon/bin/pip install --quiet --no-index --no-deps /payload/wheels/smdaemon-*.whl
cd /payload/smdaemon
exec /opt/smdaemon/bin/python /payload/inside.py /dev/virtio-ports/results
"""


def obstacle() -> str:
    """Why there can be no machine here; empty where there can."""
    if os.geteuid() != 0:
        return "it takes root to make a Debian"
    missing = [tool for tool in ("debootstrap", "qemu-system-x86_64", "mkfs.ext4") if shutil.which(tool) is None]
    return f"{', '.join(missing)} IS NOT INSTALLED (make systemd does it on Debian)" if missing else ""


def debian(folder: Path) -> Path:
    """A directory with disk.img, vmlinuz and initrd.img of a Debian 12; made where it is not there yet."""
    done = folder / "disk.img"
    if done.exists():
        return folder
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    packages = f"--include={','.join(_PACKAGES)}"
    _run("debootstrap", "--variant=minbase", packages, "bookworm", str(tree), _MIRROR)
    (tree / "etc/fstab").write_text(_FSTAB)
    (tree / "etc/hostname").write_text("trainer-3\n")
    (tree / "payload").mkdir()
    unit = "etc/systemd/system/checks.service"
    (tree / unit).write_text(_UNIT)
    (tree / "etc/systemd/system/multi-user.target.wants/checks.service").symlink_to(f"/{unit}")
    for name in ("vmlinuz", "initrd.img"):
        (found,) = (tree / "boot").glob(f"{name}-*")
        shutil.copy(found, folder / name)
    _image(tree, folder / "making.img", _DISK)
    shutil.rmtree(tree)
    (folder / "making.img").rename(done)
    return folder


def payload(folder: Path) -> Path:
    """The disk with this repository's wheel, what it needs, its units and pages, and what is to be tried."""
    tree = folder / "payload"
    wheels = tree / "wheels"
    wheels.mkdir(parents=True)
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    pins = ROOT / "requirements" / "run.txt"
    _run(*pip, "download", "--require-hashes", "-r", str(pins), "--only-binary=:all:", "--dest", str(wheels))
    _run(sys.executable, "-m", "uv", "--quiet", "build", "--wheel", "--out-dir", str(wheels), str(ROOT))
    shutil.copy(pins, tree)
    shutil.copy(Path(__file__).with_name("inside.py"), tree)
    (tree / "run.sh").write_text(_RUN)
    shutil.copytree(ROOT / "systemd", tree / "smdaemon" / "systemd")
    shutil.copy(ROOT / "config.toml", tree / "smdaemon")
    return _image(tree, folder / "payload.img", "1G")


def run(base: Path, second: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """What the machine found, by the names of the checks; its console is left in `folder`/console.log."""
    results = folder / "results.jsonl"
    command = [
        # emulated: what is virtual already, as most machines of CI are, may offer a KVM that does not work
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "3072"),
        *("-nodefaults", "-no-reboot"),
        *("-display", "none", "-serial", f"file:{folder / 'console.log'}", "-nic", "none"),
        *("-kernel", str(base / "vmlinuz"), "-initrd", str(base / "initrd.img")),
        *("-append", "root=/dev/vda rw console=ttyS0 systemd.show_status=1"),
        *("-drive", f"file={base / 'disk.img'},format=raw,if=virtio,snapshot=on"),
        *("-drive", f"file={second},format=raw,if=virtio,readonly=on"),
        *("-device", "virtio-serial", "-chardev", f"file,id=results,path={results}"),
        *("-device", "virtserialport,chardev=results,name=results"),
    ]
    _run(*command)
    return {each["name"]: each for each in map(json.loads, results.read_text().splitlines())}


def _image(tree: Path, image: Path, size: str) -> Path:
    """An ext4 file system with what lies in `tree`."""
    _run("mkfs.ext4", "-q", "-d", str(tree), str(image), size)
    return image


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_LONGEST_SECONDS)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
