"""What a fit prints, as Keras' own callbacks do; the logger is for programs."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Protocol

from keras_compress.export.progress import Parts, progress_line
from keras_compress.frameworks.adapter import Adapter
from keras_compress.reports.fit import Report
from keras_compress.reports.shown import say
from keras_compress.specs.export import Export
from keras_compress.tflite import Progress, silently

logger = logging.getLogger("keras_compress")


class Speaker(Protocol):
    """Who wants to be heard: a `Compress`."""

    verbose: int
    shows_progress: bool
    """Whether the line of a file that is made is wanted, though nothing is to be printed."""


class Voice:
    """Of one fit: it prints where somebody wants it (`verbose`), and never into Keras' bar."""

    def __init__(self, adapter: Adapter, members: Sequence[Speaker]):
        self._adapter = adapter
        self._members = members
        self._waiting: list[tuple[int, str]] = []

    @property
    def verbose(self) -> int:
        """As much as any of the callbacks wants."""
        return max((member.verbose for member in self._members), default=0)

    def say(self, text: str) -> None:
        """Now: where no bar is in the middle of its line."""
        if self.verbose and self._adapter.prints:
            say(text)

    def later(self, update: int, text: str) -> None:
        """What happened at an update: when the epoch is through, and its bar with it."""
        self._waiting.append((update, text))

    def flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for update, text in sorted(waiting):
            self.say(f"Update {update:,}: {text}")

    @contextlib.contextmanager
    def progress(self, export: Export | None) -> Iterator[Progress]:
        """While a file is made and checked, which may take its time after the last epoch: how much
        of it was what, is told afterwards where everything is wanted, and logged.
        """
        wanted = self.verbose or any(member.shows_progress for member in self._members)
        if export is None or not wanted or not self._adapter.prints:
            line: contextlib.AbstractContextManager[Progress] = contextlib.nullcontext(silently)
        else:
            line = progress_line(export.path)
        with line as told:
            parts = Parts(told)
            yield parts
            parts.end()
        if export is not None and parts.seconds and self.verbose:
            text = f"{export.path} took {parts.in_a_line()}."
            logger.info("%s", text)
            if self.verbose > 1:
                self.say(text)

    def conclude(self, member: Speaker, report: Report) -> None:
        """What became of the file."""
        if not member.verbose or report.export is None:
            return
        # Why there is none was logged, and where nobody handles that, Python has printed it.
        if report.export.written or logger.hasHandlers():
            self.say(report.export.in_a_line())
