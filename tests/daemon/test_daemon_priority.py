"""Priorities by the real daemon: as configured, and as a reload says."""

import json
import os

import numpy as np
import trio


def model(name: str, more: str = "") -> str:
    """The table of one more model, with directories of its own."""
    return (
        f'\n[[model]]\nname = "{name}"\nwatch = "{name}-runs"\npublish = "{name}-models"\nquiet_seconds = 0.05\n{more}'
    )


async def test_the_drops_of_a_higher_priority_go_first(started, tmp_path):
    """With one worker that was busy meanwhile: the higher before the lower, whoever dropped first, and a reload changes that."""
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "go")
    words = ["/bin/sh", "-c", f"echo > {tmp_path}/begun; cat {tmp_path}/go"]
    for name in ("low", "high"):
        (tmp_path / f"{name}-runs").mkdir()
    models = f"validator = {json.dumps(words)}" + model("low") + model("high", "priority = 5\n")
    async with started(daemon="workers = 1", model=models) as running:
        # turns 2 to 5, of which the fourth is a fair one; then, after the reload, 7 to 10 with the eighth
        for number, order in ((1, ["high", "high", "low", "low"]), (3, ["low", "high", "low", "high"])):
            running.drop(f"ckpt-{number}.npz")
            await trio.to_thread.run_sync((tmp_path / "begun").read_text)
            for name in ("low", "high"):
                for step in (number, number + 1):
                    running.write(a=np.full(3, step)).rename(tmp_path / f"{name}-runs" / f"ckpt-{step}.npz")
            while (await running.ask(running.client.get, "/v1/status"))["jobs"].get("queued") != 4:
                await trio.lowlevel.checkpoint()
            await trio.to_thread.run_sync((tmp_path / "go").write_text, "go")
            ended = 5 * ((number + 1) // 2)
            assert [job["model"] for job in (await running.ended(ended))[-5:]] == ["ranker", *order]
            config = tmp_path / "config.toml"
            config.write_text(config.read_text().replace("priority = 5", "priority = -5"))
            await running.daemon.reload()
