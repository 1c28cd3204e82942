"""What the tests of versions do with a daemon: drop and publish, list, pin, prune."""

from pathlib import Path

import numpy as np
import trio


def names(folder: Path) -> list[str]:
    """Everything in a directory."""
    return sorted(path.name for path in folder.iterdir())


async def until_names(folder: Path, *wanted: str) -> None:
    """Return once the directory holds just these."""
    while names(folder) != sorted(wanted):
        await trio.lowlevel.checkpoint()


async def publish(running, *steps: int, to: str = "runs", **arrays: np.ndarray) -> None:
    """Drop these steps one after the other, each once the one before is published."""
    for step in steps:
        status = await running.ask(running.client.get, "/v1/status")
        done = sum(status["jobs"].values())
        running.write(**(arrays or {"a": np.full(4, step, np.float32)})).rename(running.root / to / f"ckpt-{step}.npz")
        jobs = await running.ended(done + 1)
        assert jobs[-1]["state"] == "published", jobs[-1]


async def listed(running, model: str = "ranker") -> dict[int, dict]:
    """The versions as the socket shows them, by number."""
    answer = await running.ask(running.client.get, f"/v1/models/{model}/versions")
    assert [each["version"] for each in answer["versions"]] == sorted(
        (each["version"] for each in answer["versions"]), reverse=True
    )
    return {each["version"]: each for each in answer["versions"]}


async def prune(running, model: str = "ranker", **query: str) -> dict:
    """The answer to a prune."""
    return await running.ask(running.client.post, f"/v1/models/{model}/prune", **query)


async def pin(running, version: int, action: str = "pin", model: str = "ranker") -> dict:
    """The version once it is pinned or unpinned."""
    return await running.ask(running.client.post, f"/v1/models/{model}/{action}", {"version": version})


def owner_of(running) -> str:
    """What marks this daemon's hidden directories."""
    return (running.root / "state" / "owner").read_text()
