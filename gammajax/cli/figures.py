"""Figures of a finished run, drawn again for a paper."""

from pathlib import Path

from gammajax.common.writing import replacing

FORMATS = ("png", "pdf", "svg")


def draw(folder: Path, parameters: list[str] | None, format: str, out: Path) -> list[Path]:
    """Draw the posterior of the run in `folder`, and the run of a nested or tempered sampler; returns the files.

    Raises `FileNotFoundError` for a folder without results, and `ValueError` for unknown parameters and formats.
    """
    from gammajax.results.result import Result

    if format not in FORMATS:
        raise ValueError(f"--format: {format!r} is no kind of figure; take one of {', '.join(FORMATS)}")
    if not (folder / "posterior.nc").is_file():
        raise FileNotFoundError(f"{folder} holds no results of gammajax; give the folder that a run has written")
    result = Result.load(folder / "posterior.nc")
    figures = {"corner": result.plot_corner(parameters or None)}
    if result.tree.attrs["method"] in ("nested", "smc"):
        figures["run"] = result.plot_run()
    out.mkdir(parents=True, exist_ok=True)
    written = []
    for name, figure in figures.items():
        written.append(out / f"{name}.{format}")
        with replacing(written[-1]) as temporary:
            figure.savefig(temporary, dpi=160)
    return written
