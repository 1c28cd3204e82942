"""What lies at the source of an export when it is accepted: where its path leads, which content is there, and how new that is."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from smdaemon.confinement import confined, status_of, unlinked
from smdaemon.errors import DropError, EnvironmentFault, SmdaemonError
from smdaemon.paths import absolute
from smdaemon.settings import ModelSettings
from smdaemon.sources.base import Identity
from smdaemon.sources.checkpoint_state import checkpoint_prefix, is_checkpoint
from smdaemon.sources.files import source_fault
from smdaemon.sources.formats import identity_of, open_source
from smdaemon.sources.step import step_of
from smdaemon.tensorbundle.files import index_path


@dataclass(frozen=True)
class SourceLook:
    """What one look has found."""

    source: Path
    # as `sources.formats.identity_of` tells it; empty where a problem kept it from being told
    content: str
    # how new the source is among its model's: its step where the model's versions are steps, else its time
    order: float
    # None too where the model's versions are no steps
    step: int | None
    problem: SmdaemonError | None = None


def root_of(model: ModelSettings) -> Path | None:
    """What the model's drops are confined to; None where links in it are followed."""
    return None if model.follow_links else Path(model.watch)


def within(path: Path, model: ModelSettings) -> Path:
    """What a path beneath the watched directory leads to; DropError `source-outside` where that is elsewhere and links are not followed."""
    root = Path(model.watch)
    if not model.follow_links:
        return unlinked(path, root)
    whole = Path(absolute(path))
    if not whole.is_relative_to(absolute(root)):
        raise DropError("source-outside", f"{str(path)!r} lies outside {str(root)!r}")
    return whole


def look_at_drop(path: Path, format_name: str, model: ModelSettings) -> SourceLook:
    """Look at what the watch found. Raises EnvironmentFault where it cannot be told for the moment."""
    try:
        source, problem = within(path, model), None
    except DropError as error:
        source, problem = path, error
    found = look_at_source(source, format_name, model, problem)
    if found.problem is not None and found.problem.retryable:
        raise found.problem
    return found


def look_at_source(
    source: Path, format_name: str, model: ModelSettings, problem: SmdaemonError | None = None
) -> SourceLook:
    """Look at a source, where `problem` is none yet. What the content meets becomes the problem.

    Raises EnvironmentFault where only a look into the source could tell its step, and that is to be tried again: without a step the
    export would fail for good.
    """
    content = ""
    if problem is None:
        try:
            content = _content_of(source, format_name, model)
        except SmdaemonError as error:
            problem = error
    # after the content: a step that is found now is that of this content, or the export will find another
    order, step = _order_of(source, format_name, model)
    return SourceLook(source, content, order, step, problem)


def _content_of(source: Path, format_name: str, model: ModelSettings) -> str:
    """Which content lies at a source. DropError where there is none, EnvironmentFault where that cannot be told."""
    with confined(root_of(model)):
        try:
            return str(identity_of(source, format_name))
        except DropError as error:
            if error.code != "source-unknown-format":
                raise
        try:
            return str(Identity.of(status_of(source)))  # the export will say what is wrong with it
        except OSError as error:
            raise source_fault(error, source) from error


def _order_of(source: Path, format_name: str, model: ModelSettings) -> tuple[float, int | None]:
    """How new a source is, and its step. A source that cannot be opened is given its time: the export will say what is wrong with it."""
    step = None
    with suppress(SmdaemonError, OSError), confined(root_of(model)):
        source = _main_file(source)
    if model.version == "step":
        step = step_of(source, {}, Path(model.watch))
        if step is None:
            step = _step_inside(source, format_name, model)
    if step is not None:
        return float(step), step
    try:
        return source.stat().st_mtime, None
    except OSError:
        return 0.0, None


def _main_file(source: Path) -> Path:
    """The file whose name and stamps speak for a source: of a checkpoint its index, however the checkpoint is named."""
    return index_path(checkpoint_prefix(source)) if is_checkpoint(source) else source


def _step_inside(source: Path, format_name: str, model: ModelSettings) -> int | None:
    """The step that the metadata of a source tells; None too where it is unsound. EnvironmentFault that is to be tried again."""
    try:
        with confined(root_of(model)), open_source(source, format_name) as opened:
            return step_of(source, opened.metadata, Path(model.watch))
    except EnvironmentFault as error:
        if error.retryable:
            raise
    except (SmdaemonError, OSError):
        pass
    return None
