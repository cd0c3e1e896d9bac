"""A file that stands is either the old one or the whole new one."""

import os

import pytest

from keras_compress._shared.files import write_atomically


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "model.tflite"
    write_atomically(path, b"old")
    write_atomically(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_the_new_file_is_readable_as_any_other(tmp_path):
    path, plain = tmp_path / "model.tflite", tmp_path / "plain"
    write_atomically(path, b"x")
    plain.write_bytes(b"x")
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("step", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_existing_file_survives_any_failure(tmp_path, monkeypatch, step, error):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")

    def fail(*arguments):
        raise error

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(type(error)):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "target").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "missing" / "model.tflite", b"new")
