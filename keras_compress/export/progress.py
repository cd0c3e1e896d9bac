"""One line on standard error, of a file that is being made."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator

from keras_compress.reports.shown import say
from keras_compress.tflite import Progress, silently


def _in_a_kernel() -> bool:
    """Whether this process is that of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


def _has_a_terminal() -> bool:
    """Whether standard error is one. Not what rich takes for one: notebooks and CI say FORCE_COLOR,
    and have no line to go back to.
    """
    with contextlib.suppress(AttributeError, ValueError):  # there is none, or it is closed
        return sys.stderr.isatty()
    return False


class Parts:
    """A `Progress` that hands on what it is told, and knows how long each part took.

    Attributes:
        seconds: what was being done -> how long, in the order in which it began.
    """

    def __init__(self, told: Progress):
        self.seconds: dict[str, float] = {}
        self._told = told
        self._now: str | None = None
        self._since = 0.0

    def __call__(self, what: str, count: int | None, total: int | None) -> None:
        if what != self._now:
            self.end()
            self._now = what
        self._told(what, count, total)

    def end(self) -> None:
        """Nothing is being done any more."""
        now = time.perf_counter()
        if self._now is not None:
            self.seconds[self._now] = self.seconds.get(self._now, 0.0) + now - self._since
        self._now, self._since = None, now

    def in_a_line(self) -> str:
        """All of it, and how much was what."""
        parts = [f"{what} {seconds:.1f}" for what, seconds in self.seconds.items()]
        return f"{sum(self.seconds.values()):.1f} s: {', '.join(parts)}"


@contextlib.contextmanager
def progress_line(path: str) -> Iterator[Progress]:
    """While inside, a terminal shows what is being done for the file at `path`; it is gone
    afterwards. A notebook gets one line that stays, a log none. A terminal that is gone costs the
    line and nothing else.
    """
    if _in_a_kernel():
        say(f"{path}: converting it, and comparing it with the network ...")
        yield silently
        return
    if not _has_a_terminal():
        yield silently
        return
    import rich.console
    import rich.progress

    columns = (
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    console = rich.console.Console(stderr=True, force_terminal=True, force_jupyter=False)
    progress = rich.progress.Progress(*columns, console=console, transient=True)
    name = os.path.basename(path)  # or a narrow terminal shows nothing else
    task = progress.add_task(f"{name}: converting", total=None)
    gone = contextlib.suppress(OSError, ValueError)

    def told(what: str, count: int | None, total: int | None) -> None:
        with gone:
            description = f"{name}: {what}"
            progress.update(
                task, description=description, completed=count or 0, total=total, refresh=True
            )

    with gone:
        progress.start()
    try:
        yield told
    finally:
        with gone:
            progress.stop()
