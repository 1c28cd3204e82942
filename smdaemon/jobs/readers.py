"""The journal's table `readers`: how far each durable reader of the moves has come. Statements only; transactions are the journal's."""

from collections.abc import Callable, Collection
from typing import Any

from smdaemon.jobs.rows import encodable


class ReaderTable:
    """The table, by way of `rows`, which executes a statement and gives its rows."""

    def __init__(self, rows: Callable[[str, Any], list[tuple[Any, ...]]]) -> None:
        self._rows = rows

    def places(self, names: Collection[str], newest: int) -> dict[str, int]:
        """The place of each of these readers; one that is not known begins at `newest`. All others are forgotten."""
        wanted = [encodable(name) for name in names]
        known = dict(self._rows("SELECT name, seq FROM readers", None))
        for name in known.keys() - set(wanted):
            self._rows("DELETE FROM readers WHERE name = ?", (name,))
        for name in wanted:
            if name not in known:
                self._rows("INSERT INTO readers VALUES (?, ?)", (name, newest))
        return {name: known.get(name, newest) for name in wanted}

    def advance(self, name: str, seq: int) -> None:
        """The reader has done all up to `seq`; nothing happens where it was forgotten, or had come further."""
        self._rows("UPDATE readers SET seq = ?2 WHERE name = ?1 AND seq < ?2", (encodable(name), seq))
