"""The Containerfile and the Kubernetes page: what they claim can be read in them."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

from smdaemon.cli.main import GROUPS
from smdaemon.config import parse_config
from smdaemon.settings import Config

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "kubernetes.md"
CONTAINERFILE = (ROOT / "Containerfile").read_text()
MIB = 1 << 20


def manifests() -> list[dict]:
    """Every object of the page."""
    blocks = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    assert blocks
    return [document for block in blocks for document in yaml.safe_load_all(block)]


def of_kind(kind: str) -> dict:
    """The one object of that kind."""
    (found,) = [each for each in manifests() if each["kind"] == kind]
    return found


@pytest.fixture
def pod() -> dict:
    """The pod of the page's Job."""
    return of_kind("Job")["spec"]["template"]["spec"]


@pytest.fixture
def sidecar(pod) -> dict:
    """The daemon's container in it."""
    (found,) = pod["initContainers"]
    return found


@pytest.fixture
def config() -> Config:
    """The configuration that the page gives it."""
    (text,) = of_kind("ConfigMap")["data"].values()
    return parse_config(text.encode(), Path("/etc/smdaemon/config.toml"))


def binary(quantity: str) -> int:
    """Bytes of a quantity such as 10Gi."""
    number, unit = re.fullmatch(r"(\d+)([KMG]i)", quantity).groups()
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30}[unit]


def test_every_object_says_what_it_is():
    """YAML that Kubernetes can take for an object."""
    assert [each["kind"] for each in manifests()] == ["ConfigMap", "Job"]
    assert all({"apiVersion", "metadata"} <= each.keys() for each in manifests())


def test_the_sidecar_is_a_native_one(sidecar):
    """An init container that is restarted always: started before the trainer, ended after it."""
    assert sidecar["restartPolicy"] == "Always"


def test_every_mount_has_its_volume(pod):
    """Names agree, and every volume is used."""
    containers = [*pod["initContainers"], *pod["containers"]]
    mounted = {mount["name"] for container in containers for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_every_path_of_the_configuration_is_mounted(sidecar, config):
    """State, sockets, watched and published directories lie in volumes: the root file system is read-only."""
    assert sidecar["securityContext"]["readOnlyRootFilesystem"]
    daemon, (model,) = config.daemon, config.model
    mounts = {mount["mountPath"] for mount in sidecar["volumeMounts"] if not mount.get("readOnly")}
    for path in (daemon.state_dir, daemon.control_socket, daemon.handoff_socket, model.watch, model.publish):
        assert mounts & {path, *map(str, Path(path).parents)}, path


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_probes_run_a_command_that_there_is(sidecar, probe):
    """A command of smdaemon, without a shell; the kubelet waits longer than the command does."""
    command = sidecar[probe]["exec"]["command"]
    known = {each.name for commands in GROUPS.values() for each in commands}
    assert command[0] == "smdaemon"
    assert command[1] in known
    assert ("--ready" in command) is (probe != "livenessProbe")
    assert sidecar[probe]["timeoutSeconds"] > 5


def test_there_is_time_to_drain(pod, config):
    """SIGKILL comes after drain_seconds, and what is queued is exported."""
    assert pod["terminationGracePeriodSeconds"] > config.daemon.drain_seconds + 30
    assert config.daemon.drain_queue


def test_the_memory_limit_holds_handoffs_and_exports(sidecar, config):
    """As the page says: both budgets and 512 MiB; what is limited is requested, too."""
    resources = sidecar["resources"]
    needed = config.daemon.handoff_memory_bytes + config.daemon.host_memory_bytes + 512 * MIB
    assert binary(resources["limits"]["memory"]) >= needed
    assert resources["requests"]["memory"] == resources["limits"]["memory"]


def test_the_pod_and_the_image_run_as_the_same_user(pod):
    """A number that is not root's."""
    (user,) = re.findall(r"^USER (\d+):(\d+)$", CONTAINERFILE, re.MULTILINE)
    security = pod["securityContext"]
    assert user == (str(security["runAsUser"]), str(security["runAsGroup"]))
    assert security["runAsNonRoot"]
    assert int(user[0]) > 0


def test_everything_that_the_image_fetches_is_pinned():
    """Requirements by hash, the rest without an index; the build's own needs are those of pyproject.toml."""
    installs = re.findall(r"pip .*?(?:install|wheel) [^&\n]*", CONTAINERFILE)
    assert len(installs) == 4
    assert all("--require-hashes" in each or ("--no-index" in each and "--no-deps" in each) for each in installs)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["build-system"]["requires"] == project["dependency-groups"]["build"]
    pins = (ROOT / "requirements" / "build.txt").read_text()
    assert "hatchling==" in pins
    assert "--hash=sha256:" in pins


def test_the_image_needs_no_shell():
    """Commands are lists, and the program itself is process 1."""
    _, _, final = CONTAINERFILE.rpartition("\nFROM ")
    for name in ("ENTRYPOINT", "CMD", "HEALTHCHECK"):
        (line,) = re.findall(rf"^{name} (.*)$", final, re.MULTILINE)
        assert line.endswith("]"), line
    assert 'ENTRYPOINT ["smdaemon"]' in final


def test_the_build_copies_what_there_is():
    """Every path of COPY is in the repository and in the build's context."""
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in re.findall(r"^COPY (?!--from)(.*)$", CONTAINERFILE, re.MULTILINE):
        *sources, _target = line.split()
        for source in sources:
            assert (ROOT / source).exists(), source
            assert f"!{source.split('/')[0]}" in ignored
