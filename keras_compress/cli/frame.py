"""What all commands have in common."""

from __future__ import annotations

import dataclasses
import textwrap
from typing import Any

import click


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command found: `text` for people, `values` for `--json`."""

    values: dict[str, Any]
    text: str


class Command(click.Command):
    """A command with `--json` and `--debug`, and examples at the end of its help, as they are."""

    def __init__(self, *args: Any, examples: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._examples = examples
        # `main` looks for both; here they stand to be known and explained.
        for name, text in (
            ("--json", "Print one JSON object, an error too, and nothing else."),
            ("--debug", "Show tracebacks, and all that the libraries print."),
        ):
            self.params.append(click.Option([name], is_flag=True, expose_value=False, help=text))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self._examples:
            with formatter.section("Examples"):
                for line in textwrap.dedent(self._examples).strip().splitlines():
                    formatter.write(f"  {line}\n")


class Group(click.Group):
    command_class = Command
