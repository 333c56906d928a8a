"""Every notebook from top to bottom with small numbers; `make notebooks` runs this, `make test` does not."""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
# replacements, each at least once: fewer events, draws and chains, smaller fields and sources; tutorials are small
SMALL = {path.stem: {} for path in sorted(FOLDER.glob("[0-9][0-9]_*.ipynb"))} | {
    "15_two_papers": {r"points=30_000": "points=3_000", r"points=10_000": "points=2_000"},
    "galactic_centre": {
        r"events=30_000": "events=1_000",
        r"range\(20\)": "range(2)",
        r"draws=500, warmup=150": "draws=150, warmup=100, chains=2",
        r"plot_counts\(posterior, result\)": "plot_counts(posterior, result, events=2_000)",
    },
    "paper_2401_13876": {
        r"EVENTS = 100_000_000": "EVENTS = 100_000",
        r"ridge\(\), catalogue": "gj.Source(gj.PowerLaw(2.6, 1e-11), gj.Gaussian(0.0, 0.0, 0.3)), catalogue",
        r"observations\(hours=525.0\)": "[gj.io.ctao(pointing=(0.0, 0.3), hours=50, livetime=1.9e6, frame='galactic', "
        "energy_range=(0.5, 20.0), offset_max=1.0)]",
        r"events=100_000\)": "events=5_000)",
        r"draws=500, chains=4": "draws=100, warmup=100, chains=2",
        r"key\(3\), p, progress": "key(3), p, draws=500, progress",
    },
}

NEEDS = {"12_crab": "$GAMMAPY_DATA/hess-dl3-dr1", "16_joint_crab": "$GAMMAPY_DATA/../joint-crab"}


def test_all_are_here():
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_it_runs(name):
    if name in NEEDS and not os.path.isdir(os.path.expandvars(NEEDS[name])):
        pytest.skip(f"needs {NEEDS[name]}")
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    found = set()
    for cell in notebook.cells:
        for pattern, small in SMALL[name].items() if cell.cell_type == "code" else ():
            cell.source, count = re.subn(pattern, small, cell.source)
            found |= {pattern} if count else set()
    assert found == set(SMALL[name])
    # few draws and few events warn
    notebook.cells.insert(0, nbformat.v4.new_code_cell("import warnings; warnings.simplefilter('ignore')"))
    client = NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(FOLDER)}})
    # compiled as users do: notebooks run longer than they compile
    client.execute(env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"})
    assert any("image/png" in output.get("data", {}) for cell in notebook.cells for output in cell.get("outputs", ()))
