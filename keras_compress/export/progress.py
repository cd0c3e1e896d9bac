"""One line on standard error, of a file that is being made."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from keras_compress.reports.shown import printable
from keras_compress.tflite import Progress


def _in_a_kernel() -> bool:
    """Whether this process is that of a notebook."""
    ipython = sys.modules.get("IPython")
    return ipython is not None and hasattr(ipython.get_ipython(), "kernel")


@contextlib.contextmanager
def progress_line(path: str) -> Iterator[Progress | None]:
    """While inside, a terminal shows what is being done for the file at `path`; it is gone
    afterwards. A notebook gets one line that stays, a log none.
    """
    import rich.console
    import rich.progress

    if _in_a_kernel():
        print(printable(f"{path}: converting it, and comparing it with the network ..."))
        yield None
        return
    # Not what rich takes for one: notebooks and CI say FORCE_COLOR, and have no line to go back to.
    if not sys.stderr.isatty():
        yield None
        return
    console = rich.console.Console(stderr=True, force_terminal=True, force_jupyter=False)
    columns = (
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as progress:
        name = os.path.basename(path)  # or a narrow terminal shows nothing else
        task = progress.add_task(f"{name}: converting", total=None)

        def told(what: str, count: int | None, total: int | None) -> None:
            description = f"{name}: {what}"
            progress.update(
                task, description=description, completed=count or 0, total=total, refresh=True
            )

        yield told
