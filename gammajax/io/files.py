"""Opening files: paths, damaged files, and warnings of astropy about files that bend the standard."""

import contextlib
import os
import re
import warnings
from pathlib import Path

# gammapy and astropy raise a dozen kinds on damaged files, also assertions and kinds of their own without a parent
UNREADABLE = (Exception,)


@contextlib.contextmanager
def quiet():
    """Context in which astropy is silent about units and headers that files in use write in non-standard ways."""
    from astropy.io.fits.verify import VerifyWarning
    from astropy.units import UnitsWarning
    from astropy.utils.exceptions import AstropyUserWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnitsWarning)
        warnings.simplefilter("ignore", VerifyWarning)
        # a cut-off file also raises when its data are read, which is reported with the name of the file
        warnings.filterwarnings("ignore", "File may have been truncated", AstropyUserWarning)
        yield


def expand(path) -> Path:
    """Path with environment variables and `~` expanded; raises `FileNotFoundError` for a variable that is not set."""
    expanded = os.path.expandvars(str(path))
    unset = re.search(r"\$\{?(\w+)", expanded)
    if unset:
        raise FileNotFoundError(f"{path}: the environment variable {unset[1]} is not set; set it or write the path out")
    try:
        return Path(expanded).expanduser()
    except RuntimeError as error:  # a user that is not there
        raise FileNotFoundError(f"{path}: {error}") from error


def to_write(path, overwrite: bool) -> Path:
    """The expanded path of a file to write; raises `FileExistsError` if it exists and `overwrite` is false."""
    path = expand(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists; pass overwrite=True to replace it")
    return path


def read_text(path) -> str:
    """Text of a file in UTF-8, with or without a byte order mark, or else Latin-1; raises `ValueError` for no text."""
    data = Path(path).read_bytes()
    if b"\0" in data:
        raise ValueError("the file is not a text, or one in UTF-16; save it in UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # names and comments: numbers are the same


def one_line(error) -> str:
    """First line of an error's message."""
    return (str(error) or type(error).__name__).splitlines()[0]
