"""When a job that met a fault of the environment is tried again. Pure.

There is no last attempt: a full disk ends when somebody has made room, be it next week.
"""

import random

FIRST_SECONDS = 1.0
LONGEST_SECONDS = 300.0
# Jobs that met the same fault at the same time must not all come back at the same time.
JITTER = 0.2


def delay(attempt: int, rng: random.Random) -> float:
    """Seconds to wait after the `attempt`-th attempt (from 1): 1 s, doubling up to 5 min, less up to a fifth by chance."""
    doublings = min(max(attempt, 1) - 1, 30)
    return min(FIRST_SECONDS * float(1 << doublings), LONGEST_SECONDS) * (1.0 - JITTER * rng.random())
