"""Entry point of the command `gammajax`, which listens to signals before it imports the package.

A run can be stopped at any moment: SIGTERM ends it with status 75 (EX_TEMPFAIL of sysexits.h, "try again"), which batch
systems requeue, and SIGINT with 130. Set-up is cheap to repeat; samplers write their checkpoint first. Python handles
signals between two of its instructions, and a compilation is one of them: a thread ends the process after a grace time,
or at a second SIGINT.
"""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

STATUS = {signal.SIGTERM: 75, signal.SIGINT: 130}
TUNABLES, LARGE_PAGES = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
# s after a signal; docs/cluster.md has batch systems send theirs two minutes before the end
GRACE, GRACE_IN_SAMPLING = 3.0, 100.0
DONE = "done"


class Stopped(SystemExit):
    """The end of a process by a signal."""

    def __init__(self, number: int):
        super().__init__(STATUS[signal.Signals(number)])
        self.number = number


class _Run:
    """State of the process: its step, whether that cleans up, its checkpoint, and whether signals must wait."""

    step = "start"
    cleans = False
    checkpoint: Path | None = None
    held = False
    leaves: int | None = None  # the thread that ends the process
    wakeup: socket.socket | None = None  # the interpreter writes to it; None where nothing listens


def step(name: str, cleans: bool = False) -> None:
    """Name the current step for messages; `cleans`: an exception lets the step save or remove files.

    Other steps end at once: extensions that are being imported do not survive exceptions from nowhere.
    """
    _Run.step, _Run.cleans = name, cleans


def resumes_from(checkpoint: Path | None) -> None:
    """Name the file that `--resume` would go on from."""
    _Run.checkpoint = checkpoint


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Signals wait until this is done: for results that are being written."""
    _Run.held, waiting = True, []
    before = {number: signal.getsignal(number) for number in STATUS} if _in_main_thread() else {}
    for number in before:
        signal.signal(number, lambda number, _: waiting.append(number))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _Run.held = False
    if waiting:
        signal.raise_signal(waiting[0])


def farewell(number: int) -> str:
    """Line with the step that a signal stopped, and the way to resume."""
    begun = f"stopped by {signal.Signals(number).name} in step {_Run.step!r}"
    if _Run.step == DONE:
        return f"stopped by {signal.Signals(number).name}; the run is complete"
    if _Run.checkpoint is not None and _Run.checkpoint.exists():
        return f"{begun}; pass --resume to go on from {_Run.checkpoint}"
    return f"{begun}; there is nothing to go on from yet: run the same command again"


def listen() -> None:
    """Take the signals, again after a library has taken them, in processes that the command started."""
    for number in STATUS if _Run.wakeup is not None else ():
        signal.signal(number, _stop)


def wants_large_pages() -> bool:
    """Whether glibc can ask Linux for pages of 2 MiB, and has not been told how to.

    A likelihood looks up large tables at random: with pages of 4 KiB a third of its time goes into finding them.
    """
    if TUNABLES in os.environ or sys.platform != "linux" or not sys.executable:
        return False
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
        asked = "[madvise]" in PAGES.read_text()
        return asked and name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 35)
    except (OSError, ValueError):  # another libc has no such name
        return False


def main() -> None:
    """Run the command."""
    if wants_large_pages():  # glibc reads this when a process starts
        os.environ[TUNABLES] = LARGE_PAGES
        with contextlib.suppress(OSError):
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    _watch()
    listen()
    try:
        from gammajax.cli import app

        app()
    except Stopped as stopped:
        _leave(stopped.number)
    finally:
        for number in STATUS:  # nothing is left to stop
            signal.signal(number, signal.SIG_IGN)


def _stop(number, _):
    if _Run.cleans:
        raise Stopped(number)
    _leave(number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def _watch() -> None:
    """Start the thread that ends a process which does not end by itself.

    The interpreter writes the number of a signal to a socket as soon as it comes, whatever the main thread does.
    """
    read, write = socket.socketpair()
    write.setblocking(False)
    _Run.wakeup = write
    signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)

    def watch():
        while True:
            number = signal.Signals(read.recv(1)[0])
            if number not in STATUS:
                continue
            # a sampler has put its own handler there, to finish its step
            sampling = signal.getsignal(signal.SIGTERM) is not _stop and not _Run.held
            end = time.monotonic() + (GRACE_IN_SAMPLING if sampling else GRACE)
            again = None
            while again != signal.SIGINT and (left := end - time.monotonic()) > 0:
                read.settimeout(left)
                with contextlib.suppress(TimeoutError):
                    again = read.recv(1)[0]
            while _Run.held:
                time.sleep(0.1)
            _leave(number)

    threading.Thread(target=watch, daemon=True).start()


_leaving = threading.Lock()


def _leave(number: int):
    """End at once, with one line: neither exit handlers nor other threads may keep the process."""
    if _leaving.acquire(blocking=False):
        _Run.leaves = threading.get_ident()
        with contextlib.suppress(BaseException):
            if os.isatty(1):
                os.write(1, b"\r\x1b[K\x1b[?25h")  # a progress bar hides the cursor
            os.write(2, f"{farewell(number)}\n".encode())
            sys.stdout.flush()
    elif _Run.leaves == threading.get_ident():  # one signal more while this one says its line
        return
    else:
        time.sleep(1.0)  # the other thread says the line
    os._exit(STATUS[signal.Signals(number)])
