"""What all commands have in common."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

import rich.text
import rich_click as click

from keras_compress.reports.shown import Shown, Table


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command found: `shown` to people, `values` for `--json`."""

    values: dict[str, Any]
    shown: Shown | Table


class Command(click.RichCommand):
    """A command with `--json` and `--debug`, and examples at the end of its help, as they are.

    `words` says what this command calls the arguments of Python's that its own options do not name:
    argument -> word. `reading` is given what stands behind the command, and gives what is meant.
    """

    def __init__(
        self,
        *args: Any,
        examples: str = "",
        words: Mapping[str, str] | None = None,
        reading: Callable[[list[str]], list[str]] = list,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._reading = reading
        self._examples = textwrap.dedent(examples).strip()
        own = {each.name: each.opts[0] for each in self.params if isinstance(each, click.Option)}
        self.words = {**own, **(words or {})}
        # `main` looks for both; here they stand to be known and explained.
        for name, text in (
            ("--json", "Print one JSON object, an error too, and nothing else."),
            ("--debug", "Show tracebacks, and all that the libraries print."),
        ):
            self.params.append(click.Option([name], is_flag=True, expose_value=False, help=text))

    def parse_args(self, ctx: click.RichContext, args: list[str]) -> list[str]:  # type: ignore[override]
        return super().parse_args(ctx, self._reading(args))

    # Any of rich-click's own ways would fill the lines of an epilog into a paragraph.
    def format_epilog(self, ctx: click.RichContext, formatter: click.RichHelpFormatter) -> None:  # type: ignore[override]
        if self._examples:
            formatter.write(rich.text.Text("Examples:", style="bold"))
            # No line is broken: they are there to be copied.
            examples = textwrap.indent(self._examples, "  ")
            formatter.write(rich.text.Text(examples, no_wrap=True, overflow="ignore"))


class Group(click.RichGroup):
    command_class = Command


FILE = click.Path(dir_okay=False)
"""A file, which a shell can complete. Whether it is there the command says itself."""
