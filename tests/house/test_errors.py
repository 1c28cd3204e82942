import errno
import os
import re
from pathlib import Path

import pytest

from smdaemon.errors import CODES, DropError, EnvironmentFault, fault, shortage


def test_every_code_is_kebab_case_and_has_meaning_and_remedy():
    """Codes are for machines, meaning and remedy for people: lower-case, no full stop."""
    for code, (meaning, remedy) in CODES.items():
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", code)
        for text in (meaning, remedy):
            assert text
            assert not text.endswith(".")


def test_every_code_is_met_by_a_test():
    """Somewhere under tests/ each is expected, by its name as a string or as a line of output has it."""
    tests = "".join(path.read_text() for path in sorted(Path(__file__).parents[1].rglob("test_*.py")))
    assert not [code for code in CODES if not re.search(rf"[\"'(]{code}[\"')]", tests)]


def test_an_error_with_an_unlisted_code_cannot_be_raised():
    """The list of codes stays complete because nothing outside it works."""
    with pytest.raises(KeyError):
        DropError("no-such-code", "something")


def test_the_remedy_of_the_list_stands_unless_a_better_one_is_given():
    """A raiser that knows more may say more."""
    assert DropError("source-empty", "x").remedy == CODES["source-empty"].remedy
    assert DropError("source-empty", "x", remedy="do this").remedy == "do this"


@pytest.mark.parametrize(
    ("number", "code", "retryable"),
    [
        (errno.ENOSPC, "disk-full", True),
        (errno.EDQUOT, "quota-exceeded", True),
        (errno.EIO, "io-error", True),
        (errno.EACCES, "permission-denied", False),
        (errno.EROFS, "read-only", False),
        (errno.ENOENT, "directory-missing", True),
        (errno.EMFILE, "too-many-files", True),
        (errno.ENOMEM, "memory-short", True),
        (errno.EAGAIN, "memory-short", True),
        (errno.EXDEV, "os-error", False),
    ],
)
def test_an_oserror_becomes_a_fault_that_says_whether_to_retry(number, code, retryable):
    """Space, disks and mounts come back; permissions do not."""
    made = fault(OSError(number, os.strerror(number), "/there"), "writing")
    assert isinstance(made, EnvironmentFault)
    assert (made.code, made.retryable) == (code, retryable)
    assert str(made).startswith("writing '/there': ")


def test_a_process_that_cannot_be_made_is_a_shortage():
    """A limit of tasks ends by itself as want of memory does."""
    made = shortage(BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)))
    assert (made.code, made.retryable) == ("memory-short", True)
