"""What a plan decides by itself."""

import os
from pathlib import Path

import pytest

from smdaemon.export.plan import SHARD_BYTES, ExportPlan


@pytest.mark.parametrize("processors", [1, 2, 64, None])
@pytest.mark.parametrize(("nbytes", "shards"), [(0, 1), (5 * SHARD_BYTES, 5), (100 * SHARD_BYTES, 8)])
def test_the_number_of_data_files_follows_from_the_size_alone(monkeypatch, processors, nbytes, shards):
    """Two machines that export the same write the same files."""
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert ExportPlan(Path("x.npz")).shards_for(nbytes) == shards
    assert ExportPlan(Path("x.npz"), shards=3).shards_for(nbytes) == 3
