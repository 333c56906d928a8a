"""Atomic writing of files, and archives of arrays with a header."""

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HEADER = "header"


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


def write_archive(path, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    """Write arrays and a `header` of plain values as an npz file; an older one stays until the new one is complete."""
    written: dict[str, Any] = {HEADER: np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **written)


def read_archive(file: io.BufferedIOBase) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of an archive; raises `ValueError` for another file, and for one cut short or damaged."""
    try:
        with np.load(file, allow_pickle=False) as opened:
            arrays = {name: opened[name] for name in opened.files}
        header = json.loads(arrays.pop(HEADER).tobytes())
        if not isinstance(header, dict):
            raise ValueError("the header is no section")
    except Exception as error:  # numpy, zipfile and zlib raise a dozen kinds for damaged bytes
        raise ValueError(f"not an archive, or damaged ({type(error).__name__})") from error
    return header, arrays
