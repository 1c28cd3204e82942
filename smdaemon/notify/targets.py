"""Who is told: a command that reads the event, or a receiver that it is posted to. One attempt; when to try again is the notifier's."""

import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import trio

from smdaemon import __version__
from smdaemon.commands import Command, Ended
from smdaemon.errors import EnvironmentFault
from smdaemon.log import get_logger
from smdaemon.notify.event import CONTENT_TYPE, CloudEvent
from smdaemon.notify.signature import keys_of, signed_headers
from smdaemon.private_file import read_private
from smdaemon.settings import NotifySettings

_log = get_logger(__name__)
_SAID_LETTERS = 2000
_REASON_LETTERS = 200
_GONE = 410
_HEADERS = {"content-type": CONTENT_TYPE, "user-agent": f"smdaemon/{__version__}"}


class RefusedError(EnvironmentFault):
    """The receiver has not taken the event. `final`: it asks not to be sent it again; `wait_seconds`: not before."""

    def __init__(self, message: str, *, final: bool = False, wait_seconds: float = 0.0) -> None:
        super().__init__("webhook-refused", message, retryable=not final)
        self.final = final
        self.wait_seconds = wait_seconds


class Target(Protocol):
    """Something that takes events."""

    async def deliver(self, event: CloudEvent) -> None:
        """Return once the event was taken. Raises SmdaemonError where it was not."""
        ...


def target_of(settings: NotifySettings) -> Target:
    """The target that a notifier of the configuration has."""
    return CommandTarget(settings) if settings.command else Webhook(settings)


class CommandTarget:
    """A command that has taken an event when it ends with 0."""

    def __init__(self, settings: NotifySettings) -> None:
        self._settings = settings

    async def deliver(self, event: CloudEvent) -> None:
        """Run it. Raises ConfigError `notifier-missing`, EnvironmentFault `notifier-failed` or what the machine refuses."""
        words, seconds = self._settings.command, self._settings.timeout_seconds
        ended = Ended()
        command = Command(
            words,
            Path("/"),
            seconds,
            called="the command",
            missing_code="notifier-missing",
            environment=_environment(event),
            stdin=event.body + b"\n",
        )
        try:
            await command.run(ended)
        finally:
            if ended.output:
                _log.info("notifier said", notifier=self._settings.name, output=ended.output[-_SAID_LETTERS:])
        if ended.timed_out or ended.status is None:
            message = f"the command {words[0]!r} did not end within {seconds:g} s"
            raise EnvironmentFault("notifier-failed", message, retryable=True)
        if ended.status:
            raise EnvironmentFault("notifier-failed", f"the command {words[0]!r} {ended.how}", retryable=True)


def _environment(event: CloudEvent) -> dict[str, str]:
    """What a command of a few words needs to know, without reading the event."""
    job = event.job
    return {
        "SMDAEMON_EVENT_ID": event.id,
        "SMDAEMON_EVENT_TYPE": event.type,
        "SMDAEMON_MODEL": job.model,
        "SMDAEMON_VERSION": "" if job.version is None else str(job.version),
        "SMDAEMON_EXPORT_DIR": job.export_dir,
    }


class Webhook:
    """A receiver that has taken an event when it answers 2xx. Each attempt is a connection of its own, and knows nothing of the last."""

    def __init__(self, settings: NotifySettings) -> None:
        self._settings = settings
        self._tls: ssl.SSLContext | None = None

    async def deliver(self, event: CloudEvent) -> None:
        """Post it. Raises RefusedError, EnvironmentFault `webhook-unreachable`, and ConfigError `secret-invalid`."""
        seconds = self._settings.timeout_seconds
        try:
            with trio.fail_after(seconds):
                signature = await trio.to_thread.run_sync(self._signature, event, abandon_on_cancel=True)
                await self._post(event.body, {**_HEADERS, **signature})
        except trio.TooSlowError as error:
            message = f"the receiver did not answer within {seconds:g} s"
            raise EnvironmentFault("webhook-unreachable", message, retryable=True) from error

    def _signature(self, event: CloudEvent) -> dict[str, str]:
        """The headers of the signature; the file is read for each attempt, so that a new secret holds at once."""
        now = int(time.time())
        if not self._settings.secret_file:
            return {"webhook-id": event.id, "webhook-timestamp": str(now)}
        secret = read_private(Path(self._settings.secret_file), "secret_file", code="secret-invalid")
        return signed_headers(keys_of(secret), event.id, now, event.body)

    async def _post(self, body: bytes, headers: dict[str, str]) -> None:
        if self._tls is None:
            self._tls = await trio.to_thread.run_sync(_prepared, abandon_on_cancel=True)
        import httpx

        # neither proxies nor passwords from the daemon's environment; a redirect would lead the event elsewhere
        client = httpx.AsyncClient(
            verify=self._tls,
            timeout=None,  # noqa: S113 - the attempt as a whole has a limit
            trust_env=False,
            follow_redirects=False,
        )
        try:
            # of the answer nothing is read but its head: what a receiver says is of no use here, and may be endless
            async with (
                client,
                client.stream("POST", self._settings.webhook, content=body, headers=headers) as response,
            ):
                _check(response.status_code, response.headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            message = f"the receiver cannot be reached: {_reason(error)[:_REASON_LETTERS]}"
            raise EnvironmentFault("webhook-unreachable", message, retryable=True) from error


def _reason(error: BaseException) -> str:
    """The first words that the error or one of its causes has: those of connections often have none of their own."""
    speaking: BaseException | None = error
    while speaking is not None and not str(speaking):
        speaking = speaking.__cause__ or speaking.__context__
    return str(speaking) if speaking is not None else type(error).__name__


def _prepared() -> ssl.SSLContext:
    """The system's authorities; and httpx imported, which takes a while, too."""
    import httpx  # noqa: F401

    return ssl.create_default_context()


def _check(status: int, headers: Mapping[str, str]) -> None:
    if 200 <= status < 300:
        return
    if status == _GONE:
        raise RefusedError("the receiver answered 410: it wants no more of these", final=True)
    if 300 <= status < 400:
        raise RefusedError(f"the receiver answered {status}, and redirects are not followed")
    after = headers.get("retry-after", "")
    wait = float(after) if after.isascii() and after.isdecimal() and len(after) < 10 else 0.0
    raise RefusedError(f"the receiver answered {status}", wait_seconds=wait)
