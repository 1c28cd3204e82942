"""Proof that the daemon makes progress: its loop, the journal's thread and the scheduler answer, again and again.

The service manager's watchdog is fed from here, and /healthz answers by it. An export that hangs in a file system is no lack of progress:
the daemon can still do everything else, and to start it anew would not mend the file system.
"""

from collections.abc import Awaitable, Callable, Mapping

import trio

from smdaemon.log import get_logger

_log = get_logger(__name__)
PERIOD_SECONDS = 15.0
_PATIENCE_SECONDS = 60.0


class Pulse:
    """A service: awaits all `proofs`, by name, then calls `on_beat`, every `period_seconds`."""

    def __init__(
        self,
        proofs: Mapping[str, Callable[[], Awaitable[None]]],
        on_beat: Callable[[], None],
        *,
        period_seconds: float = PERIOD_SECONDS,
    ) -> None:
        self.period_seconds = period_seconds
        self._proofs = proofs
        self._on_beat = on_beat
        self._beat_at = trio.current_time()

    @property
    def alive(self) -> bool:
        """Whether the last proof is recent."""
        return trio.current_time() - self._beat_at <= max(_PATIENCE_SECONDS, 2 * self.period_seconds)

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            for name, proof in self._proofs.items():
                await self._prove(name, proof)
            self._beat_at = trio.current_time()
            self._on_beat()
            await trio.sleep(self.period_seconds)

    async def _prove(self, name: str, proof: Callable[[], Awaitable[None]]) -> None:
        """Await a proof; where it takes longer than a period, the log says which one it is: the watchdog's kill will not."""
        async with trio.open_nursery() as nursery:
            began = trio.current_time()
            nursery.start_soon(self._complain, name)
            await proof()
            nursery.cancel_scope.cancel()
        if (seconds := trio.current_time() - began) >= self.period_seconds:
            _log.warning("progress again", of=name, after_seconds=round(seconds, 1))

    async def _complain(self, name: str) -> None:
        await trio.sleep(self.period_seconds)
        _log.error("no progress", of=name, for_seconds=self.period_seconds)
