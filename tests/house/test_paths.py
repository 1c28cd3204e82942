"""Whether something is there: a disk that does not answer has not said no."""

import errno
import os
from pathlib import Path

import pytest

from smdaemon.paths import can_name_a_file, exists, is_directory, is_file


def test_what_is_there_is_told_by_its_kind(tmp_path):
    """A link that leads nowhere exists; only what is led to counts as a file or a directory."""
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    found = [
        (exists(path), is_file(path), is_directory(path)) for path in (tmp_path, tmp_path / "file", tmp_path / "link")
    ]
    assert found == [(True, False, True), (True, True, False), (True, False, False)]


@pytest.mark.parametrize("name", ["none", "file/none", "n" * 300, "a\0b"])
def test_what_cannot_be_there_is_not(tmp_path, name):
    """Nothing, something below a file, too long a name, NUL."""
    (tmp_path / "file").touch()
    assert not exists(tmp_path / name)
    assert not is_file(f"{tmp_path}/{name}")
    assert not is_directory(tmp_path / name)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE], ids=errno.errorcode.get)
def test_no_answer_is_an_error(tmp_path, monkeypatch, number):
    """What is built on a no would leave out what is there."""

    def refuse(path: Path, **_options: bool) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "stat", refuse)
    for ask in (exists, is_file, is_directory):
        with pytest.raises(OSError, match="file") as caught:
            ask(tmp_path / "file")
        assert caught.value.errno == number


@pytest.mark.parametrize("name", ["a", "\udcff", "..a"])
def test_text_that_can_name_a_file(name):
    """Bytes that are no UTF-8 can, too."""
    assert can_name_a_file(name)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0", "\ud800"])
def test_text_that_can_name_no_file(name):
    """What leads elsewhere, NUL, half a character."""
    assert not can_name_a_file(name)
