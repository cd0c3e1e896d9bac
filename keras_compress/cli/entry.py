"""One command from the shell: what it prints, where, and its exit code."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence

import click

from keras_compress.cli.commands import commands
from keras_compress.cli.frame import Answer

OK, FAILED, BAD_INPUT = 0, 1, 2
_OF_THE_INPUT = (ValueError, TypeError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0 done, 1 the work failed, 2 bad usage or input.

    On standard output stands what was found and nothing else, with `--json` as one object, errors
    too; on standard error what goes on, and an error in a line.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    as_json, debug = "--json" in arguments, "--debug" in arguments
    try:
        with contextlib.nullcontext() if debug else _quiet():
            # Of `--help` and `--version`, which print by themselves, this is the exit code.
            answer = commands.main(arguments, "keras-compress", standalone_mode=False)
        if isinstance(answer, Answer):
            _print(json.dumps(answer.values, allow_nan=False) if as_json else answer.text)
        return OK
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, click.exceptions.NoArgsIsHelpError):
            print(error.format_message(), file=sys.stderr)
            return BAD_INPUT
        code, message = _explained(error)
        if as_json:
            about = {"type": type(error).__name__, "message": message, "exit_code": code}
            _print(json.dumps({"error": about}))
        print(f"keras-compress: {message}", file=sys.stderr)
        return code


def _explained(error: BaseException) -> tuple[int, str]:
    """The exit code of an error, and one line about it."""
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return FAILED, "interrupted"
    if isinstance(error, click.UsageError):
        command = f"{error.ctx.command_path} --help" if error.ctx else "keras-compress --help"
        return BAD_INPUT, f"{_line(error.format_message())} See `{command}`."
    if isinstance(error, _OF_THE_INPUT):
        return BAD_INPUT, _line(str(error))
    if isinstance(error, OSError | ImportError) or type(error).__name__ == "ConversionError":
        return FAILED, _line(str(error))
    return FAILED, _line(f"{type(error).__name__}: {error} (`--debug` shows where)")


def _line(message: str) -> str:
    return " ".join(click.unstyle(message).split())


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever reads has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While inside, standard error is ours: what the native parts of TensorFlow and LiteRT print
    there, below Python, is dropped.
    """
    for name in ("absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with open(kept, "w", buffering=1, closefd=False) as ours, contextlib.redirect_stderr(ours):
        try:
            os.dup2(nowhere, 2)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
