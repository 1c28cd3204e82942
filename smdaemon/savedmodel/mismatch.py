"""An error that lists everything that does not fit at once: one run tells all that must be mended."""

from collections.abc import Iterable

from smdaemon.errors import DropError

_LISTED_IN_MESSAGE = 3
_PROBLEM_LETTERS = 500
_REMEDY_LETTERS = 32_768


class Mismatch(DropError):  # noqa: N818 - as EnvironmentFault: named for what happened
    """Tensors, graphs or both do not fit together; `problems` are all the reasons, a clause each.

    The message has the first few, the remedy as many as a person may want to read.
    """

    def __init__(self, code: str, what: str, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        listed = "; ".join(_shortened(problem) for problem in self.problems[:_LISTED_IN_MESSAGE])
        more = len(self.problems) - _LISTED_IN_MESSAGE
        super().__init__(code, f"{what}: {listed}" + (f"; and {more} more" if more > 0 else ""))
        if more > 0:
            self.remedy = f"{self.remedy}; all that does not fit: {'; '.join(self.problems)[:_REMEDY_LETTERS]}"


def _shortened(problem: str) -> str:
    return problem if len(problem) <= _PROBLEM_LETTERS else f"{problem[:_PROBLEM_LETTERS]}..."
