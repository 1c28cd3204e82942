"""A notifier in a configuration, and what the status says of it."""

import json

import trio


def notify(**settings: object) -> str:
    """Lines of a configuration with one more notifier, called "n" unless it says otherwise."""
    keys = {"name": "n", **settings}
    return "[[notify]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


def shell(script: str, **settings: object) -> str:
    """A notifier that is a shell script."""
    return notify(command=["/bin/sh", "-c", script], **settings)


async def told(running, check) -> dict:
    """The state of the one notifier, once `check` holds of it."""
    while True:
        (notifier,) = (await running.ask(running.client.get, "/v1/status"))["notifiers"]
        if check(notifier):
            return notifier
        await trio.lowlevel.checkpoint()
