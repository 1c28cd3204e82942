"""Every parser on broken input: a result or one of our errors, in little time and memory. `make fuzz` goes on for long.

What once went wrong lies in corpus/PARSER-*.bin and is tried first. A new finding is written there, to be committed with its mend.
"""

import hashlib
import random
import resource
import time
from pathlib import Path

import pytest
from fuzz_kit import PARSERS, broken

from smdaemon.errors import CODES, SmdaemonError

CORPUS = Path(__file__).with_name("corpus")
LONGEST_SECONDS = 5.0
MOST_BYTES = 512 << 20


@pytest.mark.parametrize("name", PARSERS)
def test_broken_input_gives_a_result_or_one_of_our_errors(name, tmp_path, request, capsys):
    """Nothing else is raised; no input takes seconds, or memory that it does not have itself."""
    parser, slug = PARSERS[name], name.replace(" ", "_")
    seeds = parser.seeds(tmp_path)
    for seed in seeds:
        parser.parse(seed, tmp_path)  # sound input is read, or nothing was tested
    examples, seed_number = request.config.getoption("--fuzz-examples"), request.config.getoption("--fuzz-seed")
    rng = random.Random(f"{seed_number} {name}")
    refused: set[str] = set()
    tried = [path.read_bytes() for path in sorted(CORPUS.glob(f"{slug}-*.bin"))]
    tried_before = len(tried)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(tried_before + examples):
        content = tried[number] if number < tried_before else broken(rng, seeds)
        began = time.monotonic()
        try:
            parser.parse(content, tmp_path)
        except SmdaemonError as error:
            refused.add(error.code)
        except BaseException:
            _keep(slug, content)
            raise
        if time.monotonic() - began > LONGEST_SECONDS:
            _keep(slug, content)
            pytest.fail(f"{name}: {len(content)} bytes took {time.monotonic() - began:.1f} s")
        if (now := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) - peak > MOST_BYTES >> 10:
            _keep(slug, content)
            pytest.fail(f"{name}: {len(content)} bytes took {(now - peak) >> 10} MiB")
    assert refused <= CODES.keys()
    assert refused, "nothing was refused: nothing was broken"
    if examples > 1000:
        with capsys.disabled():
            print(f"\n{name}: {examples} inputs, refused with {', '.join(sorted(refused))}")


def _keep(slug: str, content: bytes) -> None:
    CORPUS.mkdir(exist_ok=True)
    (CORPUS / f"{slug}-{hashlib.sha256(content).hexdigest()[:12]}.bin").write_bytes(content)
