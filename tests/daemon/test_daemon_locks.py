import os

import pytest

from smdaemon.daemon.locks import state_directory
from smdaemon.errors import ConfigError, EnvironmentFault


def test_a_second_daemon_is_refused_and_told_who_holds_the_directory(tmp_path):
    """The message names the holder's process id; when it is gone the directory is free."""
    with state_directory(tmp_path / "state") as held:
        assert held.is_dir()
        with pytest.raises(ConfigError, match=f"process {os.getpid()}") as caught, state_directory(tmp_path / "state"):
            pytest.fail("both hold the directory")
        assert caught.value.code == "state-dir-locked"
    with state_directory(tmp_path / "state"):
        pass


def test_a_state_directory_that_cannot_be_made_is_a_fault(tmp_path):
    """Its parent is missing: the message says so."""
    with pytest.raises(EnvironmentFault) as caught, state_directory(tmp_path / "no" / "state"):
        pytest.fail("there is no parent")
    assert caught.value.code == "directory-missing"
