"""What `gammajax doctor` says: versions, devices, precision, cache and data, and what is wrong with them."""

import os
import platform
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import NamedTuple

import gammajax_command as command

LEAST_FREE = 2 << 30  # bytes, below which caches and checkpoints may not fit
COLLECTION = ("hess-dl3-dr1", "cta-1dc", "fermi-3fhl-gc")  # folders that examples and tests read


class Finding(NamedTuple):
    """One line: a name, what was found, and a sentence with the way out if that is wrong; whether runs need it."""

    name: str
    found: str
    wrong: str = ""
    needed: bool = False


def findings() -> Iterator[Finding]:
    """Look at everything that a run needs; each line is independent of the others."""
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")
    yield from _versions()
    yield from _devices()
    yield _threads()
    yield _pages()
    yield from _cache()
    yield _data()
    yield _space()


def _versions() -> Iterator[Finding]:
    """Installed versions, against the bounds that the package states."""
    from packaging.requirements import Requirement

    yield Finding("gammajax", version("gammajax"))
    shown, wrong = [], []
    for line in requires("gammajax") or ():
        needed = Requirement(line)
        if needed.marker is not None and not needed.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(needed.name)
        except PackageNotFoundError:
            wrong.append(f"{needed.name} is missing")
            continue
        shown.append(f"{needed.name} {installed}")
        if not needed.specifier.contains(installed, prereleases=True):
            wrong.append(f"{needed.name} {installed} is not {needed.specifier}")
    sentence = f"{', '.join(wrong)}: install gammajax again with pip, which brings versions that fit" if wrong else ""
    yield Finding("packages", ", ".join(shown), sentence, needed=True)


def _devices() -> Iterator[Finding]:
    """Devices of JAX, and the precision of Python sessions."""
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        yield Finding(
            "devices", "none", f"JAX finds no device ({reason}); unset JAX_PLATFORMS, or install its plugin", True
        )
        return
    kinds = {f"{device.platform} ({device.device_kind})" for device in devices}
    driver = Path("/proc/driver/nvidia").exists()
    idle = driver and all(device.platform == "cpu" for device in devices)
    sentence = "there is an NVIDIA driver, but JAX runs on the CPU: pip install 'gammajax[cuda]'" if idle else ""
    memory = [device.memory_stats() for device in devices if device.platform != "cpu"]
    sizes = [f", {stats['bytes_limit'] / 2**30:.0f} GiB" for stats in memory if stats and "bytes_limit" in stats]
    yield Finding("devices", f"{len(devices)} {', '.join(sorted(kinds))}{''.join(sizes[:1])}", sentence)
    bits = 64 if jax.config.values["jax_enable_x64"] else 32
    yield Finding("precision", f"{bits} bits in Python (jax_enable_x64); that of a run is its key 'precision', or 64")


def _threads() -> Finding:
    """Cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = os.environ.get("XLA_FLAGS", "")
    return Finding("cores", f"{cores}{f', XLA_FLAGS={flags}' if flags else ''}")


def _pages() -> Finding:
    """Size of the pages of memory that likelihoods are in."""
    asked = command.LARGE_PAGES in os.environ.get(command.TUNABLES, "")
    setting = command.PAGES.read_text() if command.PAGES.exists() else ""
    if "[always]" in setting:
        return Finding("pages", "large, for all of this machine")
    if asked and "[madvise]" in setting:
        return Finding("pages", f"large; in Python after export {command.TUNABLES}={command.LARGE_PAGES}")
    return Finding("pages", "small")


def _cache() -> Iterator[Finding]:
    """The folder of compiled programs."""
    import jax

    from gammajax.common.cache import LIMIT, keep_compiled

    problem = keep_compiled()
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not jax.config.values["jax_enable_compilation_cache"]:
        yield Finding("cache", "off", "")
        return
    if problem or folder is None:
        yield Finding("cache", "none", problem or "no folder")
        return
    size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
    yield Finding("cache", f"{folder}, {size / 2**20:.0f} of {LIMIT / 2**20:.0f} MiB")


def _data() -> Finding:
    """The collection of data that the configuration `crab` and the examples read."""
    given = os.environ.get("GAMMAPY_DATA")
    if not given:
        return Finding(
            "data", "GAMMAPY_DATA is not set", "only for real data: gammapy download datasets, then set GAMMAPY_DATA"
        )
    folder = Path(given).expanduser()
    if not folder.is_dir():
        return Finding("data", f"GAMMAPY_DATA={given}", "no such folder; set it to that of gammapy download datasets")
    there = [name for name in COLLECTION if (folder / name).is_dir()]
    lacks = [name for name in COLLECTION if name not in there]
    sentence = f"it lacks {', '.join(lacks)}: gammapy download datasets" if lacks else ""
    return Finding("data", f"{folder} with {', '.join(there) or 'none of the folders of the examples'}", sentence)


def _space() -> Finding:
    """Room for results and temporary files."""
    rooms = {}
    for folder in (Path.cwd(), Path(tempfile.gettempdir())):
        status = os.statvfs(folder)
        rooms[str(folder)] = status.f_bavail * status.f_frsize
    small = [name for name, free in rooms.items() if free < LEAST_FREE]
    closed = [name for name in rooms if not os.access(name, os.W_OK)]
    sentence = f"less than {LEAST_FREE >> 30} GiB left in {', '.join(small)}" if small else ""
    sentence = f"{', '.join(closed)} cannot be written" if closed else sentence
    return Finding(
        "space",
        ", ".join(f"{name}: {free / 2**30:.0f} GiB free" for name, free in rooms.items()),
        sentence,
        bool(closed),
    )
