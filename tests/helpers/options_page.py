"""`docs/reference/tflite_convert.md`, written from the table that the command reads.

PYTHONPATH=tests python -m helpers.options_page > docs/reference/tflite_convert.md
"""

from keras_compress.cli.old_options import OPTION, OPTIONS, REFUSED

HEAD = """\
# The commands of tflite_convert and toco

Written by `PYTHONPATH=tests python -m helpers.options_page` from the table that
`keras-compress convert` reads. It has all options of the two commands as TF 1.13 has them, and
those that tflite_convert got later. A command goes on working as it is, hyphens or underscores,
with the program exchanged: for `tflite_convert ...`, `toco ...` or
`bazel run tensorflow/lite/toco:toco -- ...` write `keras-compress convert ...`.

What is `=` an option has its meaning. What cannot change the numbers of a file is accepted with one
line that says so. What would change them and cannot be done is an error, which says what to use.
`tests/cli/test_old_commands.py` runs each row, and commands as they stand in public.

| option | of | what becomes of it |
|---|---|---|
"""

OF = {
    "both": "both",
    "toco": "toco",
    "tflite_convert": "tflite_convert",
    "later": "tflite_convert, later",
}


def page():
    """The whole text."""
    rows = sorted(OPTIONS, key=lambda option: option.name)
    return HEAD + "".join(
        f"| `{each.name}` | {OF[each.commands]} | {_becomes(each)} |\n" for each in rows
    )


def _becomes(option):
    if option.becomes == OPTION:
        return f"= `{option.means}`"
    if option.becomes == REFUSED:
        values = " or ".join(
            f"`{value.upper() if option.value else value}`" for value in option.harmless
        )
        values += ", or in a float file" * option.in_floats
        harmless = f"; {values}: accepted, {option.anyhow}" if values else ""
        return f"refused: {option.means.rstrip('.')}{harmless.rstrip('.')}"
    return f"accepted: {option.means.rstrip('.')}"


if __name__ == "__main__":
    print(page(), end="")
