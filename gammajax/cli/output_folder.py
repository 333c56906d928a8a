"""The folder that a run writes: one run at a time, and nothing left of runs that were killed."""

import contextlib
import os
import platform
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

RANDOM = "[a-z0-9_]{8}"  # of Python's temporary names


@contextlib.contextmanager
def alone(out: Path) -> Iterator[None]:
    """Keep other runs from the folder `out` until this ends, and remove what killed runs have left beside it.

    The lock is one of the operating system, on the file `.NAME.lock`: it ends with its process. There is none on disks
    and systems without locks, and where nothing can be written.

    Raises `ValueError` while another run has the folder.
    """
    path = out.with_name(f".{out.name}.lock")
    lock = _locked(path, out)
    if lock is None:
        yield
        return
    try:
        with contextlib.suppress(OSError):
            _tidy(out)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()  # before the lock goes: whoever takes the next one makes its file
        os.close(lock)


def _locked(path: Path, out: Path) -> int | None:
    """Descriptor of the locked file, which names its process; None where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                owner = os.read(lock, 200).decode(errors="replace") or "another process"
                os.close(lock)
                raise ValueError(f"{out} is being written by {owner}; wait for it, or choose another --out") from error
            except OSError:  # a disk without locks
                os.close(lock)
                path.unlink(missing_ok=True)
                return None
            if _is(lock, path):
                break
            os.close(lock)  # its owner has just removed it
        with contextlib.suppress(OSError):  # a full disk
            os.ftruncate(lock, 0)
            os.write(lock, f"process {os.getpid()} on {platform.node()}".encode())
        return lock
    except OSError:
        return None


def _is(lock: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(lock), path.stat())
    except FileNotFoundError:
        return False


def _tidy(out: Path) -> None:
    """Remove folders and checkpoints that were half written; put results back that were about to be replaced."""
    name = re.escape(out.name)
    for path in list(out.parent.iterdir()):
        if re.fullmatch(rf"\.{name}-{RANDOM}-old", path.name) and not out.exists():
            path.rename(out)
        elif re.fullmatch(rf"\.{name}-{RANDOM}(-old)?", path.name):
            shutil.rmtree(path, ignore_errors=True)
        elif re.fullmatch(rf"\.{RANDOM}-\.{name}\.checkpoint", path.name):
            path.unlink(missing_ok=True)
