"""Who may do what over the control socket: whoever can connect may read; acting is for the daemon's owner and whom the owner names.

On the unix socket the kernel says who has connected. TCP says nothing of the kind, so there acting takes a token. Over TLS, where
other machines can connect, reading takes it too; only the health probes answer anyone.
"""

import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from smdaemon.control.pages import is_page
from smdaemon.control.render import HttpError
from smdaemon.errors import ConfigError
from smdaemon.private_file import read_private
from smdaemon.unix_socket import uid_of

PROBES = ("/healthz", "/readyz")
"""What answers without a token: whoever asks learns one bit."""

_SHOW_TOKEN = "send Authorization: Bearer TOKEN (SMDAEMON_TOKEN_FILE for smdaemon's commands)"  # noqa: S105 - a remedy
_TOKEN_LETTERS = 16
"""A token has at least so many: one that is guessed is none."""


@dataclass(frozen=True)
class Access:
    """Who may act: users by their ids, and over TCP whoever shows the token (empty: nobody)."""

    users: frozenset[int]
    token: str = ""

    def admit(self, request: Request) -> bool:
        """Let a request in; whether whoever asks may have something done, too. HttpError 403 for what he may not ask."""
        uid = _uid_of(request)
        shows_token = self._shows_token(request)
        may_act = shows_token if uid is None else uid in self.users
        path, scheme = request.scope["path"], request.scope["scheme"]  # not what the Host header makes of them
        if scheme == "https" and not (shows_token or path in PROBES or is_page(path)):
            raise _refused("over TLS every request takes the token of control_token_file", _SHOW_TOKEN)
        if may_act or request.method in {"GET", "HEAD"}:
            return may_act
        if uid is not None:
            raise _refused(f"user {uid} may read here, not act", "ask the daemon's owner, or be one of control_users")
        raise _refused(
            "over TCP acting takes the token of control_token_file", f"use the unix socket, or {_SHOW_TOKEN}"
        )

    def _shows_token(self, request: Request) -> bool:
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        # whatever it is compared with, it takes as long
        return (
            kind.lower() == "bearer" and bool(self.token) and hmac.compare_digest(token.encode(), self.token.encode())
        )


def _uid_of(request: Request) -> int | None:
    """Who has connected, as the kernel says it; None over TCP."""
    uid: int | None = getattr(request.state, "peer_uid", None)
    return uid


def access_of(users: Iterable[str], token_file: str = "") -> Access:
    """The access that the configuration describes: the daemon's own user, root, and `users` by name or id.

    ConfigError `config-invalid` for a token that others may read or that is short, EnvironmentFault where it cannot be read.
    """
    allowed = frozenset({os.getuid(), 0, *(uid_of(user) for user in users)}) - {-1}
    return Access(allowed, _token(Path(token_file)) if token_file else "")


def _token(path: Path) -> str:
    token = read_private(path, "control_token_file", code="config-invalid")
    if len(token) < _TOKEN_LETTERS:
        raise ConfigError(
            "config-invalid",
            f"control_token_file {str(path)!r} has a token of {len(token)} letters, {_TOKEN_LETTERS} are the least",
            remedy="make one with: openssl rand -hex 32",
        )
    return token


def _refused(message: str, remedy: str) -> HttpError:
    return HttpError(403, message, remedy=remedy, code="not-allowed")
