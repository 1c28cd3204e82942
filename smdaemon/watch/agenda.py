"""When to look again at what."""

import heapq
import math


class Agenda:
    """Paths with the time at which each is due; a path has one time, the last that was set."""

    def __init__(self) -> None:
        self._when: dict[str, float] = {}
        self._heap: list[tuple[float, str]] = []

    def __len__(self) -> int:
        return len(self._when)

    def put(self, path: str, when: float) -> None:
        """Set a path's time."""
        if self._when.get(path) != when:
            self._when[path] = when
            heapq.heappush(self._heap, (when, path))

    def drop(self, path: str) -> None:
        """Take a path off."""
        self._when.pop(path, None)

    def next(self) -> float:
        """The earliest time; infinity if nothing is to be done."""
        while self._heap:
            when, path = self._heap[0]
            if self._when.get(path) == when:
                return when
            heapq.heappop(self._heap)  # it was taken off, or its time was changed
        return math.inf

    def due(self, now: float, limit: int) -> list[str]:
        """Take off at most `limit` paths whose time has come."""
        paths: list[str] = []
        while len(paths) < limit and self.next() <= now:
            _, path = heapq.heappop(self._heap)
            del self._when[path]
            paths.append(path)
        return paths
