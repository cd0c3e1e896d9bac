"""A `.tflite` file as C: an array to link into a program that has no file system."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from keras_compress._shared.checks import check_path
from keras_compress._shared.files import write_atomically
from keras_compress.tflite.litert.model import TensorInfo, TFLiteModel

_BYTES_PER_LINE = 12


def write_c_array(tflite_path: str | os.PathLike[str], data: bytes) -> tuple[str, str]:
    """Writes a `.h` and a `.cc` beside a `.tflite` file; returns their paths.

    For `net.tflite` the header declares `net_tflite` (the bytes, aligned to 16 as TFLite Micro asks
    for) and `net_tflite_len`, and defines for each input and output the macros
    `NET_TFLITE_INPUT_X_SCALE` and `..._ZERO_POINT`, where it is quantized: real = SCALE * (q -
    ZERO_POINT). The header is for C and C++, the `.cc` for C++11 or later. What is no letter, digit
    or underscore in a name becomes an underscore; where two names then are the same, the position
    of the later one is put behind it.

    Args:
        data: the file, which LiteRT loads here.

    Raises:
        ValueError: the path does not end in `.tflite`, or these bytes are no model.
        OSError: the folder is missing, not writable or full. Either file is whole or as it was.
    """
    path = check_path("write_c_array", "tflite_path", tflite_path, ".tflite")
    base = path.removesuffix(".tflite")
    name = _identifier(os.path.basename(path))
    origin = f"{_comment(os.path.basename(path))}, sha256 {hashlib.sha256(data).hexdigest()}"
    header, source = _header(name, origin, TFLiteModel(data)), _source(name, origin, base, data)
    paths = (f"{base}.h", f"{base}.cc")
    for target, text in zip(paths, (header, source), strict=True):
        write_atomically(target, text.encode())
    return paths


def _header(name: str, origin: str, model: TFLiteModel) -> str:
    guard = f"{name.upper()}_H_"
    macros = [
        line
        for end, infos in (("INPUT", model.inputs), ("OUTPUT", model.outputs))
        for line in _macros(f"{name}_{end}".upper(), infos)
    ]
    lines = [
        f"// {origin}",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        *macros,
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        f"extern const unsigned char {name}[];",
        f"extern const unsigned int {name}_len;",
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
        f"#endif  // {guard}",
    ]
    return "\n".join([*lines, ""])


def _macros(prefix: str, infos: Sequence[TensorInfo]) -> Iterator[str]:
    """The mapping of each quantized end, after a comment that says what it is."""
    for info, name in zip(infos, _identifiers(info.name for info in infos), strict=True):
        yield f"// {_comment(str(info))}"
        if info.scale is not None:
            yield f"#define {prefix}_{name}_SCALE {info.scale!r}f"
            yield f"#define {prefix}_{name}_ZERO_POINT ({info.zero_point})"
        yield ""


def _source(name: str, origin: str, base: str, data: bytes) -> str:
    rows = [
        " ".join(f"0x{byte:02x}," for byte in data[start : start + _BYTES_PER_LINE])
        for start in range(0, len(data), _BYTES_PER_LINE)
    ]
    lines = [
        f"// {origin}",
        f'#include "{os.path.basename(base)}.h"',
        "",
        f"alignas(16) const unsigned char {name}[] = {{",
        *(f"    {row}" for row in rows),
        "};",
        f"const unsigned int {name}_len = {len(data)};",
    ]
    return "\n".join([*lines, ""])


def _identifier(name: str) -> str:
    """`name` with what C does not allow in a name replaced; it does not begin with a digit."""
    plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
    # Underscores in front belong to the compiler.
    return plain if re.match(r"[A-Za-z]", plain) else f"model_{plain}"


def _identifiers(names: Iterable[str]) -> list[str]:
    """Parts of macros, each once."""
    found: list[str] = []
    for position, name in enumerate(names):
        plain = re.sub(r"[^A-Z0-9_]", "_", name.upper())
        found.append(f"{plain}_{position}" if plain in found else plain)
    return found


def _comment(text: str) -> str:
    """`text` as one line of a comment, which a backslash at its end would not be."""
    return re.sub(r"[^ -\[\]-~]", "_", text)
