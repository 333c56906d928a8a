"""Runs: observations as an array axis, for everything behind the border of the package.

Numbers of a run are data: programs compiled for two runs serve a thousand.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax.common.display import block, document, number_of, words
from gammajax.common.parameters import contents
from gammajax.instrument.observation import Aside, Observation


class Runs(eqx.Module):
    """Observations, stacked along their first axis.

    - `lon`, `lat` [deg], `livetime` [s], `energy_min`, `energy_max` [TeV], `offset_max` [deg], as in
      [`gammajax.Observation`][]; `response`: index into the distinct `responses`.
    """

    lon: Float[Array, " run"]
    lat: Float[Array, " run"]
    livetime: Float[Array, " run"]
    energy_min: Float[Array, " run"]
    energy_max: Float[Array, " run"]
    offset_max: Float[Array, " run"]
    response: Int[Array, " run"]
    aside: Aside = eqx.field(static=True)
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Numbers of runs and of responses."""
        return block(
            f"Runs: {number_of(len(self.observations), 'run')} with {number_of(len(self.responses), 'response')}"
        )

    @classmethod
    def of(cls, observations: tuple[Any, ...]) -> "Runs":
        """Stack observations, or anything with these numbers and a response; equal responses are one."""
        each = {id(observation.response): observation.response for observation in observations}
        keys = {number: contents(response) for number, response in each.items()}
        distinct: dict[Any, Any] = {}
        for number, response in each.items():
            distinct.setdefault(keys[number], response)
        places = {key: place for place, key in enumerate(distinct)}
        index = [places[keys[id(observation.response)]] for observation in observations]

        def column(name):
            return jnp.asarray(np.array([float(getattr(observation, name)) for observation in observations]))

        return cls(
            column("lon"),
            column("lat"),
            column("livetime"),
            column("energy_min"),
            column("energy_max"),
            column("offset_max"),
            jnp.asarray(np.array(index, np.int32)),
            Aside((tuple(observations), tuple(distinct.values()))),
        )

    def some(self, served: Int[np.ndarray, " part"]) -> "Runs":
        """Those of these numbers."""
        if np.array_equal(served, np.arange(self.lon.size)):
            return self
        return Runs.of(tuple(self.observations[number] for number in served))

    @property
    def observations(self) -> tuple[Observation, ...]:
        """The observations; not for compiled functions."""
        return self.aside.value[0]

    @property
    def responses(self) -> tuple[Any, ...]:
        """Distinct responses; not for compiled functions."""
        return self.aside.value[1]

    @property
    def highest_energy(self) -> list[float]:
        """End of the effective area of each response [TeV]."""
        return [float(np.exp(float(response.effective_area.axes[0].upper))) for response in self.responses]
