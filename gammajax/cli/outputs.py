"""Products that a configuration asks for: their settings, and the files and figures that they become."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from gammajax.cli.settings import (
    Count,
    Degrees,
    Energies,
    Energy,
    EnergyEdges,
    Latitude,
    Longitude,
    Number,
    Positive,
    Strict,
    Switch,
    TimeEdges,
)
from gammajax.common.writing import replacing
from gammajax.model.spectra import PowerLaw
from gammajax.products.goodness import check
from gammajax.products.light_curves import light_curve
from gammajax.products.source_search import UNIT
from gammajax.products.spectral_points import flux_points
from gammajax.products.ts_maps import ts_map
from gammajax.products.upper_limits import limits

# names of files of every run, which no product may have
OUTPUTS = ("posterior", "summary", "fractions", "corner", "counts", "run", "config", "report")


class Prepared(NamedTuple):
    """What products are made of: the posterior, its result, `best()` for its fit, a key of random numbers."""

    posterior: Any
    result: Any
    best: Any
    key: Any
    progress: bool


def _write(table, path: Path, index: str) -> None:
    """Write a table as CSV; an older one stays until the new one is complete."""
    with replacing(path.with_suffix(".csv")) as temporary:
        table.to_csv(temporary, index_label=index)


class Product(Strict):
    """Settings of a product."""

    @property
    def of_one(self) -> str:
        """What is of a single data set of events, in words; empty for none."""
        return ""

    @property
    def instead(self) -> str:
        """What would be right for other data."""
        return "leave it out"


class FluxPointsOutput(Product):
    """Settings of [`gammajax.flux_points`][]."""

    type: Literal["flux-points"]
    component: str
    edges: EnergyEdges
    energy: Literal["true", "reconstructed"] = "true"

    @property
    def of_one(self) -> str:
        """Slices of reconstructed energy."""
        return "flux points in reconstructed energy are" if self.energy == "reconstructed" else ""

    @property
    def instead(self) -> str:
        """What would be right for other data."""
        return "write energy: true"

    def make(self, given: Prepared):
        """The flux points."""
        options = {"energy": self.energy, "best": given.best(), "progress": given.progress}
        return flux_points(given.posterior, self.component, self.edges, **options)

    def write(self, points, path: Path) -> dict[str, Any]:
        """Write a table, and a file that gammapy reads; returns the figures by the end of their names."""
        _write(points.summary(), path, "bin")
        points.write(path.with_suffix(".ecsv"), overwrite=True)
        return {"": points.plot().figure, "-correlation": points.plot_correlation().figure}


class LightCurveOutput(Product):
    """Settings of [`gammajax.light_curve`][]."""

    type: Literal["light-curve"]
    component: str
    edges: TimeEdges = "runs"
    energy_range: Energies | None = None

    @property
    def of_one(self) -> str:
        """All light curves."""
        return "a light curve is"

    def make(self, given: Prepared):
        """The light curve."""
        options = {"energy_range": self.energy_range, "best": given.best(), "progress": given.progress}
        return light_curve(given.posterior, self.component, self.edges, **options)

    def write(self, curve, path: Path) -> dict[str, Any]:
        """Write a table; returns the figures by the end of their names."""
        _write(curve.summary(), path, "bin")
        return {"": curve.plot().figure}


class CheckOutput(Product):
    """Settings of [`gammajax.check`][]."""

    type: Literal["check"]
    replicas: Count | None = None

    def make(self, given: Prepared):
        """The check."""
        options = {"key": given.key, "replicas": self.replicas, "progress": given.progress}
        return check(given.posterior, given.result, **options)

    def write(self, made, path: Path) -> dict[str, Any]:
        """Write a table; returns the figures by the end of their names."""
        made.write(path.with_suffix(".csv"))
        several = len(made.maps) > 1
        maps = {f"-map{f'-{i + 1}' if several else ''}": one.plot() for i, one in enumerate(made.maps)}
        return {"": made.plot(), **maps}


class LimitsOutput(Product):
    """Settings of [`gammajax.limits`][]."""

    type: Literal["limits"]
    masses: Annotated[list[Energy], Field(min_length=1)]
    scale: str = "sigma_v"
    mass: str = "mass"
    expected: Switch = False
    log10_j_error: Annotated[Number, Field(ge=0)] = 0.0
    nuisance: Literal["profile", "marginal"] = "profile"

    @property
    def of_one(self) -> str:
        """Expected limits."""
        return "expected limits are" if self.expected else ""

    @property
    def instead(self) -> str:
        """What would be right for other data."""
        return "write expected: false"

    def make(self, given: Prepared):
        """The limits."""
        settings = self.model_dump(include={"scale", "log10_j_error", "nuisance"})
        expected = given.key if self.expected else None
        settings |= {"along": self.mass, "values": self.masses, "expected": expected, "progress": given.progress}
        return limits(given.posterior, **settings)

    def write(self, made, path: Path) -> dict[str, Any]:
        """Write tables; returns the figures by the end of their names."""
        _write(made.summary(), path, "row")
        made.write(path.with_suffix(".ecsv"), overwrite=True)
        return {"": made.plot().figure}


class TSMapOutput(Product):
    """Settings of [`gammajax.ts_map`][]; peaks are above `threshold` standard deviations."""

    type: Literal["ts-map"]
    width: Degrees | tuple[Degrees, Degrees]
    step: Degrees
    center: tuple[Longitude, Latitude] | None = None
    index: Number = 2.0
    sigma: Degrees | None = None
    n_sigma_ul: Positive = 2.0
    threshold: Positive = 5.0

    @property
    def of_one(self) -> str:
        """All maps."""
        return "a map of the test statistic is"

    def make(self, given: Prepared):
        """The map."""
        settings = self.model_dump(include={"width", "step", "center", "sigma", "n_sigma_ul"})
        settings |= {"spectrum": PowerLaw(self.index, UNIT), "best": given.best(), "progress": given.progress}
        return ts_map(given.posterior, **settings)

    def write(self, made, path: Path) -> dict[str, Any]:
        """Write a table of the peaks, and a file of maps; returns the figures by the end of their names."""
        peaks = made.peaks(self.threshold)
        _write(peaks, path, "peak")
        made.write(path.with_suffix(".fits"), overwrite=True)
        return {"": made.plot(peaks=peaks).figure}


ABSOLUTE = ("flux-points", "light-curve", "limits", "ts-map")  # which need a model without weights
Output = Annotated[
    FluxPointsOutput | LightCurveOutput | CheckOutput | LimitsOutput | TSMapOutput, Field(discriminator="type")
]
