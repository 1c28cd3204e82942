"""Handoff: a trainer gives its tensors to the daemon in shared memory, and goes on training.

    from smdaemon.handoff import attach

    with attach("/run/smdaemon/handoff.sock") as sidecar:
        sidecar.reserve(params)                         # once: memory is got ready before training
        for step in range(steps):
            params = train_step(params)
            sidecar.save(step, params, model="ranker")  # milliseconds; a version appears when it is written

`attach` and `describe` are the trainer's side, plain synchronous code that may be called from any thread; `attach_async` is for trio programs; server.py is the
daemon's. The modules, each
using those before it: protocol, memory; channel, handle, link, client, async_client; exports, holdings, connection, server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smdaemon.handoff.async_client import AsyncSidecar, attach_async
    from smdaemon.handoff.client import Handle, Outcome, Sidecar, attach
    from smdaemon.savedmodel.jax import describe

__all__ = ["AsyncSidecar", "Handle", "Outcome", "Sidecar", "attach", "attach_async", "describe"]

_LATER = {
    "describe": "smdaemon.savedmodel.jax",
    "AsyncSidecar": "smdaemon.handoff.async_client",
    "attach_async": "smdaemon.handoff.async_client",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_LATER.get(name, f"{__name__}.client")), name)
    globals()[name] = found
    return found
