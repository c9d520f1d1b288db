"""What a run writes while it goes on, in a thread or at once, and what it hears of that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lumbre.engine.ends import checkpoint
from lumbre.errors import LumbreWarning, SaveError
from lumbre.files.writer import Writer
from lumbre.state.run_state import RunState
from lumbre.warn import warn


class Writing:
    """The files of a run.

    One that cannot be written is told of at once, and is tried again when the next of its owner is
    due; what was there before stays. The run goes on, and if it cannot be written in the end, the
    run ends with the error.

    Args:
        ctx: The run.
    """

    def __init__(self, ctx: RunState) -> None:
        self._ctx = ctx
        self._writer = Writer(ctx._call_attention)
        # By owner: the error, and how to try again, where that is still possible.
        self._failed: dict[int, tuple[BaseException, Callable[[], Any] | None]] = {}

    def put(
        self, owner: object, path: str, write: Callable[[], None], may_be_replaced: bool = False
    ) -> None:
        """Write a file in the thread; `Writer.put` says when."""
        self._writer.put(owner, path, write, may_be_replaced)

    def attempt(self, owner: object, path: str, write: Callable[[], Any]) -> bool:
        """Write at once; False when that is not possible."""
        try:
            write()
        except OSError as error:
            self.fail(owner, path, error, write)
            return False
        self._failed.pop(id(owner), None)
        return True

    def fail(
        self,
        owner: object,
        path: str,
        error: BaseException,
        write: Callable[[], Any] | None = None,
    ) -> None:
        """Tell that a file could not be written, and keep the error until one is.

        Raises:
            BaseException: the error, when it is none of the disk or of what is to be written.
        """
        if not isinstance(error, OSError | SaveError):
            raise error
        self._failed[id(owner)] = error, write
        warn(_FAILED.format(type(owner).__name__, path, error), LumbreWarning)

    def hear(self) -> None:
        """Hear what has become of the files; for each that is on the disk a breakpoint is fired."""
        for done in self._writer.done():
            if done.error is not None:
                self.fail(done.owner, done.path, done.error, done.write)
                continue
            self._failed.pop(id(done.owner), None)
            checkpoint(self._ctx, done.path)

    def join(self) -> None:
        """Wait until all is written, and hear of it."""
        self._writer.join()
        self.hear()

    def finish(self) -> None:
        """Wait until all is written, try once more what was not, and raise what cannot be.

        Raises:
            OSError: when a file could not be written, the last time that it was tried.
            SaveError: when there was something in it that no file can hold.
        """
        self.join()
        while self._failed:
            error, write = self._failed.pop(next(iter(self._failed)))
            if write is None:
                raise error
            write()

    def close(self) -> None:
        """Wait until all is written; nobody hears of it."""
        self._writer.close()


def writing_of(ctx: RunState) -> Writing:
    """Return what writes the files of a run, made when it is first asked for."""
    if ctx._writing is None:
        ctx._writing = Writing(ctx)
    writing: Writing = ctx._writing
    return writing


_FAILED = (
    "{} could not write {}: {}. What was there before is whole. The run goes on, and it is tried "
    "again when the next one is due."
)
