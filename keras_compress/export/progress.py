"""One line on standard error, of a file that is being made."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from keras_compress.tflite import Progress


@contextlib.contextmanager
def progress_line(path: str) -> Iterator[Progress | None]:
    """While inside, a terminal shows what is being done for the file at `path`; it is gone
    afterwards. Where standard error is no terminal there is none.
    """
    import rich.console
    import rich.progress

    console = rich.console.Console(stderr=True, force_jupyter=False)
    if not console.is_terminal:
        yield None
        return
    columns = (
        rich.progress.SpinnerColumn(),
        rich.progress.TextColumn("{task.description}", markup=False),
        rich.progress.BarColumn(),
        rich.progress.TimeElapsedColumn(),
    )
    with rich.progress.Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(f"{path}: converting", total=None)

        def told(what: str, count: int | None, total: int | None) -> None:
            description = f"{path}: {what}"
            progress.update(task, description=description, completed=count or 0, total=total)

        yield told
