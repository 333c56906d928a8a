"""Products that a configuration asks for: their settings, and the files and figures that they become."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from gammajax.cli.settings import Energies, EnergyEdges, Strict, TimeEdges
from gammajax.products.light_curves import light_curve
from gammajax.products.spectral_points import flux_points

# names of files of every run, which no product may have
OUTPUTS = ("posterior", "summary", "fractions", "corner", "counts", "run", "config", "report")


class Prepared(NamedTuple):
    """What products are made of: the posterior, its result, its best fit, a key of random numbers."""

    posterior: Any
    result: Any
    best: Any
    key: Any
    progress: bool


class FluxPointsOutput(Strict):
    """Settings of [`gammajax.flux_points`][]."""

    type: Literal["flux-points"]
    component: str
    edges: EnergyEdges

    def make(self, given: Prepared):
        """The flux points."""
        best, progress = given.best(), given.progress
        return flux_points(given.posterior, self.component, self.edges, best=best, progress=progress)

    def write(self, points, path: Path) -> dict[str, Any]:
        """Write a table, and a file that gammapy reads; returns the figures by the end of their names."""
        points.summary().to_csv(path.with_suffix(".csv"), index_label="bin")
        points.write(path.with_suffix(".ecsv"), overwrite=True)
        return {"": points.plot(), "-correlation": points.plot_correlation()}


class LightCurveOutput(Strict):
    """Settings of [`gammajax.light_curve`][]."""

    type: Literal["light-curve"]
    component: str
    edges: TimeEdges = "runs"
    energy_range: Energies | None = None

    def make(self, given: Prepared):
        """The light curve."""
        options = {"energy_range": self.energy_range, "best": given.best(), "progress": given.progress}
        return light_curve(given.posterior, self.component, self.edges, **options)

    def write(self, curve, path: Path) -> dict[str, Any]:
        """Write a table; returns the figures by the end of their names."""
        curve.summary().to_csv(path.with_suffix(".csv"))
        return {"": curve.plot().get_figure()}


Output = Annotated[FluxPointsOutput | LightCurveOutput, Field(discriminator="type")]
