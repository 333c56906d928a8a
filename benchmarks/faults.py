"""Faults: killed runs, full disks, damaged files, runs that meet; nothing is lost, and every error is one clear line.

`python -m benchmarks.faults [--only kills|disk|checkpoints|folders|caches|files] [--kills N] [--mutations N]`

The runs are those of `gammajax run` with a small configuration: the background of one CTAO pointing, some 300 events.
They are forked from a process that has imported the packages, and write a checkpoint after every step. Results of other
parts in the file are kept with `--only`.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

import gammajax_command as command
from benchmarks.report import RESULTS, report

CONFIG = """
observations:
  kind: ctao
  pointings: [[0.0, 0.5]]
  frame: galactic
  livetime: 6000.0
  energy_range: [1.0, 5.0]
  offset_max: 1.0
events: {simulate: true}
model:
  components:
    background: {type: background, norm: norm, tilt: tilt}
parameters:
  norm: {prior: uniform, low: 0.1, high: 3.0, truth: 1.0}
  tilt: {prior: uniform, low: -2.0, high: 2.0, truth: 0.0}
sampler: SAMPLER
precision: 32
"""
SAMPLERS = {
    "nuts": "{method: nuts, draws: 500, warmup: 500, chains: 2}",
    "smc": "{method: smc, particles: 400, moves: 4}",
    "nested": "{method: nested, live: 100}",
}
PHASES = ("set-up", "warm-up", "sampling", "writing")
DONE = "done"
LIMIT = 300.0  # s, after which a run hangs
OUT, NAME = "results", "small"
NOBODY = 65534


def imported() -> None:
    """Import what runs import, without starting JAX's backend: its threads do not survive a fork."""
    import arviz_base  # noqa: F401
    import arviz_stats  # noqa: F401
    import corner  # noqa: F401
    import gammapy.data  # noqa: F401
    import gammapy.irf  # noqa: F401
    import h5netcdf  # noqa: F401
    import matplotlib.pyplot  # noqa: F401

    import gammajax.cli.configurations  # noqa: F401
    import gammajax.plots.corner  # noqa: F401
    import gammajax.plots.counts  # noqa: F401
    import gammajax.products.goodness  # noqa: F401


def begin(folder: Path, *arguments: str, log: str = "log", **environment: str) -> int:
    """Start `gammajax run` with these arguments in a folder; returns its process."""
    if Path(log).name == log:
        (folder / log).unlink(missing_ok=True)  # that of a run before
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.update(environment)
        written = os.open(folder / log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(written, 1)
        os.dup2(written, 2)
        if "AS_NOBODY" in os.environ and os.geteuid() == 0:
            os.setgroups([])
            os.setuid(NOBODY)
        from gammajax.common import cache, progress
        from gammajax.samplers import driver

        cache.LEAST = 0.0
        progress.REPORT_EVERY = -1.0
        assert driver.drive.__kwdefaults__ is not None
        driver.drive.__kwdefaults__["checkpoint_every"] = 0.0
        sys.argv = ["gammajax", "run", *arguments]
        os.environ.setdefault(command.TUNABLES, command.LARGE_PAGES)  # it would start again otherwise
        command.main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def phase(text: str) -> str:
    """Phase of a run by what it has printed."""
    if re.search(r"^done in|is already complete", text, re.MULTILINE):
        return DONE
    if re.search(r"^sampling  ", text, re.MULTILINE):
        return "writing"
    if re.search(r"^  \w+: +\d+ %, (?!warm-up)", text, re.MULTILINE):
        return "sampling"
    return "warm-up" if re.search(r"^response ", text, re.MULTILINE) else "set-up"


def follow(process: int, log: Path, until: str = "", delay: float = 0.0) -> tuple[int | None, dict[str, float], str]:
    """Wait for a process, or kill it `delay` seconds after a phase begins.

    Returns the exit status, seconds of the begin of each phase, and the phase in which it ended.
    """
    begun, seen = time.perf_counter(), {}
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        text = log.read_text(errors="replace") if log.exists() else ""
        now = time.perf_counter() - begun
        seen.setdefault(phase(text), now)
        if ended:
            return os.waitstatus_to_exitcode(status), seen, phase(text)
        if now > LIMIT or (until in seen and now > seen[until] + delay):
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
            return None if now > LIMIT else -signal.SIGKILL, seen, phase(log.read_text(errors="replace"))
        time.sleep(0.003)


def run(folder: Path, *arguments: str, log: str = "log", **environment: str) -> tuple[int | None, str]:
    """A run to its end: exit status, None for one that hangs, and what it has said."""
    status, *_ = follow(begin(folder, *arguments, log=log, **environment), folder / log)
    return status, (folder / log).read_text(errors="replace")


def bits(out: Path) -> dict[str, bytes]:
    """All arrays of a result, to compare bit by bit."""
    import xarray

    tree = xarray.load_datatree(out / "posterior.nc", engine="h5netcdf")
    return {
        f"{group}/{name}": values.to_numpy().tobytes()
        for group in ("posterior", "fractions", "weighted", "weighted_stats", "smc_stats")
        if group in tree.children
        for name, values in tree[group].data_vars.items()
    }


def new_folder(parent: Path, sampler: str, seed: int = 0) -> Path:
    """A folder with a configuration."""
    folder = Path(tempfile.mkdtemp(dir=parent))
    (folder / f"{NAME}.yaml").write_text(CONFIG.replace("SAMPLER", SAMPLERS[sampler]) + f"seed: {seed}\n")
    return folder


def clear(text: str) -> bool:
    """Whether an error is said in one line without a traceback."""
    return "Traceback" not in text and sum(line.startswith("error:") for line in text.splitlines()) == 1


def kills(parent: Path, number: int, deadline: float, seed: int = 0) -> dict:
    """Kill runs at random moments in each phase, one after the other, and compare what `--resume` ends with."""
    choose = random.Random(seed)
    references = {}
    for sampler in SAMPLERS:
        folder = new_folder(parent, sampler)
        run(folder, f"{NAME}.yaml", "--overwrite")  # fills the cache
        status, seen, _ = follow(begin(folder, f"{NAME}.yaml", "--overwrite"), folder / "log")
        assert status == 0, (folder / "log").read_text()
        begins = [seen.get(name, np.inf) for name in (*PHASES, DONE)]
        references[sampler] = bits(folder / OUT / NAME), dict(zip(PHASES, np.diff(begins), strict=True))
        assert all(0.0 < span < LIMIT for span in references[sampler][1].values()), seen
    found = {sampler: {"episodes": 0, **dict.fromkeys(PHASES, 0), "same_bits": 0} for sampler in SAMPLERS}
    failures = []
    for _ in range(number):
        for sampler, (expected, lasts) in references.items():
            if time.monotonic() > deadline:
                return {**found, "failures": failures}
            folder, row = new_folder(parent, sampler), found[sampler]
            order = ["warm-up", "sampling", "writing"]
            order.insert(choose.randrange(4), "set-up")
            said, killed = [], []
            for wanted in order:
                for attempt in range(3):  # the run may be past the moment
                    moment = choose.uniform(0.0, lasts[wanted] / (1 + attempt))
                    process = begin(folder, f"{NAME}.yaml", "--resume")
                    status, _, where = follow(process, folder / "log", wanted, moment)
                    said.append((folder / "log").read_text(errors="replace"))
                    if status != -signal.SIGKILL:
                        break  # complete, or failed
                    row[where] = row.get(where, 0) + 1  # also a moment after the end
                    killed.append(where)
                    if where == wanted:
                        break
                if status != -signal.SIGKILL:
                    break
            status, text = run(folder, f"{NAME}.yaml", "--resume")
            said.append(text)
            row["episodes"] += 1
            left = sorted(os.listdir(folder / OUT))
            same = status == 0 and bits(folder / OUT / NAME) == expected
            row["same_bits"] += same
            if not same or left != [NAME] or any("Traceback" in one for one in said):
                failures.append(
                    {"sampler": sampler, "killed": killed, "left": left, "status": status, "said": said[-2:]}
                )
            shutil.rmtree(folder)
    return {**found, "failures": failures}


# room [kB] on the disk of the results, which need some 300: nothing, a checkpoint, tables, some of the plots
ROOMS = (0, 40, 120, 200, 300)
SMALL_DISK = """
mount -t tmpfs -o size={room}k tmpfs {small} || exit 99
head -c {filled} /dev/zero > {small}/filled 2>/dev/null
cd {folder}
{python} -c "import gammajax_command; gammajax_command.main()" run {name}.yaml --no-progress >log 2>&1; echo $? >status
rm {small}/filled; mount -o remount,size=100m {small}
{python} -c "import gammajax_command; gammajax_command.main()" run {name}.yaml --no-progress --resume >log2 2>&1
echo $? >status2
cp -r {out} {folder}/kept
"""


def on_small_disk(folder: Path, room: int, small: str = OUT) -> tuple[int, int, str, str]:
    """A run with a folder on a disk with `room` kB, and `--resume` when there is more: statuses, what they said."""
    (folder / small).mkdir()
    script = SMALL_DISK.format(
        room=max(room, 4),
        filled=0 if room else 8192,
        small=folder / small,
        out=folder / OUT,
        folder=folder,
        name=NAME,
        python=sys.executable,
    )
    namespace = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    changes = {"GAMMAJAX_CACHE": str(folder / small)} if small != OUT else {}
    done = subprocess.run(
        [*namespace, "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=3 * LIMIT,
        env={**os.environ, **changes},
    )
    if done.returncode != 0:
        raise RuntimeError(f"no small disk can be mounted here: {done.stderr}")
    statuses = [int((folder / name).read_text()) for name in ("status", "status2")]
    return *statuses, (folder / "log").read_text(), (folder / "log2").read_text()


def disk(parent: Path) -> dict:
    """Disks that are full: of the results, of the programs, of the output."""
    folder = new_folder(parent, "nuts")
    assert run(folder, f"{NAME}.yaml")[0] == 0
    expected, found = bits(folder / OUT / NAME), {}
    for room, small in (*((room, OUT) for room in ROOMS), (40, "programs")):
        folder = new_folder(parent, "nuts")
        name = f"{room} kB for {small}"
        try:
            status, again, said, said_again = on_small_disk(folder, room, small)
        except RuntimeError as error:
            found[name] = {"said": str(error)}
            continue
        rescued = re.search(r"the posterior is in (\S+posterior.nc)", said)
        errors = [line for line in said.splitlines() if line.startswith("error:")]
        line = errors[0].replace(str(folder), "") if errors else ""
        results = [folder / "kept" / NAME, *([] if rescued is None else [Path(rescued[1]).parent])]
        found[name] = {
            "status": status,
            "said": line.replace(tempfile.gettempdir(), "$TMPDIR")[:160],
            "one_line": "Traceback" not in said + said_again and bool(errors) == bool(status),
            "resumed": again,
            "same_bits": all(bits(one) == expected for one in results),
        }
    folder = new_folder(parent, "nuts")
    status = os.waitstatus_to_exitcode(os.waitpid(begin(folder, f"{NAME}.yaml", log="/dev/full"), 0)[1])
    found["no room for the output"] = {"status": status, "same_bits": bits(folder / OUT / NAME) == expected}
    return found


def checkpoints(parent: Path, number: int) -> dict:
    """Checkpoints cut short and with one byte flipped: refused in one line, or read as they were."""
    from gammajax.samplers import checkpoint

    choose, found = random.Random(2), {}
    for sampler in SAMPLERS:
        folder = new_folder(parent, sampler)
        path = folder / OUT / f".{NAME}.checkpoint"
        follow(begin(folder, f"{NAME}.yaml"), folder / "log", "writing")
        whole = path.read_bytes()
        header = checkpoint.read_archive(path.open("rb"))[0]["belongs_to"]
        expected = checkpoint.read(path, header)
        row = {"cut": 0, "flipped": 0, "refused": 0, "unchanged": 0, "wrong": 0}
        for i in range(number):
            kind = ("cut", "flipped")[i % 2]
            place = choose.randrange(len(whole))
            damaged = whole[:place] if kind == "cut" else flipped(whole, place, choose)
            row[kind] += 1
            try:
                read = checkpoint.read(path, header, damaged)
                row["unchanged" if _same(read, expected) else "wrong"] += 1
            except ValueError as error:
                row["refused" if "\n" not in str(error) else "wrong"] += 1
        path.write_bytes(whole[: len(whole) // 2])
        status, said = run(folder, f"{NAME}.yaml", "--resume")
        row |= {"status": status, "one_line": clear(said), "file_kept": path.exists()}
        found[sampler] = row
    return found


def flipped(data: bytes, place: int, choose: random.Random) -> bytes:
    """Bytes with another one at a place."""
    return data[:place] + bytes([data[place] ^ choose.randrange(1, 256)]) + data[place + 1 :]


def _same(one, other) -> bool:
    def arrays(read):
        return [*read.prepared.values(), *read.state, *read.record, np.array([read.steps, read.seconds])]

    pairs = list(zip(arrays(one), arrays(other), strict=True))
    return all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs)


def folders(parent: Path) -> dict:
    """Two runs with one output folder, of the same and of other configurations."""
    alone = {}
    for seed in (0, 1):
        folder = new_folder(parent, "nuts", seed)
        assert run(folder, f"{NAME}.yaml")[0] == 0
        alone[seed] = bits(folder / OUT / NAME)
    found = {}
    for name, seeds, option, wait in (
        ("same configuration", (0, 0), "--resume", 0.0),
        ("same configuration, the second later", (0, 0), "--resume", 2.0),
        ("another seed", (0, 1), "--overwrite", 0.0),
        ("another seed, the second later", (0, 1), "--overwrite", 2.0),
    ):
        folder = new_folder(parent, "nuts", seeds[0])
        other = folder / "other.yaml"
        other.write_text(CONFIG.replace("SAMPLER", SAMPLERS["nuts"]) + f"seed: {seeds[1]}\n")
        first = begin(folder, f"{NAME}.yaml", "--out", f"{OUT}/{NAME}", option, log="log 0")
        time.sleep(wait)
        second = begin(folder, "other.yaml", "--out", f"{OUT}/{NAME}", option, log="log 1")
        statuses = [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in (first, second)]
        said = [(folder / f"log {i}").read_text() for i in range(2)]
        winner = seeds[statuses.index(0)] if 0 in statuses else None
        refused = [text for text, status in zip(said, statuses, strict=True) if status == 2]
        found[name] = {
            "statuses": str(statuses),
            "said": refused[0].strip()[:160] if refused else "",
            "one_line": len(refused) == 1 and clear(refused[0]),
            "same_bits": winner is not None and bits(folder / OUT / NAME) == alone[winner],
            "left": str(sorted(os.listdir(folder / OUT))),
        }
    return found


def caches(parent: Path) -> dict:
    """A folder of compiled programs that four processes fill at once, that is damaged, and that nobody may write."""
    folder = new_folder(parent, "nuts")
    assert run(folder, f"{NAME}.yaml")[0] == 0
    expected, programs = bits(folder / OUT / NAME), parent / "programs"
    kept = {"GAMMAJAX_CACHE": str(programs)}

    def row(folders, statuses):
        said = [(one / "log").read_text() for one in folders]
        note = [line for text in said for line in text.splitlines() if line.startswith("note:")]
        return {
            "statuses": str(statuses),
            "said": note[0][:160] if note else "",
            "one_line": not any(re.search("Traceback|persistent compilation cache", text) for text in said),
            "same_bits": all(bits(one / OUT / NAME) == expected for one in folders),
        }

    def together(number, **environment):
        places = [new_folder(parent, "nuts") for _ in range(number)]
        for one in places:
            one.chmod(0o777)
        processes = [begin(one, f"{NAME}.yaml", **environment) for one in places]
        return row(places, [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in processes])

    found = {"four processes, empty": together(4, **kept)}
    choose = random.Random(3)
    files = sorted(programs.glob("*/*-cache"))
    for file in files:
        data = file.read_bytes()
        place = choose.randrange(len(data))
        file.write_bytes(data[:place] if choose.random() < 0.5 else flipped(data, place, choose))
    found[f"{len(files)} programs cut or flipped"] = together(1, **kept)
    found["the next run"] = together(1, **kept)
    programs.chmod(0o555)
    for inner in programs.iterdir():
        inner.chmod(0o555)
    parent.chmod(0o755)
    own = parent / "home of nobody"
    own.mkdir(mode=0o777)
    own.chmod(0o777)
    found["a folder without rights"] = together(1, **kept, AS_NOBODY="1", HOME=str(own), MPLCONFIGDIR=str(own))
    return found


TIME_LIMIT = 30  # s for one file


class Hangs(BaseException):
    """The end of a reader that takes too long; no reader catches it."""


VALUES = (
    "",
    "null",
    "nan",
    "-1",
    "0",
    "1e400",
    "[]",
    "{}",
    "[1, 2]",
    "{a: 1}",
    "true",
    "text",
    "'",
    "&a *a",
    "!!python/x",
)
VALUES += (
    "2026-01-01",
    "1e-320",
    "99999999999999999999999",
    "*",
    "0x10",
    "\t",
    "\u2028",
    "'1 furlong'",
    "norm",
    "|",
    "-",
)
UNITS = ("m", "banana", "", "TeV2", "s", "1/0", "deg", "\u00b0")


def mutated_text(data: bytes, choose: random.Random) -> bytes:
    """A YAML file with a mistake: of a byte, a line, a value or the indentation."""
    lines = data.decode().splitlines()
    row = choose.randrange(len(lines))
    kind = choose.randrange(8)
    if kind == 0:
        return flipped(data, choose.randrange(len(data)), choose)
    if kind == 1:
        return data[: choose.randrange(len(data))]
    if kind == 2:
        del lines[row]
    elif kind == 3:
        lines.insert(choose.randrange(len(lines)), lines[row])
    elif kind == 4:
        lines[row] = " " * choose.randrange(1, 4) + lines[row]
    elif kind == 5:
        lines[row] = re.sub(r"\w", lambda found: choose.choice((found[0], found[0], found[0] * 2, "")), lines[row])
    else:
        key, _, _ = lines[row].rpartition(": ")
        lines[row] = (
            f"{key}: {choose.choice(VALUES)}{'}' if lines[row].endswith('}') and choose.random() < 0.7 else ''}"
        )
    return "\n".join(lines).encode(errors="surrogatepass")


def mutated_bytes(data: bytes, choose: random.Random) -> bytes:
    """A binary file with bytes flipped, cut off, set to NaN or zero, or with a block that is gone or there twice."""
    place, kind = choose.randrange(len(data)), choose.randrange(6)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return flipped(data, place, choose)
    if kind == 2:
        for _ in range(50):
            data = flipped(data, choose.randrange(len(data)), choose)
        return data
    place -= place % 2880
    block, rest = data[place : place + 2880], data[place + 2880 :]
    if kind == 3:
        return data[:place] + choose.choice((b"", 2 * block)) + rest
    return data[:place] + choose.choice((b"\x7f\xc0\0\0", b"\0\0\0\0")) * (len(block) // 4) + rest


def mutated_fits(data: bytes, choose: random.Random) -> bytes:
    """A FITS file with damaged bytes, a changed card of a header, or a table with other columns, units or numbers."""
    import io

    from astropy.io import fits

    kind = choose.randrange(3)
    if kind == 0:
        return mutated_bytes(data, choose)
    with warnings.catch_warnings(), fits.open(io.BytesIO(data)) as hdus:
        warnings.simplefilter("ignore")
        tables = [hdu for hdu in hdus if isinstance(hdu, fits.BinTableHDU)]
        one = choose.choice(tables)
        if kind == 1:
            key = choose.choice([key for key in one.header if key not in ("", "COMMENT", "HISTORY")])
            cards = [i for i in range(0, len(data), 80) if data[i : i + 10] == f"{key:8s}= ".encode()]
            if not cards:
                return mutated_bytes(data, choose)
            place = choose.choice(cards)
            value = choose.choice(("''", "'text'", "-1", "0", "1e40", "T", "99999999999", "'NaN'", "", "'\u0001"))
            name = choose.choice((key, key, key, "WRONG", key[::-1]))
            return data[:place] + f"{name:8.8s}= {value:>20s}".ljust(80).encode() + data[place + 80 :]
        columns = list(one.columns)
        chosen = choose.randrange(len(columns))
        old, change = columns[chosen], choose.randrange(6)
        array = np.array(one.data[old.name])
        new = {"name": old.name, "format": old.format, "unit": old.unit, "dim": old.dim, "array": array}
        if change == 1:
            new["name"] = choose.choice((old.name[::-1], old.name.lower(), "X"))
        elif change == 2:
            new["unit"] = choose.choice(UNITS[:-1])
        elif change in (3, 4) and array.size and array.dtype.kind in "fi":
            worst = choose.choice((0.0, -1.0, 1e30)) if array.dtype.kind == "f" else choose.choice((0, -1, 127))
            worst = np.nan if array.dtype.kind == "f" and change == 3 else worst
            some = np.array([choose.random() for _ in range(array.size)]) < choose.choice((2.0 / array.size, 0.5, 1.0))
            array.reshape(-1)[some] = worst
        elif change == 5:
            new |= {"format": "20A", "dim": None, "array": np.full(len(array), "text")}
        columns[chosen] = fits.Column(**new)
        if change == 0:
            del columns[chosen]
        hdus[hdus.index(one)] = fits.BinTableHDU.from_columns(fits.ColDefs(columns), header=one.header, name=one.name)
        made = io.BytesIO()
        hdus.writeto(made, output_verify="ignore")
    return made.getvalue()


def mutated_archive(data: bytes, choose: random.Random) -> bytes:
    """An archive with damaged bytes, or a whole one with a changed header or array."""
    import io

    if choose.random() < 0.4:
        return mutated_bytes(data, choose)
    with np.load(io.BytesIO(data)) as opened:
        arrays = {name: opened[name] for name in opened.files}
    name = choose.choice(list(arrays))
    if choose.random() < 0.5:
        header = json.loads(arrays["header"].tobytes())
        _change(header, choose)
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    elif choose.random() < 0.3:
        arrays["X"] = arrays.pop(name)
    else:
        old = arrays[name]
        changed = (old[..., None], old.astype(str), old[:0] if old.ndim else old[None], np.full(old.shape, np.nan))
        arrays[name] = choose.choice(changed)
    made = io.BytesIO()
    np.savez(made, **arrays)
    return made.getvalue()


def _change(tree, choose: random.Random):
    """Change a value somewhere in a tree of dicts and lists."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = choose.choice(keys)
        if isinstance(tree[key], dict | list) and tree[key] and choose.random() < 0.9:
            tree = tree[key]
            continue
        if choose.random() < 0.3:
            del tree[key]
        else:
            tree[key] = choose.choice((None, -1, 1.5, "text", [], {}, [1, 2], {"a": 1}, True))
        return


def mutated_result(data: bytes, choose: random.Random) -> bytes:
    """A NetCDF file with damaged bytes, or with a group, a variable or an attribute that is gone or another."""
    import io

    import h5py

    if choose.random() < 0.5:
        return mutated_bytes(data, choose)
    made = io.BytesIO(data)
    with h5py.File(made, "r+") as file:
        names = []
        file.visit(names.append)
        place = choose.choice(["/", *names])
        kind = choose.randrange(3)
        if kind == 0 and place != "/":
            del file[place]
        elif kind == 1 and isinstance(file[place], h5py.Dataset) and file[place].dtype.kind == "f":
            file[place][...] = choose.choice((np.nan, 0.0, 1e300))
        else:
            attributes = file[place if len(file[place].attrs) else "/"].attrs
            name = choose.choice(list(attributes))
            if choose.random() < 0.5:
                del attributes[name]
            else:
                attributes[name] = choose.choice(("text", -1, np.nan, np.zeros(3)))
    return made.getvalue()


def readers(parent: Path) -> dict:
    """Of each kind of file: its mutation, a whole one, and a function that reads the mutated one."""
    import gzip

    import jax
    import numpyro.distributions as dist

    import gammajax as gj
    from gammajax.cli.configurations import builtin
    from gammajax.io.ctao_prod5 import EMBEDDED
    from gammajax.samplers import checkpoint

    response = Path(gj.__file__).parent / "data" / EMBEDDED["South", 20.0, 50.0]
    selection = {"energy_range": (1.0, 5.0), "offset_max": 1.0}
    one = gj.io.ctao("South", pointing=(83.6, 22.0), livetime=3600.0, **selection)
    folder = parent / "written"
    truth = gj.Mixture(sky=gj.InstrumentBackground(norm=1.0))
    events = gj.simulate(jax.random.key(0), truth, one)
    gj.io.write_events(folder, events, [one])

    def model(p):
        return gj.Mixture(sky=gj.InstrumentBackground(norm=p["norm"]))

    posterior = gj.Posterior(model, {"norm": dist.Uniform(0.0, 5.0)}, one, events)
    posterior.save(parent / "posterior.npz")
    result = gj.nuts(jax.random.key(0), posterior, draws=100, warmup=50, checkpoint=parent / "run", progress=False)
    result.save(parent / "posterior.nc")
    belongs_to = checkpoint.read_archive((parent / "run").open("rb"))[0]["belongs_to"]

    def written(path):
        shutil.copy(path, folder / "obs_0.fits.gz")
        gj.io.read_events(folder, [one])

    def resumed(path):
        checkpoint.read(path, belongs_to)
        gj.nuts(jax.random.key(0), posterior, draws=100, warmup=50, checkpoint=path, progress=False)

    def drawn(path):
        there = parent / "drawn"
        there.mkdir(exist_ok=True)
        shutil.copy(path, there / "posterior.nc")
        invoked("plot", str(there))

    def configured(path):
        from gammajax.cli import running
        from gammajax.cli.configurations import check

        def only_observations(config, *_):
            if config.observations.kind != "gadf":
                check(config, config.observations.make())

        running.run = only_observations
        os.chdir(parent)
        invoked("run", str(path), "--out", str(parent / "never" / "there"))

    text = builtin("template")
    found = {
        "configuration": (mutated_text, text.encode(), configured),
        "response": (mutated_fits, gzip.decompress(response.read_bytes()), lambda path: gj.io.read_irf(path)),
        "events written": (mutated_fits, gzip.decompress((folder / "obs_0.fits.gz").read_bytes()), written),
        "checkpoint": (mutated_archive, (parent / "run").read_bytes(), resumed),
        "prepared posterior": (
            mutated_archive,
            (parent / "posterior.npz").read_bytes(),
            lambda path: gj.load_posterior(path, model),
        ),
        "result": (mutated_result, (parent / "posterior.nc").read_bytes(), drawn),
    }
    store = Path(os.environ.get("GAMMAPY_DATA", "/nowhere")) / "hess-dl3-dr1"
    if store.is_dir():
        name = "hess_dl3_dr1_obs_id_023523.fits.gz"
        copy = parent / "store"
        (copy / "data").mkdir(parents=True)
        originals = {"hdu-index.fits.gz": "", "obs-index.fits.gz": "", name: "data"}
        for file, inner in originals.items():
            (copy / inner / file).symlink_to(store / inner / file)

        def of_store(file):
            def read(path):
                target = copy / originals[file] / file
                target.unlink()
                shutil.copy(path, target)
                try:
                    gj.io.read_gadf(copy, [23523])
                finally:
                    target.unlink()
                    target.symlink_to(store / originals[file] / file)

            return read

        for label, file in (("run of a store", name), ("index of files", "hdu-index.fits.gz")):
            whole = gzip.decompress((store / originals[file] / file).read_bytes())
            found[label] = (mutated_fits, whole, of_store(file))
    return found


def invoked(*arguments: str) -> None:
    """Run a command in this process; raises `ValueError` with the one line that it ends with, or what it raises."""
    from typer.testing import CliRunner

    from gammajax.cli import app

    answer = CliRunner().invoke(app, list(arguments))
    if answer.exit_code in (2, 74) and isinstance(answer.exception, SystemExit):
        raise ValueError(answer.stderr.strip())
    if answer.exit_code:
        raise answer.exception or RuntimeError(answer.output)


def files(parent: Path, number: int, seed: int = 0) -> dict:
    """Read mutated files of every kind, each in at most half a minute."""
    table, failures = {}, []
    written = parent / "lines"
    worker, first = None, 0
    written.write_text("")
    while worker is None or worker != 0:  # again after a process that died
        process = os.fork()
        if process == 0:
            status = 1
            try:
                _read_all(parent / f"work {first}", number, seed, written)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        worker = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        lines = [json.loads(line) for line in written.read_text().splitlines()]
        if worker and (not lines or "outcome" in lines[-1]):
            raise RuntimeError("the worker failed")
        if worker:
            with written.open("a") as file:
                file.write(json.dumps({**lines[-1], "outcome": f"died ({worker})"}) + "\n")
        first += 1
    for line in map(json.loads, written.read_text().splitlines()):
        if "outcome" not in line:
            continue
        row = table.setdefault(line["kind"], {"files": 0, "read": 0, "one_line": 0, "failed": 0})
        row["files"] += 1
        row[line["outcome"] if line["outcome"] in ("read", "one_line") else "failed"] += 1
        if line["outcome"] not in ("read", "one_line"):
            failures.append(line)
    return {**table, "failures": failures}


def _read_all(parent: Path, number: int, seed: int, written: Path) -> None:
    """Read mutated files, and write a line before and after each; those that were done before are left out."""
    parent.mkdir()
    lines = [json.loads(line) for line in written.read_text().splitlines()]
    done = {(line["kind"], line["number"]) for line in lines if "outcome" in line}

    def late(*_):
        raise Hangs(f"longer than {TIME_LIMIT} s")

    signal.signal(signal.SIGALRM, late)
    warnings.simplefilter("ignore")
    path = parent / "mutated.yaml"
    every = readers(parent)
    with written.open("a", buffering=1) as file:
        for kind, (mutate, whole, read) in every.items():
            for i in range(-(-number // len(every))):
                if (kind, i) in done:
                    continue
                what = {"kind": kind, "number": i}
                file.write(json.dumps(what) + "\n")
                path.write_bytes(mutate(whole, random.Random(f"{kind} {i} {seed}")))
                signal.alarm(TIME_LIMIT)
                try:
                    read(path)
                    outcome = "read"
                except Hangs:
                    outcome = "hangs"
                except (ValueError, OSError) as error:
                    line = str(error).replace(str(parent), "")
                    outcome = "one_line" if line and "\n" not in line else f"{type(error).__name__}: {line[:300]}"
                    what["said"] = line[:200]
                except BaseException as error:
                    where = traceback.extract_tb(error.__traceback__)[-6:]
                    outcome = f"{type(error).__name__}: {error}"[:300]
                    what["where"] = [f"{Path(one.filename).name}:{one.lineno}" for one in where]
                finally:
                    signal.alarm(0)
                file.write(json.dumps({**what, "outcome": outcome}) + "\n")


def main():
    """Try the faults, and write what was survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("kills", "disk", "checkpoints", "folders", "caches", "files"))
    parser.add_argument("--kills", type=int, default=20, metavar="N", help="in each phase of each sampler")
    parser.add_argument("--mutations", type=int, default=200, metavar="N", help="of files of all kinds together")
    parser.add_argument("--minutes", type=float, default=40.0, help="after which no further kills begin")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the mutations")
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # of short runs, and of forks
    parts = {
        "kills": lambda parent: kills(parent, options.kills, time.monotonic() + 60.0 * options.minutes, options.seed),
        "disk": disk,
        "checkpoints": lambda parent: checkpoints(parent, 200),
        "folders": folders,
        "caches": caches,
        "files": lambda parent: files(parent, options.mutations, options.seed),
    }
    imported()
    path = RESULTS / "faults-cpu.json"
    figures = json.loads(path.read_text()) if options.only and path.exists() else {}
    figures.pop("machine", None)
    with tempfile.TemporaryDirectory(prefix="gammajax-faults-") as temporary:
        os.environ.setdefault("GAMMAJAX_CACHE", f"{temporary}/cache")
        for name, part in parts.items():
            if options.only in (None, name):
                folder = Path(temporary) / name
                folder.mkdir()
                begun = time.perf_counter()
                figures[name] = part(folder)
                figures[f"failures of {name}"] = figures[name].pop("failures", [])
                print(f"{name}: {time.perf_counter() - begun:.0f} s", flush=True)
    report("faults", figures)


if __name__ == "__main__":
    main()
