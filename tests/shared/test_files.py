"""A file that stands is either the old one or the whole new one."""

import os
import re

import pytest
from helpers.replacing import replaced, room_for

from keras_compress._shared.files import write_atomically


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "model.tflite"
    write_atomically(path, b"old")
    write_atomically(str(path), b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_the_old_file_is_replaced_and_not_written_into(tmp_path):
    path = tmp_path / "model.tflite"
    with replaced(path):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


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
    with pytest.raises(type(error)) as raised:
        write_atomically(path, b"new")
    assert raised.value is error
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_an_existing_file_survives_a_disk_that_ends_in_the_middle(tmp_path):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    # In the words of the system, and of the path that was asked for.
    message = f"[Errno 27] File too large: '{path}'"
    with room_for(100), pytest.raises(OSError, match=f"^{re.escape(message)}$"):
        write_atomically(path, b"new" * 100)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_the_bytes_are_on_the_disk_before_they_take_the_name_over(tmp_path, monkeypatch):
    path = tmp_path / "model.tflite"
    path.write_bytes(b"old")
    fsync, synced = os.fsync, []

    def spied(file):
        synced.append((os.fstat(file).st_size, path.read_bytes()))
        # In the same folder, so on the same disk, and hidden.
        assert sorted(os.listdir(tmp_path))[0].startswith(".model.tflite.")
        fsync(file)

    monkeypatch.setattr(os, "fsync", spied)
    write_atomically(path, b"new one")
    assert synced == [(7, b"old")]


def test_two_that_write_the_same_file_do_not_meet(tmp_path, monkeypatch):
    path, fsync = tmp_path / "model.tflite", os.fsync

    def interleaved(file):
        monkeypatch.setattr(os, "fsync", fsync)
        write_atomically(path, b"of the other")
        assert path.read_bytes() == b"of the other"
        fsync(file)

    monkeypatch.setattr(os, "fsync", interleaved)
    write_atomically(path, b"of the one")
    assert path.read_bytes() == b"of the one"
    assert os.listdir(tmp_path) == ["model.tflite"]


def test_a_link_is_followed(tmp_path):
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "target").read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()


def test_a_missing_folder_is_an_error_that_names_the_path(tmp_path):
    path = tmp_path / "missing" / "model.tflite"
    with pytest.raises(FileNotFoundError, match=f"No such file or directory: '{path}'$"):
        write_atomically(path, b"new")
