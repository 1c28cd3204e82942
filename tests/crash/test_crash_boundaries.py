"""SIGKILL at every boundary, and at random under load: what was accepted is published once, and no number is ever half a model.

The long form is `make crash`; it prints how many daemons were killed, and where.
"""

import random
from collections import Counter

from crash_kit import Load, Mortal, Server, attach, check_owed, settled, values

NEVER = 1 << 30


def test_a_kill_at_every_boundary_of_drops_requests_and_handoffs(tmp_path, capsys, request):
    """The daemon dies at the first boundary, the next at its second, and so on, until one lives through all that is left.

    The short form leaves most of them out.
    """
    stride = request.config.getoption("--crash-stride")
    load = Load(tmp_path, random.Random(1))
    load.prepare()
    server = Server(tmp_path)
    died: Counter[str] = Counter()
    load.more(2)
    with attach(tmp_path / "handoff.sock") as sidecar:
        for dies_at in range(1, 2000, stride):
            daemon = Mortal(tmp_path, dies_at)
            daemon.running.wait()
            if daemon.alive and len(load.handles) < 2:
                _handed(load, sidecar, dies_at)
            owed = len(load.drops) + len(load.requests) + len(load.handles)
            if daemon.alive and _all_ended(tmp_path, owed):
                daemon.terminate()
                daemon.died()
                break
            died[daemon.died()] += 1
        last = Mortal(tmp_path, NEVER)
        last.running.wait()
        jobs = settled(tmp_path, jobs=2)
        for handle in load.handles:
            handle.result(60)
        last.terminate()
        assert last.died() == ""
    server.close()
    check_owed(load, jobs, server)
    with capsys.disabled():
        print(f"\n{sum(died.values())} daemons killed at {len(died)} kinds of boundary")


def test_kills_at_random_under_load(tmp_path, capsys, request):
    """Drops, requests and handoffs keep coming; each daemon dies somewhere, the last one pays what all of them owe."""
    rounds, seed = request.config.getoption("--crash-rounds"), request.config.getoption("--crash-seed")
    rng = random.Random(seed)
    load = Load(tmp_path, rng)
    load.prepare()
    server = Server(tmp_path)
    died: Counter[str] = Counter()
    with attach(tmp_path / "handoff.sock") as sidecar:
        for number in range(rounds):
            load.more(rng.randint(0, 3))
            daemon = Mortal(tmp_path, rng.randint(1, 150))
            daemon.running.wait()
            if daemon.alive:
                _handed(load, sidecar, number + 1)
            # it may have less to do than it takes to die: then it is ended, so that the next has work
            if not daemon.wait(2.0):
                daemon.terminate()
            died[daemon.died() or "ended in peace"] += 1
        last = Mortal(tmp_path, NEVER)
        last.running.wait()
        jobs = settled(tmp_path, jobs=len(load.drops) + len(load.requests))
        for handle in load.handles:
            handle.result(60)
        jobs = settled(tmp_path, jobs=len(jobs))
        last.terminate()
        assert last.died() == ""
    server.close()
    check_owed(load, jobs, server)
    with capsys.disabled():
        print(f"\n{rounds} daemons (seed {seed}), {len(server.loaded)} versions loaded as they appeared")
        for where, count in died.most_common():
            print(f"  {count:4} {where}")


def _handed(load: Load, sidecar, step: int) -> None:
    handle = sidecar.save(step, values(step), model="handed")
    if handle.staged(0):
        load.handles.append(handle)


def _all_ended(root, owed: int) -> bool:
    """Whether a daemon lived until everything was done; a stream that ends says that it did not."""
    try:
        settled(root, jobs=owed)
    except Exception:  # noqa: BLE001 - it died while it was asked
        return False
    return True
