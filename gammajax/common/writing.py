"""Atomic writing of files."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path) -> Iterator[Path]:
    """Context with the path of a temporary file beside `path`; it is renamed to `path` only after success.

    The temporary name has the suffix of `path`, from which writers derive the format.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=f"-{path.name}")
    temporary = Path(name)
    try:
        os.close(handle)
        yield temporary
        temporary.chmod(0o644)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())  # after a power failure either the old or the new file exists
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
