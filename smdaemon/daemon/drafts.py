"""How drafts, and what lies beside them for a while, are removed again."""

from pathlib import Path

import trio

from smdaemon.errors import fault
from smdaemon.log import get_logger
from smdaemon.publish.local import LocalStore

_log = get_logger(__name__)


async def discard(store: LocalStore, draft: Path) -> None:
    """Remove the draft, whatever happens to the caller; a start sweeps what a kill leaves.

    A disk that refuses this too must not hide why the export ended; the next attempt or start removes it.
    """
    with trio.CancelScope(shield=True):
        try:
            await trio.to_thread.run_sync(store.discard, draft)
        except OSError as error:
            refused = fault(error, "removing a draft")
            _log.warning("draft not removed", draft=str(draft), code=refused.code, reason=refused.message)
