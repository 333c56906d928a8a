"""Data of a configuration: one or several data sets, events to simulate, and cells."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from gammajax import io
from gammajax.cli.settings import (
    Degrees,
    Direction,
    Directions,
    Energies,
    EnergyEdges,
    Events,
    Frame,
    Livetime,
    Number,
    OffRegions,
    OffRing,
    Phases,
    Positive,
    Radius,
    Strict,
    Switch,
    Texts,
    Whole,
    number_in,
    pair,
)
from gammajax.events.on_off_run import OnOffRun
from gammajax.instrument.observation import Observation
from gammajax.io.ctao_prod5 import EMBEDDED
from gammajax.io.on_off_regions import off_ring
from gammajax.likelihood import Binned, OnOff, OnOffCounts

HIGHEST = 1000.0  # TeV, beyond the responses of Cherenkov telescopes


class DataSet(Strict):
    """What all kinds of data have.

    `components`: paths of those that these data see, or of inner mixtures for all in them; by default all that they can
    see.
    """

    of_events: ClassVar[bool] = True  # which have directions, and so the likelihood of events
    frame: Frame = "icrs"
    energy_range: Energies | None = None
    components: Texts | None = None

    @property
    def names(self) -> list[str] | None:
        """The components as a list."""
        return [self.components] if isinstance(self.components, str) else self.components

    @property
    def only(self) -> tuple[str, ...]:
        """Kinds of components that these data can see."""
        return "source", "background"


class Pointings(DataSet):
    """Pointings to simulate, all with one response."""

    pointings: Directions
    livetime: Livetime
    energy_range: Energies = (0.1, 100.0)
    offset_max: Radius = 3.0
    exclusion: Texts | None = None

    def _each(self, read: Callable, **response) -> list[Observation]:
        """Observations that `read` makes, one for each pointing."""
        shared = self.model_dump(include=set(Pointings.model_fields) - {"pointings", "livetime", "components"})
        shared |= {"livetime": self.livetime, **response}
        return [read(pointing=p, obs_id=str(i), **shared) for i, p in enumerate(self.pointings)]


class CtaoObservations(Pointings):
    """Pointings of CTAO, with an embedded response."""

    kind: Literal["ctao"]
    site: str = "South"
    zenith: number_in("deg") = 20.0  # pyright: ignore[reportInvalidTypeForm]
    hours: number_in("h") = 50.0  # pyright: ignore[reportInvalidTypeForm]

    @model_validator(mode="after")
    def _embedded(self):
        if (self.site, self.zenith, self.hours) not in EMBEDDED:
            embedded = " or ".join(f"site: {site}, zenith: {z}, hours: {h}" for site, z, h in EMBEDDED)
            raise ValueError(
                f"no response for site: {self.site}, zenith: {self.zenith:g}, hours: {self.hours:g} is embedded; there "
                f"is {embedded}; for another file write kind: response and path: FILE in the place of these keys"
            )
        return self

    def make(self) -> list[Observation]:
        """The observations, without events."""
        return self._each(io.ctao, site=self.site, zenith=self.zenith, hours=self.hours)


class ResponseObservations(Pointings):
    """Pointings with the response of a file."""

    kind: Literal["response"]
    path: str

    def make(self) -> list[Observation]:
        """The observations, without events; raises `ValueError` and `FileNotFoundError` for the file."""
        return self._each(partial(io.observation, self.path))


class Store(DataSet):
    """Runs of a data store."""

    path: str | Annotated[dict[str, str], Field(min_length=1)]
    obs_ids: Annotated[list[Whole], Field(min_length=1)] | None = None
    event_types: Texts | None = None
    exclusion: Texts | None = None

    def _read(self, reader: Callable, **options) -> Any:
        shared = self.model_dump(include=set(Store.model_fields) - {"components"})
        return reader(**shared, **options)

    @model_validator(mode="after")
    def _once(self):
        for number in self.obs_ids or ():
            if (self.obs_ids or []).count(number) > 1:
                raise ValueError(f"obs_ids holds run {number} twice; give each run once")
        if self.energy_range and self.energy_range[1] > HIGHEST:
            low, high = self.energy_range
            raise ValueError(
                f"energy_range: no telescope sees [{low:g}, {high:g}] TeV; are these GeV? then write [{low:g} GeV, "
                f"{high:g} GeV]"
            )
        return self


class GadfObservations(Store):
    """Runs of a GADF data store."""

    kind: Literal["gadf"]
    offset_max: Radius = 2.0

    def read(self, part: tuple[int, int]) -> io.Data:
        """Events and observations; errors are those of [`gammajax.io.read_gadf`][]."""
        return self._read(io.read_gadf, offset_max=self.offset_max, part=part)


class OnOffObservations(Store):
    """ON and OFF regions of the runs of a data store: every event, or counts in cells between `edges`."""

    of_events: ClassVar[bool] = False
    kind: Literal["on-off"]
    target: Direction
    radius: Degrees | None = None
    off: OffRegions = "reflected"
    phase: Annotated[tuple[Phases, Phases], BeforeValidator(pair)] | None = None
    edges: EnergyEdges | None = None
    shape: Positive | None = None
    rate: Annotated[Number, Field(ge=0)] | None = None
    by_run: Switch = False

    @property
    def only(self) -> tuple[str, ...]:
        """Kinds of components that these data can see."""
        return ("source", "off-background") if self.edges is None else ("source",)

    @model_validator(mode="after")
    def _cells(self):
        given = {"by_run": self.by_run or None, "shape": self.shape, "rate": self.rate}
        for name in (name for name, value in given.items() if value is not None and self.edges is None):
            raise ValueError(f"{name} is of counts in cells; give their edges, as in edges: [0.1, 1.0, 10.0]")
        return self

    def read(self) -> list[OnOffRun]:
        """The runs; errors are those of [`gammajax.io.read_on_off`][]."""
        off = self.off
        if isinstance(off, OffRing):
            off = off_ring(off.center or self.target, off.inner, off.outer, self.frame)
        given = {"target": self.target, "radius": self.radius, "off": off, "phase": self.phase}
        return self._read(io.read_on_off, **given)

    def data_set(self, runs: list[OnOffRun], name: str | None) -> OnOff | OnOffCounts:
        """The data set of the runs."""
        if self.edges is None:
            return OnOff(runs, components=self.names, name=name)
        cells = {"shape": self.shape, "rate": self.rate, "by_run": self.by_run}
        return OnOffCounts(runs, self.edges, components=self.names, name=name, **cells)


class GammapyDatasets(DataSet):
    """Counts in bins of files of gammapy: DL4 products, single datasets, OGIP spectra."""

    of_events: ClassVar[bool] = False
    kind: Literal["gammapy"]
    datasets: Texts

    def read(self, name: str | None) -> list[Binned]:
        """The data sets; errors are those of [`gammajax.io.from_gammapy_datasets`][]."""
        options = {"frame": self.frame, "components": self.names, "energy_range": self.energy_range}
        found = io.from_gammapy_datasets(self.datasets, **options)
        if name is None:
            return found
        names = [name] if len(found) == 1 else [f"{name}: {one.name}" for one in found]
        return [dataclasses.replace(one, name=own) for one, own in zip(found, names, strict=True)]


Section = Annotated[
    CtaoObservations | ResponseObservations | GadfObservations | OnOffObservations | GammapyDatasets,
    Field(discriminator="kind"),
]


def one_or_several(value) -> str:
    """Whether observations are one section or several by name."""
    several = isinstance(value, dict) and value and "kind" not in value
    return "several" if several and all(isinstance(part, dict | DataSet) for part in value.values()) else "one"


Observations = Annotated[
    Annotated[Section, Tag("one")] | Annotated[dict[str, Section], Tag("several")], Discriminator(one_or_several)
]


class Simulation(Strict):
    """Events to simulate at the true parameters: a number, or true for the number that the fluxes predict."""

    simulate: Events


class Compression(Strict):
    """Events merged in cells, as [`gammajax.Binning.init`][] makes them."""

    energy_per_decade: Positive | None = None
    pixel: Degrees | None = None
