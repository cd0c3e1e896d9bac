"""The fenced blocks of a page of the documentation."""

import dataclasses
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"

_FENCE = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]*) -->\n)?"
    r"^```(?P<language>\S*)(?: title=\"(?P<title>.*?)\")?\n(?P<source>.*?)^```$",
    flags=re.DOTALL | re.MULTILINE,
)


@dataclasses.dataclass(frozen=True)
class Block:
    language: str
    title: str | None
    """The name of the file that it is."""
    source: str
    not_run: str | None
    """Why it is not run; None if it is."""


def blocks(text):
    """All of them, in their order."""
    return [
        Block(found["language"], found["title"], found["source"], found["reason"])
        for found in _FENCE.finditer(text)
    ]


def as_keras(source, keras):
    """A script of Keras 3 as one of that package; tf_keras has no `double_checkpoint`."""
    if keras.__name__ == "tf_keras":
        source = source.replace(", double_checkpoint=True", "")
        return re.sub(r"^import keras$", "import tf_keras as keras", source, flags=re.MULTILINE)
    return source


def links(path):
    """(text of a link to a file, the path that it leads to) of every one on a page."""
    found = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text())
    return [(link, path.parent / link) for link in found]
