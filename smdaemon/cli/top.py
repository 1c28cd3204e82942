"""`smdaemon top`: the daemon at a glance on a terminal, live by its stream of events."""

import os
import signal
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from smdaemon.cli import output
from smdaemon.cli.client import Client
from smdaemon.cli.follow import Follower
from smdaemon.cli.options import Socket
from smdaemon.cli.terminal import Terminal

if TYPE_CHECKING:
    from rich.live import Live

    from smdaemon.cli.top_page import Picture, View

_TICK_SECONDS = 1.0
_PAUSE_SECONDS = 0.1
"""Between two pictures: ages grow at least so often; bursts of events are drawn at most so often."""


def top(*, socket: Socket = None) -> None:
    """Show models, queue and meters, live, until q or Ctrl-C. / chooses models by name, arrows and PgUp, PgDn scroll them."""
    with Terminal() as terminal:
        follower = Follower(Client(socket), terminal.changed)
        follower.start()
        try:
            _draw_until_left(terminal, follower)
        finally:
            follower.stop()
    if terminal.ended_by not in (None, signal.SIGINT):
        # as if the signal had been left alone: whoever sent it may look at how we ended
        signal.signal(terminal.ended_by, signal.SIG_DFL)
        os.kill(os.getpid(), terminal.ended_by)


def _draw_until_left(terminal: Terminal, follower: Follower) -> None:
    from rich.console import ConsoleDimensions
    from rich.live import Live

    from smdaemon.cli.top_page import View, picture

    console = output.console()
    view: View | None = View()
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while view is not None:
            columns, lines = terminal.size()
            console.size = ConsoleDimensions(columns, lines)  # rich would believe $COLUMNS, which does not change
            drawn = picture(follower.known(), view, datetime.now(UTC), columns, lines)
            live.update(drawn.page, refresh=True)
            view = _next_view(terminal, live, drawn)


def _next_view(terminal: Terminal, live: "Live", drawn: "Picture") -> "View | None":
    """The view when it is time for another picture; None when the person leaves."""
    view, begun = drawn.view, time.monotonic()
    due = begun + _TICK_SECONDS
    while (left := due - time.monotonic()) > 0:
        for event in terminal.events(left):
            if event == "leave" or (event == "q" and not view.typing):
                return None
            if event == "changed":
                due = min(due, begun + _PAUSE_SECONDS)
                continue
            if event == "suspend":
                terminal.suspend(live.stop, live.start)
            elif event != "resized":
                view = view.pressed(event, drawn.rows)
            due = begun
    return view
