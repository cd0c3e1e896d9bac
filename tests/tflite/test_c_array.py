"""The `.h`/`.cc` pair, compiled, linked and read back."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers.replacing import replaced, room_for
from helpers.tflite_files import file_of

from keras_compress.tflite import Conversion, convert, load_tflite, write_c_array

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None or shutil.which("gcc") is None, reason="no C and C++ compiler"
)
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]

PROGRAM = """
#include <stdio.h>
#include <stdint.h>
#include "{header}"
int main(void) {{
  fwrite({name}, 1, {name}_len, stdout);
  fprintf(stderr, "%.9g %d %.9g %d %d", {macro}_INPUT_X_SCALE, {macro}_INPUT_X_ZERO_POINT,
          {macro}_OUTPUT_Y_SCALE, {macro}_OUTPUT_Y_ZERO_POINT, (int)((uintptr_t){name} % 16));
  return 0;
}}
"""


def written(folder, file_name, kind="int8"):
    path = folder / file_name
    path.write_bytes(file_of(kind))
    return write_c_array(path, file_of(kind))


@needs_compiler
@pytest.mark.parametrize(("main", "standard"), [("c", "c99"), ("cc", "c++11"), ("cc", "c++20")])
@pytest.mark.parametrize(
    ("file_name", "name"),
    [("net.tflite", "net_tflite"), ("2 nets-v1.0é.tflite", "model_2_nets_v1_0__tflite")],
)
def test_it_compiles_without_a_warning_and_is_the_file(tmp_path, main, standard, file_name, name):
    header, source = written(tmp_path, file_name)
    text = PROGRAM.format(header=header, name=name, macro=name.upper())
    (tmp_path / f"main.{main}").write_text(text)
    commands = [
        ["g++", "-std=c++11", *STRICT, "-c", source, "-o", "array.o"],
        ["gcc" if main == "c" else "g++", f"-std={standard}", *STRICT, "-c", f"main.{main}"],
        ["g++", "array.o", "main.o", "-o", "dump"],
    ]
    for command in commands:
        subprocess.run(command, cwd=tmp_path, check=True)
    result = subprocess.run([tmp_path / "dump"], capture_output=True, check=True)
    assert result.stdout == file_of("int8")
    (x,), (y,) = load_tflite(file_of("int8")).inputs, load_tflite(file_of("int8")).outputs
    found = [float(number) for number in result.stderr.split()]
    expected = [np.float32(x.scale), x.zero_point, np.float32(y.scale), y.zero_point, 0]
    np.testing.assert_array_equal(np.float32(found), np.float32(expected))


def test_both_say_where_they_are_from(tmp_path):
    paths = written(tmp_path, "net.tflite")
    assert paths == (str(tmp_path / "net.h"), str(tmp_path / "net.cc"))
    digest = hashlib.sha256(file_of("int8")).hexdigest()
    for path in paths:
        assert Path(path).read_text().startswith(f"// net.tflite, sha256 {digest}\n")
    # A compiler may align so large an array without being told to.
    assert "alignas(16) const unsigned char net_tflite[] = {" in Path(paths[1]).read_text()


def test_a_float_file_has_no_scales(tmp_path):
    header, _ = written(tmp_path, "net.tflite", "float32")
    text = Path(header).read_text()
    assert "SCALE" not in text
    assert "// x float32[1, 8, 8, 1]\n" in text


def two_inputs(left, right):
    return {"sum": left + right}


def test_names_that_are_the_same_in_c_are_told_apart(tmp_path):
    specs = [tf.TensorSpec((1, 3), name=name) for name in ("A B", "a-b")]
    samples = [{"A B": np.ones((1, 3), "float32"), "a-b": np.full((1, 3), 2.0, "float32")}]
    concrete = tf.function(two_inputs).get_concrete_function(*specs)
    data = convert(concrete, Conversion("int8"), representative=samples)
    header, _ = write_c_array(tmp_path / "net.tflite", data)
    macros = [line.split()[1] for line in Path(header).read_text().splitlines() if "SCALE" in line]
    assert macros == [
        "NET_TFLITE_INPUT_A_B_SCALE",
        "NET_TFLITE_INPUT_A_B_1_SCALE",
        "NET_TFLITE_OUTPUT_SUM_SCALE",
    ]


def test_a_failing_write_leaves_what_was_there(tmp_path, monkeypatch):
    _, source = written(tmp_path, "net.tflite")
    before = Path(source).read_text()

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="disk full"):
        write_c_array(tmp_path / "net.tflite", file_of("float32"))
    assert Path(source).read_text() == before
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["net.cc", "net.h", "net.tflite"]


def test_older_files_are_replaced_and_not_written_into(tmp_path):
    with replaced(tmp_path / "net.h", tmp_path / "net.cc"):
        write_c_array(tmp_path / "net.tflite", file_of("int8"))


def test_a_disk_that_ends_in_the_middle_leaves_what_was_there(tmp_path):
    header, source = map(Path, written(tmp_path, "net.tflite"))
    data, before = file_of("float32"), source.read_text()
    with room_for(4096), pytest.raises(OSError, match=f"File too large: '{source}'"):
        write_c_array(tmp_path / "net.tflite", data)
    assert source.read_text() == before
    assert hashlib.sha256(data).hexdigest() in header.read_text()  # whole, for it had room
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["net.cc", "net.h", "net.tflite"]


def test_bad_arguments(tmp_path):
    with pytest.raises(ValueError, match=r"ends in '.tflite'"):
        write_c_array(tmp_path / "net.bin", file_of("int8"))
    with pytest.raises(ValueError, match="must be a TFLite file"):
        write_c_array(tmp_path / "net.tflite", b"nothing of the kind")
    with pytest.raises(FileNotFoundError):
        write_c_array(tmp_path / "missing" / "net.tflite", file_of("int8"))
    assert list(tmp_path.iterdir()) == []
