"""Build the package, install it where nothing else is, and use it: `make package`.

The wheel comes from the source distribution. In an empty environment: import, version, types, the command line and a
small run.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIST = ROOT / "dist"
IMPORT = """
import importlib.metadata, pathlib, gammajax
assert gammajax.__version__ == importlib.metadata.version("gammajax") == {version!r}
folder = pathlib.Path(gammajax.__file__).parent
assert (folder / "py.typed").exists() and list(folder.glob("data/*.fits.gz")), "data and types are in the wheel"
print(folder)
"""
SMALL = """
from gammajax.cli.configurations import builtin, parse, dump
config = parse(builtin("galactic-centre")).model_dump(mode="json", exclude_unset=True)
config["observations"]["pointings"] = config["observations"]["pointings"][:1]
config["observations"]["energy_range"], config["observations"]["offset_max"] = [1.0, 10.0], 1.0
config["events"] = {"simulate": 500}
config["sampler"] = {"method": "laplace", "draws": 500}
import json; print(json.dumps(config))
"""


def run(*command, **options) -> str:
    """Run a command that must succeed, outside the repository; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, env=environment, text=True, stdout=subprocess.PIPE, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}\nstatus {done.returncode}")
    return done.stdout


def check_contents(version: str) -> tuple[Path, Path]:
    """Paths of both archives, after a look at what they hold."""
    source, wheel = DIST / f"gammajax-{version}.tar.gz", DIST / f"gammajax-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
        metadata = archive.read(f"gammajax-{version}.dist-info/METADATA").decode()
    expected = {"gammajax", "gammajax_command.py", f"gammajax-{version}.dist-info"}
    if tops != expected:
        sys.exit(f"the wheel holds {sorted(tops)}, it should hold {sorted(expected)}")
    if "License-Expression:" not in metadata:
        sys.exit("the metadata of the wheel has no licence")
    with tarfile.open(source) as archive:
        held = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    missing = {"CITATION.cff", "LICENSE", "README.md", "docs", "mkdocs.yml", "pyproject.toml", "tests"} - held
    if missing:
        sys.exit(f"the source distribution lacks {sorted(missing)}")
    return source, wheel


def main() -> None:
    """All of it, in a folder that is removed at the end."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    shutil.rmtree(DIST, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", DIST, ROOT)
    source, wheel = check_contents(version)
    run(sys.executable, "-m", "twine", "check", "--strict", source, wheel)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(f"{folder}/empty", with_pip=True)
        python, command = f"{folder}/empty/bin/python", f"{folder}/empty/bin/gammajax"
        run(python, "-m", "pip", "install", "--quiet", wheel, cwd=folder)
        print(run(python, "-c", IMPORT.format(version=version), cwd=folder).strip())
        if version not in run(command, "version", cwd=folder):
            sys.exit(f"`gammajax version` does not say {version}")
        Path(folder, "small.yaml").write_text(run(python, "-c", SMALL, cwd=folder))  # JSON is YAML
        run(command, "run", "small.yaml", "--no-progress", "--no-cache", cwd=folder)
        made = {path.name for path in Path(folder, "results", "small").iterdir()}
        if not {"posterior.nc", "summary.csv", "corner.png", "counts.png"} <= made:
            sys.exit(f"the run wrote {sorted(made)} only")
    print(f"{source.name} and {wheel.name} are complete, and work in an empty environment")


if __name__ == "__main__":
    main()
