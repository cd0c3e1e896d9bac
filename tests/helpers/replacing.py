"""Files that are to be replaced whole, and a disk that ends in the middle of one."""

import contextlib
import os
import resource

OLDER = b"older " * 10


@contextlib.contextmanager
def replaced(*paths):
    """Inside, new files take the names `paths` over from older ones, which stay as they are.

    A second name (a hard link) keeps an older file in sight: what is written into it shows there.
    """
    seconds = [f"{path}.second-name" for path in paths]
    for path, second in zip(paths, seconds, strict=True):
        with open(path, "wb") as file:
            file.write(OLDER)
        os.link(path, second)
    yield
    for path, second in zip(paths, seconds, strict=True):
        with open(path, "rb") as new, open(second, "rb") as older:
            assert new.read() != OLDER, f"nothing was written to {path}"
            assert older.read() == OLDER, f"{path} was written into"
        os.unlink(second)


@contextlib.contextmanager
def room_for(size):
    """While inside, no file of this process gets larger than so many bytes, as on a full disk."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))
