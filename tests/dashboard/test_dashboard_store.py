"""What the page takes in of a stream of events, by its own store in a real Chromium."""

import json

import pytest

# A store that is told these texts of the stream, and has read nothing.
_FOLLOW = """
const [stream, done] = arguments;
const real = window.fetch;
window.fetch = async () => new Response(stream);
import("/page/store.js").then(async ({ Store }) => {
  const store = new Store(() => {});
  store._read = async () => {};
  await store._follow(new AbortController());
  window.fetch = real;
  done([...store.jobs.values()].map((job) => job.state));
});
"""


@pytest.fixture
def followed(serving, page):
    """The states of the jobs that a store knows after these events, each a type, a state and the second of its time."""
    serving.configure()
    serving.start()
    page.open().until_live()

    def follow(*events):
        jobs = (
            (kind, {"id": 1, "model": "ranker", "state": state, "updated_at": f"2026-01-01T00:00:{second:02}Z"})
            for kind, state, second in events
        )
        texts = (f"event: {kind}\ndata: {json.dumps({'job': job})}\n\n" for kind, job in jobs)
        return page.driver.execute_async_script(_FOLLOW, "".join(texts))

    return follow


def test_a_move_is_the_newest_whatever_the_clock_says(followed):
    """It may have been set back since the move before."""
    assert followed(("job", "writing", 30), ("job", "published", 5)) == ["published"]


def test_progress_does_not_undo_a_move(followed):
    """How far a job has come may be told a moment after it has ended."""
    assert followed(("job", "published", 30), ("progress", "writing", 29)) == ["published"]
