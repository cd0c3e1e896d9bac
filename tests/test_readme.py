"""What the README shows, runs: its Python blocks one after the other, for both Keras."""

import pathlib
import re

import pytest

README = pathlib.Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_the_python_of_the_readme_runs(keras, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    source = "\n".join(blocks)
    if keras.__name__ == "tf_keras":
        source = source.replace("import keras\n", "import tf_keras as keras\n")
    names = {}
    exec(source, names)
    assert names["keras"] is keras
    report = names["compress"].report
    assert report.export.written
    assert report.sparsity == pytest.approx(0.5, abs=0.01)
    assert names["again"].written
    printed = capsys.readouterr().out
    assert "0.5" in printed or "50.0%" in printed
    assert {path.name for path in tmp_path.iterdir()} >= {
        "digits.tflite",
        "digits.keras",
        "digits.npz",
        "digits_float_ends.tflite",
        "digits_post_training.tflite",
    }


def test_the_architecture_table_names_every_module():
    import keras_compress

    root = pathlib.Path(keras_compress.__file__).parent
    text = README.read_text()
    for path in [*root.glob("*.py"), *(root / "engines").rglob("*.py")]:
        if path.stem != "__init__":
            assert path.name in text, path
