"""Writing a file so that at every moment either the old one or the whole new one stands there."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes `data` to `path`, or leaves what was there.

    The bytes go to a new file in the same folder, onto the disk, and then take the name over. On
    any failure, Ctrl-C included, an existing file survives and the new one is removed. A link is
    followed.

    Raises:
        OSError: the folder is missing, not writable or full; it names the path.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    # Not `tempfile`: its files are readable for their owner only, and so would the result be.
    temporary = os.path.join(folder, f".{name}.{secrets.token_hex(6)}.tmp")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno is not None:  # not of the temporary name
            raise OSError(error.errno, error.strerror, target) from error
        raise


def check_writable(folder: str | os.PathLike[str]) -> None:
    """Ask whether files can be made in a folder; nothing is left behind.

    Raises:
        OSError: they cannot.
    """
    # Asking for permissions tells root that all is well, on a read-only disk too.
    with tempfile.TemporaryFile(dir=folder):
        pass
