"""The `graph_rewriter` block of an Object Detection API's `pipeline.config`.

Of the whole file, whose other messages nobody here knows, the block alone is parsed, by protobuf's
own reader of its text format and as strictly as that is: a field that `graph_rewriter.proto` does
not have is an error, not left out.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from typing import Any

from keras_compress._shared.checks import type_error

OWNER = "Quantization.from_graph_rewriter"
BLOCK = "graph_rewriter"
_RULE = "the text of a pipeline.config, or the path of one"

# Of object_detection/protos/graph_rewriter.proto: name -> (number, type, default).
_FIELDS = {
    "delay": (1, "TYPE_INT32", "500000"),
    "weight_bits": (2, "TYPE_INT32", "8"),
    "activation_bits": (3, "TYPE_INT32", "8"),
    "symmetric": (4, "TYPE_BOOL", "false"),
}
_OPENING, _CLOSING = "{<[", "}>]"


def read_graph_rewriter(text_or_path: str | os.PathLike[str]) -> dict[str, Any]:
    """The four fields of the block's `quantization`, what it leaves out by its defaults.

    Raises:
        FileNotFoundError: there is no file at that path.
        ValueError: it is no protobuf text, has no such block, several, or one without quantization.
        TypeError: neither text nor a path.
    """
    text, named = _text(text_or_path)
    from google.protobuf import text_format

    try:
        blocks = list(_blocks(text))
        if len(blocks) != 1:
            raise ValueError(
                f"{OWNER}: `text_or_path` must have one `{BLOCK} {{ ... }}` block; in a file "
                f"without one nothing is quantized in training. Received: {len(blocks)} in {named}"
            )
        message = text_format.Parse(f"{BLOCK} {{ {blocks[0]} }}", _message_class()())
    except text_format.ParseError as error:
        raise ValueError(
            f"{OWNER}: `text_or_path` must be a pipeline.config in protobuf's text format, with "
            f"only {', '.join(_FIELDS)} in `{BLOCK} {{ quantization {{ ... }} }}`. "
            f"Received: {named} ({error})"
        ) from None
    block = message.graph_rewriter
    if not block.HasField("quantization"):
        raise ValueError(
            f"{OWNER}: `text_or_path` must have `quantization {{ ... }}` in its `{BLOCK}`; "
            f"without it nothing is quantized in training. Received: {named}"
        )
    return {name: getattr(block.quantization, name) for name in _FIELDS}


def _text(given: str | os.PathLike[str]) -> tuple[str, str]:
    """The text, and what to call it in an error."""
    if isinstance(given, str) and ("{" in given or "\n" in given):
        return given, f"a text of {len(given)} characters"
    if not isinstance(given, str | os.PathLike):
        raise type_error(OWNER, "text_or_path", given, _RULE)
    with open(given, encoding="utf-8", errors="replace") as file:
        return file.read(), repr(os.fspath(given))


def _blocks(text: str) -> Iterator[str]:
    """What stands between the braces of every `graph_rewriter` at the top of a text.

    By protobuf's own tokens, so that braces in strings and comments do not count.

    Raises:
        ParseError: a bracket that is not closed, or text that has no tokens.
    """
    from google.protobuf import text_format

    tokens = text_format.Tokenizer(text.splitlines())
    inside: list[str] | None = None
    open_brackets, name = 0, ""
    while not tokens.AtEnd():
        token = tokens.token
        if token in _CLOSING:
            open_brackets -= 1
            if open_brackets < 0:
                raise tokens.ParseError(f"{token!r} closes nothing")
            if open_brackets == 0 and inside is not None:
                yield " ".join(inside)
                inside = None
        if inside is not None:
            inside.append(token)
        if token in _OPENING:
            if open_brackets == 0 and name == BLOCK:
                inside = []
            open_brackets += 1
        elif token != ":":  # which may stand between a name and its block
            name = token if open_brackets == 0 else ""
        tokens.NextToken()
    if open_brackets:
        raise tokens.ParseError("a bracket is not closed")


@functools.cache
def _message_class() -> Any:
    """`message { optional GraphRewriter graph_rewriter }`, made without protobuf's compiler."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    package = "keras_compress"
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}/graph_rewriter.proto", package=package, syntax="proto2"
    )

    def message(name: str, field: str, kind: str) -> None:
        file.message_type.add(name=name).field.add(
            name=field,
            number=1,
            label=kinds.LABEL_OPTIONAL,
            type=kinds.TYPE_MESSAGE,
            type_name=f".{package}.{kind}",
        )

    message("Pipeline", BLOCK, "GraphRewriter")
    message("GraphRewriter", "quantization", "Quantization")
    quantization = file.message_type.add(name="Quantization")
    for name, (number, kind, default) in _FIELDS.items():
        quantization.field.add(
            name=name,
            number=number,
            label=kinds.LABEL_OPTIONAL,
            type=getattr(kinds, kind),
            default_value=default,
        )
    pool = descriptor_pool.DescriptorPool()  # of its own: names here meet nobody else's
    pool.Add(file)
    found = pool.FindMessageTypeByName(f"{package}.Pipeline")
    return message_factory.GetMessageClass(found)
