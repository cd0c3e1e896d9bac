"""A type checker knows every public name and argument, as an editor does."""

import subprocess
import sys
import textwrap

import pytest

import keras_compress as kc

RIGHT = """
    import pathlib
    import keras_compress as kc

    half = kc.PolynomialDecay(final_sparsity=0.5, begin_step=0.2, end_step=0.6)
    tfmots_order = kc.PolynomialDecay(0.0, 0.5, 100, 300)
    flat = kc.ConstantSparsity(0.5, 10)
    compress = kc.Compress(
        pruning=kc.Pruning(half, layers={"conv": flat}),
        quantization=kc.Quantization(delay=0.8, layers=["conv", "dense"]),
        export=kc.Export(pathlib.Path("a.tflite"), inference_input_type="uint8"),
        on_export=lambda report: print(report.sparsity),
    )
    also = kc.Compress(pruning=kc.Pruning(0.5), quantization=kc.Quantization())
    usual = kc.Compress.int8("a.tflite", sparsity=0.5)
    report: kc.Report | None = compress.report
    if report is not None and report.export is not None:
        size: int | None = report.export.bytes
    found: kc.FileReport = kc.inspect_tflite("a.tflite")
    file: kc.TFLiteModel = kc.load_tflite("a.tflite")
    written: kc.ExportReport = kc.export_tflite(object(), kc.Export("a.tflite"))
"""

WRONG = """
    import keras_compress as kc

    kc.Compres(pruning=kc.Pruning(0.5))
    kc.Quantization(delay="half")
    kc.PolynomialDecay(begin_step=0, end_step=1.0)
    kc.Compress(pruning=kc.Quantization())
    print(kc.inspect_tflite("a.tflite").all_integers)
"""


def checked(source, folder):
    """The errors that `mypy --strict` finds in a user's file: (line, what)."""
    path = folder / "users.py"
    path.write_text(textwrap.dedent(source))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", path.name],
        cwd=folder,  # so that the settings of this repository do not count
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(path.name)]
    errors = [line.split(": ", 2) for line in lines if ": error: " in line]
    return [(int(where.split(":")[1]), what) for where, _, what in errors]


@pytest.mark.timeout(300)
def test_a_users_file_is_checked(tmp_path):
    assert checked(RIGHT, tmp_path) == []
    found = checked(WRONG, tmp_path)
    assert [line for line, _ in found] == [4, 5, 6, 7, 8]
    for (_, what), said in zip(
        found,
        ['no attribute "Compres"', '"delay"', "PolynomialDecay", '"pruning"', '"all_integers"'],
        strict=True,
    ):
        assert said in what


def test_what_a_type_checker_sees_is_what_is_loaded():
    """Each name under TYPE_CHECKING is the one that is loaded when it is used, and none is left
    out.
    """
    import ast
    import importlib
    import pathlib

    tree = ast.parse(pathlib.Path(kc.__file__).read_text())
    seen = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("keras_compress."):
            for alias in node.names:
                assert alias.asname == alias.name  # or it is no export
                seen[alias.name] = getattr(importlib.import_module(node.module), alias.name)
    assert set(seen) | {"__version__"} == set(kc.__all__)
    assert all(getattr(kc, name) is value for name, value in seen.items())
