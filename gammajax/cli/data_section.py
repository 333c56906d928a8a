"""Data of a configuration: observations, events to simulate, and cells."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gammajax import io
from gammajax.cli.settings import (
    Degrees,
    Directions,
    Energies,
    Events,
    Frame,
    Livetime,
    Positive,
    Radius,
    Strict,
    Texts,
    Whole,
    number_in,
)
from gammajax.instrument.observation import Observation
from gammajax.io.ctao_prod5 import EMBEDDED

HIGHEST = 1000.0  # TeV, beyond the responses of Cherenkov telescopes


class Pointings(Strict):
    """Pointings to simulate, all with one response."""

    pointings: Directions
    frame: Frame = "icrs"
    livetime: Livetime
    energy_range: Energies = (0.1, 100.0)
    offset_max: Radius = 3.0
    exclusion: Texts | None = None

    def _each(self, read: Callable, **response) -> list[Observation]:
        """Observations that `read` makes, one for each pointing."""
        shared = self.model_dump(include=set(Pointings.model_fields) - {"pointings", "livetime"})
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


class GadfObservations(Strict):
    """Runs of a GADF data store."""

    kind: Literal["gadf"]
    path: str | Annotated[dict[str, str], Field(min_length=1)]
    obs_ids: Annotated[list[Whole], Field(min_length=1)] | None = None
    event_types: Texts | None = None
    frame: Frame = "icrs"
    energy_range: Energies | None = None
    offset_max: Radius = 2.0
    exclusion: Texts | None = None

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


class Simulation(Strict):
    """Events to simulate at the true parameters: a number, or true for the number that the fluxes predict."""

    simulate: Events


class Compression(Strict):
    """Events merged in cells, as [`gammajax.Binning.init`][] makes them."""

    energy_per_decade: Positive | None = None
    pixel: Degrees | None = None
