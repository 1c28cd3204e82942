"""The journal against a model of it in plain dictionaries, by any order of calls, restarts and crashes."""

import shutil
from collections import Counter

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from jobs_kit import new_job

from smdaemon.jobs.journal import Journal
from smdaemon.jobs.states import ACTIVE, TERMINAL, TRANSITIONS, Event, ImpossibleMoveError, State


class JournalMachine(RuleBasedStateMachine):
    """`histories` has the states of each job, in order: all that the journal is asked for follows from it."""

    def __init__(self, directory):
        super().__init__()
        self.directory = directory
        self.runs = 0
        self.path = directory / "0" / "journal.sqlite"
        self.path.parent.mkdir(parents=True)
        self.journal = Journal(self.path)
        self.drops = {}
        self.histories = {}
        self.now = 0.0
        self.seq = 0

    def tick(self):
        """A later time."""
        self.now += 1.0
        return self.now

    @rule(model=st.sampled_from("ab"), step=st.integers(0, 8))
    def accept(self, model, step):
        """A drop is accepted if and only if it never was."""
        moves = self.journal.accept(new_job(model, step), self.tick())
        if (model, step) in self.drops:
            assert moves == []
            return
        job = moves[-1].job
        self.drops[model, step] = job.id
        self.histories[job.id] = [State.DETECTED, State.QUEUED]
        assert [move.seq for move in moves] == [self.seq + 1, self.seq + 2]
        self.seq += 2

    @precondition(lambda self: self.histories)
    @rule(data=st.data(), event=st.sampled_from(Event))
    def move(self, data, event):
        """A move does what the table says, or nothing."""
        job_id = data.draw(st.sampled_from(sorted(self.histories)))
        before = self.histories[job_id][-1]
        try:
            move = self.journal.move(job_id, event, self.tick(), reason=event)
        except ImpossibleMoveError:
            assert (before, event) not in TRANSITIONS
            return
        self.seq += 1
        assert (move.seq, move.before, move.job.state) == (self.seq, before, TRANSITIONS[before, event])
        self.histories[job_id].append(move.job.state)

    @rule()
    def restart(self):
        """Closed and opened again."""
        self.journal.close()
        self.journal = Journal(self.path)

    @rule()
    def crash(self):
        """Another daemon finds the files as they lie at this moment."""
        self.runs += 1
        target = self.directory / str(self.runs)
        shutil.copytree(self.path.parent, target)
        self.journal.close()
        self.path = target / self.path.name
        self.journal = Journal(self.path)

    @rule()
    def resume(self):
        """What was active is queued again, oldest first."""
        active = [job_id for job_id, states in sorted(self.histories.items()) if states[-1] in ACTIVE]
        assert [move.job.id for move in self.journal.resume(self.tick())] == active
        for job_id in active:
            self.histories[job_id].append(State.QUEUED)
        self.seq += len(active)

    @rule(keep=st.integers(0, 2))
    def prune(self, keep):
        """Only ended jobs go, and they are not accepted again."""
        count = self.journal.prune(self.tick(), keep)
        left = {job.id for job in self.journal.page(limit=1000)}
        gone = set(self.histories) - left
        assert len(gone) == count
        assert all(self.histories.pop(job_id)[-1] in TERMINAL for job_id in gone)

    @invariant()
    def rows_and_histories_agree(self):
        """Row, history, counts, open jobs and the event stream say the same."""
        states = {job_id: history[-1] for job_id, history in self.histories.items()}
        jobs = {job.id: job for job in self.journal.page(limit=1000)}
        assert {job_id: job.state for job_id, job in jobs.items()} == states
        for job_id, history in self.histories.items():
            assert [item.state for item in self.journal.history(job_id)] == history
        assert self.journal.counts() == Counter((job.model, job.state) for job in jobs.values())
        assert [job.id for job in self.journal.open_jobs()] == sorted(
            job_id for job_id, state in states.items() if state not in TERMINAL
        )
        moves = self.journal.moves_after(0, 10_000)
        assert [move.seq for move in moves] == sorted({move.seq for move in moves})
        assert Counter(move.job.id for move in moves) == {job_id: len(h) for job_id, h in self.histories.items()}
        assert self.journal.last_seq() == self.seq

    def teardown(self):
        """Each run leaves no open file."""
        self.journal.close()


def test_the_journal_behaves_like_its_model(tmp_path):
    """Whatever is called in whatever order, with crashes between, the journal agrees with plain dictionaries."""
    machines = iter(range(1_000_000))
    run_state_machine_as_test(
        lambda: JournalMachine(tmp_path / str(next(machines))),
        settings=settings(
            deadline=None, max_examples=15, stateful_step_count=25, suppress_health_check=list(HealthCheck)
        ),
    )
