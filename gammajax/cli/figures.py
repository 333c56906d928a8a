"""Figures of a run: written by it, or drawn again for a paper."""

from pathlib import Path

from gammajax.common.writing import replacing

FORMATS = ("png", "pdf", "svg")


def save(figure, path: Path) -> Path:
    """Write a figure; an older one stays until the new one is complete."""
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=160)
    return path


def result_of(folder: Path):
    """Result of a finished run; raises `FileNotFoundError` for a folder without one."""
    from gammajax.results.result import Result

    if not (folder / "posterior.nc").is_file():
        raise FileNotFoundError(f"{folder} holds no results of gammajax; give the folder that a run has written")
    return Result.load(folder / "posterior.nc")


def draw(folder: Path, parameters: list[str] | None, format: str, out: Path) -> list[Path]:
    """Draw the posterior of the run in `folder`, and the run of a nested or tempered sampler; returns the files.

    Raises `FileNotFoundError` for a folder without results, and `ValueError` for unknown parameters and formats.
    """
    if format not in FORMATS:
        raise ValueError(f"--format: {format!r} is no kind of figure; take one of {', '.join(FORMATS)}")
    result = result_of(folder)
    figures = {"corner": result.plot_corner(parameters or None)}
    if result.tree.attrs["method"] in ("nested", "smc"):
        figures["run"] = result.plot_run()
    out.mkdir(parents=True, exist_ok=True)
    return [save(figure, out / f"{name}.{format}") for name, figure in figures.items()]
