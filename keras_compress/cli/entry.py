"""One command from the shell: what it prints, where, and its exit code."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import logging
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence

import click
import rich.console

from keras_compress.cli.commands import commands
from keras_compress.cli.frame import Answer, Command
from keras_compress.reports.shown import Shown, Table

OK, FAILED, BAD_INPUT = 0, 1, 2
_OF_THE_INPUT = (ValueError, TypeError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code: 0 done, 1 the work failed, 2 bad usage or input.

    On standard output stands what was found and nothing else, with `--json` as one object, errors
    too; on standard error what goes on, and an error in a line.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments:  # bad usage, so that its help is no answer
        with contextlib.redirect_stdout(sys.stderr):
            commands.main(["--help"], "keras-compress", standalone_mode=False)
        return BAD_INPUT
    as_json, debug = "--json" in arguments, "--debug" in arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What it cannot write is written as an escape: better than to fail when all is done.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with contextlib.nullcontext() if debug else _quiet():
            # Of `--help` and `--version`, which print by themselves, this is the exit code.
            answer = commands.main(arguments, "keras-compress", standalone_mode=False)
        if isinstance(answer, Answer):
            _show(json.dumps(answer.values, allow_nan=False) if as_json else answer.shown)
        return OK
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exc()
        code, message = _explained(error, commands.commands.get(arguments[0]))
        if as_json:
            about = {"type": type(error).__name__, "message": message, "exit_code": code}
            _show(json.dumps({"error": about}))
        print(f"keras-compress: {message}", file=sys.stderr)
        return code


def _explained(error: BaseException, command: click.Command | None) -> tuple[int, str]:
    """The exit code of an error, and one line about it in the words of its command."""
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return FAILED, "interrupted"
    if isinstance(error, click.UsageError):
        path = error.ctx.command_path if error.ctx else "keras-compress"
        return BAD_INPUT, f"{_line(error.format_message())} See `{path} --help`."
    words = command.words if isinstance(command, Command) else {}
    if isinstance(error, _OF_THE_INPUT):
        return BAD_INPUT, _in_words(_line(str(error)), words)
    if isinstance(error, OSError | ImportError) or type(error).__name__ == "ConversionError":
        return FAILED, _in_words(_line(str(error)), words)
    return FAILED, _line(f"{type(error).__name__}: {error} (`--debug` shows where)")


def _in_words(message: str, words: Mapping[str, str]) -> str:
    """A message of the package, which names arguments, with the options in their place."""
    for name, word in words.items():
        if name.endswith("={}"):  # an argument's own form, which is another option
            given = rf"`{name.removesuffix('={}')}=\{{[^`]*\}}`"
            if re.search(given, message):
                message = re.sub(r"^\w+(\.\w+)*: ", "", re.sub(given, word, message))
            continue
        one = rf"{name}(\[[^\]`]*\])?"  # one of several, as of an input by its name
        if re.search(f"`{one}(=[^`]*)?`", message):
            message = re.sub(r"^\w+(\.\w+)*: ", "", message)
            message = re.sub(f"`{one}(=[^`]*)?`", functools.partial(_word, word), message)
            message = re.sub(f"{one}=", functools.partial(_word, f"{word} "), message)
    return message


def _word(word: str, found: re.Match[str]) -> str:
    """The option in the place of an argument, as `inputs` or `inputs={name: shape}`."""
    if not found[1]:
        return word
    own = f"{word.rstrip()} of {found[1][1:-1]}"
    return own + " " * word.endswith(" ")


def _line(message: str) -> str:
    return " ".join(click.unstyle(message).split())


def _show(what: str | Shown | Table) -> None:
    """On standard output: coloured and as wide as it is, if that is a terminal."""
    console = rich.console.Console()
    try:
        if console.is_terminal and not isinstance(what, str):
            console.print(what)
        else:
            print(what, flush=True)
    except BrokenPipeError:  # whoever reads has enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """While inside, standard error is ours: what the native parts of TensorFlow and LiteRT print
    there, below Python, is dropped.
    """
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
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
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            os.dup2(kept, 2)
            os.close(kept)
            os.close(nowhere)
