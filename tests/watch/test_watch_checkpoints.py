"""Checkpoints of TensorFlow in a watched directory, with the real format: a part that comes late is waited for, and noticed."""

import os

import numpy as np
import pytest

from smdaemon.errors import DropError
from smdaemon.export.pipeline import export
from smdaemon.export.plan import ExportPlan
from smdaemon.sources.formats import claiming, format_named, identity_of
from smdaemon.tensorbundle import ArrayTensor, write_bundle
from smdaemon.watch.completeness import GIVE_UP_QUIET_PERIODS, Moment, Touch
from smdaemon.watch.drops import Sightings

QUIET = 10.0
FRESH, OLD = 0.0, 1e12  # a wall clock by which the files of the test are brand-new, or long at rest
INDEX, DATA, META = "ckpt-1.index", "ckpt-1.data-00000-of-00001", "ckpt-1.meta"
LATE = GIVE_UP_QUIET_PERIODS * QUIET


class Desk:
    """The sightings of an empty directory, and a checkpoint beside it whose files come one by one."""

    def __init__(self, root, format_name):
        self.root, self.away = root / "runs", root / "away"
        self.root.mkdir()
        self.away.mkdir()
        write_bundle(self.away / "ckpt-1", {"w": ArrayTensor(np.ones(100, np.float32))})
        (self.away / META).write_bytes(b"graph")
        only = format_named(format_name)
        known = claiming if format_name == "tf-checkpoint" else lambda path: only if only.claims(path) else None
        self.sightings = Sightings(str(self.root), known, recursive=True, quiet_seconds=QUIET)
        self.again = {}

    def come(self, *names):
        """Rename files into place."""
        for name in names:
            (self.away / name).rename(self.root / name)

    def look(self, *names, touch=Touch.SEEN, now=0.0, wall=FRESH):
        """The drops that are reported."""
        touches = {str(self.root / name): touch for name in names}
        looked = self.sightings.look(touches, Moment(now, wall))
        self.again = {os.path.relpath(path, self.root): when for path, when in looked.again.items()}
        return looked.drops


@pytest.fixture
def desk(tmp_path):
    """A watch that takes every format."""
    return Desk(tmp_path, "tf-checkpoint")


@pytest.fixture
def graph_desk(tmp_path):
    """A watch whose checkpoints have graphs."""
    return Desk(tmp_path, "tf1-checkpoint")


def test_a_checkpoint_is_taken_at_once_when_its_files_were_renamed_into_place(desk):
    """Data first, as TensorFlow writes: that it was finished is remembered until the index comes."""
    desk.come(DATA)
    assert desk.look(DATA, touch=Touch.MOVED) == []
    desk.come(INDEX)
    (drop,) = desk.look(INDEX, touch=Touch.MOVED)
    assert (drop.path.name, drop.format) == (INDEX, "tf-checkpoint")
    assert drop.identity == identity_of(desk.root / INDEX, "tf-checkpoint")


def test_data_that_grows_is_waited_for(desk):
    """However long it takes, as long as it grows: then the checkpoint is taken."""
    whole = (desk.away / DATA).read_bytes()
    (desk.root / DATA).write_bytes(b"")
    desk.come(INDEX)
    assert desk.look(INDEX, touch=Touch.MOVED) == []
    for step in range(1, 8):
        (desk.root / DATA).write_bytes(whole[: 10 * step])
        assert desk.look(DATA, now=step * LATE * 0.9) == []
        assert desk.look(INDEX, now=step * LATE * 0.9 + QUIET) == []
    (desk.root / DATA).write_bytes(whole)
    assert [drop.path.name for drop in desk.look(DATA, touch=Touch.CLOSED, now=8 * LATE)] == [INDEX]


def test_a_data_file_that_is_written_again_makes_a_new_drop(desk):
    """Its identity is that of all of its files."""
    desk.come(DATA, INDEX)
    (first,) = desk.look(INDEX, wall=OLD)
    assert desk.look(INDEX, DATA, wall=OLD) == []
    os.utime(desk.root / DATA, (1, 1))
    (second,) = desk.look(DATA, wall=OLD)
    assert first.identity != second.identity


def test_a_graph_that_comes_late_is_noticed(graph_desk):
    """Before the checkpoint is given up it completes it; after that it makes a new drop of it, with its graph."""
    desk = graph_desk
    desk.come(DATA, INDEX)
    assert desk.look(INDEX, touch=Touch.MOVED) == []
    assert desk.look(INDEX, now=QUIET) == []
    (given_up,) = desk.look(INDEX, now=LATE + 1)
    with pytest.raises(DropError) as caught:
        export(ExportPlan(source=given_up.path, format=given_up.format), desk.away / "export")
    assert caught.value.code == "checkpoint-graph-missing"
    desk.come(META)
    (drop,) = desk.look(META, touch=Touch.MOVED, now=LATE + 2)
    assert drop.identity == identity_of(desk.root / INDEX, "tf1-checkpoint") != given_up.identity


def test_a_graph_completes_a_checkpoint_that_waits_for_it(graph_desk):
    """By its own event."""
    desk = graph_desk
    desk.come(DATA, INDEX)
    assert desk.look(INDEX, DATA, touch=Touch.MOVED) == []
    desk.come(META)
    assert [drop.path.name for drop in desk.look(META, touch=Touch.MOVED, now=1)] == [INDEX]


def test_what_is_remembered_of_parts_goes_with_them(desk):
    """Data without an index, and a checkpoint that is removed."""
    desk.come(DATA)
    desk.look(DATA, touch=Touch.CLOSED)
    desk.come(INDEX)
    desk.look(INDEX, wall=OLD)
    for name in (DATA, INDEX):
        (desk.root / name).unlink()
    desk.look(INDEX, DATA)
    assert not desk.sightings._known()
    assert not desk.sightings._owners
