"""Packages that come with an extra of this one."""

from __future__ import annotations

import importlib


def require(owner: str, extra: str, *modules: str) -> None:
    """Import what an extra brings, or say how to get it.

    Raises:
        ImportError: one of `modules` is not installed.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in modules:
                raise  # something else is broken
            raise ImportError(
                f"{owner}: `{error.name}` is needed; install it with "
                f"`pip install 'keras_compress[{extra}]'`.",
                name=error.name,
            ) from error
