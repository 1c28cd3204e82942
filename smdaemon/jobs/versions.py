"""The journal's table `versions`: what this daemon published and has not removed. Statements only; transactions are the journal's.

It outlives the jobs: they are forgotten after a while, and retention must know what is the daemon's own for as long as it lies there.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from smdaemon.errors import ConfigError
from smdaemon.jobs.job import Job, Publication
from smdaemon.jobs.rows import encodable, metrics_text
from smdaemon.publish.retention import Version

_COLUMNS = (
    "model, version, export_dir, identity, place, published_at, metrics, pinned, restores, withdrawn_at, removed_at"
)
_SELECT = f"SELECT {_COLUMNS} FROM versions WHERE model = ?1"  # noqa: S608 - a constant of this module
_WRITE = """
    INSERT OR REPLACE INTO versions VALUES (
        :model, :version, :export_dir, :identity, :place, :published_at, :metrics, :pinned, :restores, :withdrawn_at, NULL)
"""


class VersionTable:
    """The table, by way of `rows`, which executes a statement and gives its rows."""

    def __init__(self, rows: Callable[[str, Any], list[tuple[Any, ...]]]) -> None:
        self._rows = rows

    def published(self, job: Job) -> None:
        """Note what `job` has published; a rollback says besides that what it went back behind is not good."""
        if job.version is None or not job.export_dir:
            return
        publication = job.publication or Publication()
        model, export_dir = encodable(job.model), os.fsencode(job.export_dir)
        row = {
            "model": model,
            "version": job.version,
            "export_dir": export_dir,
            "identity": publication.identity,
            "place": self._next_place(model),
            "published_at": job.updated_at,
            "metrics": metrics_text(publication.metrics),
            "pinned": False,
            "restores": None if job.restores is None else self._content(model, job.restores),
            "withdrawn_at": None,
        }
        self._rows(_WRITE, row | self._kept(model, export_dir, row))
        if job.restores is not None:
            self._rows(
                "UPDATE versions SET withdrawn_at = ?4"
                " WHERE model = ?1 AND version > ?2 AND version < ?3 AND withdrawn_at IS NULL AND removed_at IS NULL",
                (model, job.restores, job.version, job.updated_at),
            )

    def _kept(self, model: str, export_dir: bytes, new: Mapping[str, Any]) -> dict[str, Any]:
        """What of the row that is there outlives a publication: all, where the directory was there already and is the same one."""
        rows = self._rows(f"{_SELECT} AND export_dir = ?2", (model, export_dir))
        if not rows:
            return {}
        (_, _, _, identity, place, published_at, metrics, pinned, restores, withdrawn_at, removed_at) = rows[0]
        if removed_at is not None:
            return {}
        if identity not in ("", new["identity"]):
            return {"pinned": pinned}
        return {
            "place": place,
            "published_at": published_at,
            "metrics": metrics if new["metrics"] == "{}" else new["metrics"],
            "pinned": pinned,
            "restores": restores,
            "withdrawn_at": withdrawn_at,
        }

    def _next_place(self, model: str) -> int:
        ((place,),) = self._rows("SELECT coalesce(max(place), 0) + 1 FROM versions WHERE model = ?", (model,))
        return int(place)

    def _content(self, model: str, version: int) -> int:
        """The version that had the content of `version` first."""
        rows = self._rows(
            "SELECT restores FROM versions WHERE model = ? AND version = ? AND removed_at IS NULL", (model, version)
        )
        return version if not rows or rows[0][0] is None else int(rows[0][0])

    def of(self, model: str) -> list[Version]:
        """The versions of a model that were not removed, newest first."""
        rows = self._rows(f"{_SELECT} AND removed_at IS NULL ORDER BY version DESC, export_dir", (encodable(model),))
        return [_to_version(row) for row in rows]

    def pin(self, model: str, export_dir: str, pinned: bool) -> None:
        """Keep a version whatever the rules say, or no longer; ConfigError `version-unknown`."""
        found = self._rows(
            "UPDATE versions SET pinned = ?3 WHERE model = ?1 AND export_dir = ?2 AND removed_at IS NULL RETURNING 1",
            (encodable(model), os.fsencode(export_dir), pinned),
        )
        if not found:
            message = f"the journal knows no version of {model!r} that was published as {export_dir!r}"
            raise ConfigError("version-unknown", message)

    def adopt(self, model: str, identities: Mapping[str, str]) -> None:
        """Note by its path which directory each of these versions is."""
        for export_dir, identity in identities.items():
            self._rows(
                "UPDATE versions SET identity = ?3 WHERE model = ?1 AND export_dir = ?2 AND identity = ''",
                (encodable(model), os.fsencode(export_dir), identity),
            )

    def withdraw(self, model: str, export_dir: str, now: float) -> None:
        """Note that a version is not good; nothing happens where it is not known."""
        self._rows(
            "UPDATE versions SET withdrawn_at = ?3 WHERE model = ?1 AND export_dir = ?2 AND withdrawn_at IS NULL",
            (encodable(model), os.fsencode(export_dir), now),
        )

    def removed(self, model: str, export_dirs: Sequence[str], now: float) -> None:
        """Note that these versions are no longer there."""
        for export_dir in export_dirs:
            self._rows(
                "UPDATE versions SET removed_at = ?3, pinned = 0 WHERE model = ?1 AND export_dir = ?2",
                (encodable(model), os.fsencode(export_dir), now),
            )

    def forget(self, older_than: float) -> None:
        """Delete the rows of what was removed before `older_than`."""
        self._rows("DELETE FROM versions WHERE removed_at < ?", (older_than,))


def _to_version(row: tuple[Any, ...]) -> Version:
    model, version, export_dir, identity, place, published_at, metrics, pinned, restores, withdrawn_at, _ = row
    return Version(
        model=model,
        version=version,
        export_dir=os.fsdecode(export_dir),
        identity=identity,
        place=place,
        published_at=published_at,
        metrics=json.loads(metrics),
        pinned=bool(pinned),
        restores=restores,
        withdrawn_at=withdrawn_at,
    )
