"""Shapes that change with true energy: their size and position between those at given energies."""

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from gammajax.common.display import described, document
from gammajax.common.parameters import floating, is_concrete
from gammajax.instrument.sky import separation
from gammajax.model.morphology import Morphology

BATCH = 256  # directions drawn at a time: some shapes make a table for each


def _row(values) -> Array | np.ndarray:
    """Numbers at the energies, which may be traced one by one."""
    if isinstance(values, list | tuple) and any(isinstance(value, jax.Array | Tracer) for value in values):
        return jnp.stack([jnp.asarray(value, float) for value in values])
    return floating(values)


class EnergyDependent(Morphology):
    """A shape whose size is a function of true energy E, by its factors at given energies; and its position, if wanted.

        size(E) = size f_p^(1 - x) f_p+1^x,    shift(E) = (1 - x) d_p + x d_p+1,    x = ln(E / E_p) / ln(E_p+1 / E_p),

    a power law from one energy to the next, and constant below the first and above the last. Two energies make one
    power law, as in the example.

    - `shape`: one with a size, such as [`gammajax.Gaussian`][] or [`gammajax.Disk`][].
    - `energy` [TeV]: increasing, at least two. With ends near those of the data, the tables of engines are small.
    - `size`: factor f on the size of the shape (`sigma`, `r_0` ..., and the rim of a disk) at each energy.
    - `shift_lon`, `shift_lat` [deg]: d, added to the position of the shape at each energy; None without a shift.

    Parameters of the shape, `size` and shifts may be free. `morphology.at(energy)` is the shape at one energy, with
    `brightness`, `sample` and `plot`. The fold engine takes free round shapes without a shift; the kernel engine all
    that are fixed, and the direct engine all. Raises `ValueError` for energies that are not increasing, numbers that
    do not fit them, factors that are not positive, and shapes without a size.

    >>> import gammajax as gj
    >>> ends, delta = (0.1, 100.0), 0.3  # a width of 0.2 deg (E / 1 TeV)^-0.3
    >>> nebula = gj.EnergyDependent(gj.Gaussian(0.0, 0.0, sigma=0.2), ends, size=[e**-delta for e in ends])
    >>> round(float(nebula.at(10.0).sigma), 4)
    0.1002
    """

    is_energy_dependent: ClassVar[bool] = True
    shape: Morphology
    energy: Float[Array | np.ndarray, " node"] = eqx.field(converter=_row, metadata={"unit": "TeV"})
    size: Float[Array | np.ndarray, " node"] = eqx.field(converter=_row)
    shift_lon: Float[Array | np.ndarray, " node"] | None = None
    shift_lat: Float[Array | np.ndarray, " node"] | None = None
    __repr__, __pdoc__ = described, document

    def __init__(self, shape: Morphology, energy, size, shift_lon=None, shift_lat=None):
        if not (isinstance(shape, Morphology) and shape.sizes):
            kind = type(shape).__name__
            raise ValueError(f"an EnergyDependent needs a shape with a size, as a gammajax.Gaussian has; not a {kind}")
        self.shape, self.energy, self.size = shape, _row(energy), _row(size)
        self.shift_lon, self.shift_lat = (None if d is None else _row(d) for d in (shift_lon, shift_lat))

    def __check_init__(self):
        energy = self.energy
        if energy.ndim != 1 or energy.size < 2:
            raise ValueError(f"an EnergyDependent needs at least two energies, not {np.asarray(energy)}")
        if is_concrete(energy) and not (float(energy[0]) > 0 and np.all(np.diff(np.asarray(energy)) > 0)):
            raise ValueError(f"the energies of an EnergyDependent must be positive and increasing, not {energy}")
        for name in ("size", "shift_lon", "shift_lat"):
            value = getattr(self, name)
            if value is not None and value.shape != energy.shape:
                raise ValueError(f"{name} of an EnergyDependent has {value.size} numbers for {energy.size} energies")
        if is_concrete(self.size) and not np.all(np.asarray(self.size) > 0):
            raise ValueError(f"the size of an EnergyDependent is a positive factor, not {np.asarray(self.size)}")

    def at(self, energy):
        energy = jnp.asarray(energy, float)
        log_energy, nodes = jnp.log(energy), jnp.log(self.energy)
        shape = self._with(
            jnp.exp(jnp.interp(log_energy, nodes, jnp.log(self.size))),
            *(None if d is None else jnp.interp(log_energy, nodes, d) for d in (self.shift_lon, self.shift_lat)),
        )
        return shape if energy.ndim == 0 else ShapeSlice(shape)  # pyright: ignore[reportCallIssue]

    def largest(self, energy):
        """The shape at its largest size, and the sizes at energies [TeV] relative to that; without shifts."""
        top, log_size = self.size.max(), jnp.log(self.size)
        relative = jnp.exp(jnp.interp(jnp.log(energy), jnp.log(self.energy), log_size - jnp.log(top)))
        return self._with(jnp.asarray(top), None, None), relative

    def _with(self, size, shift_lon, shift_lat) -> Morphology:
        """The shape with a factor on its size, elsewhere."""
        changed = {name: getattr(self.shape, name) * size for name in self.shape.sizes}
        for name, shift in (("lon", shift_lon), ("lat", shift_lat)):
            if shift is not None:
                changed[name] = getattr(self.shape, name) + shift
        return eqx.tree_at(lambda m: [getattr(m, name) for name in changed], self.shape, list(changed.values()))

    def _nodes(self) -> list[Morphology]:
        """The shapes at the energies."""
        shifts = ([None] * self.size.size if d is None else d for d in (self.shift_lon, self.shift_lat))
        return [self._with(*row) for row in zip(self.size, *shifts, strict=True)]

    @property
    def lon(self):
        """Longitude [deg] of the shape, without a shift."""
        return self.shape.lon

    @property
    def lat(self):
        """Latitude [deg] of the shape, without a shift."""
        return self.shape.lat

    def brightness(self, lon, lat):
        raise TypeError("the brightness of an EnergyDependent changes with energy: take it of morphology.at(energy)")

    def sample(self, key, size, reach=180.0):
        raise TypeError("directions of an EnergyDependent change with energy: draw them of morphology.at(energy)")

    def pixel_fractions(self, grid, order):
        raise TypeError("pixels of an EnergyDependent change with energy: take them of morphology.at(energy)")

    @property
    def is_round(self):
        shifts = [d for d in (self.shift_lon, self.shift_lat) if d is not None]
        still = is_concrete(self) and not np.any(np.asarray(shifts))
        return still and all(shape.is_round for shape in self._nodes())

    @property
    def breaks(self):
        return jnp.stack([shape.breaks for shape in self._nodes()]).max(0)

    @property
    def radius(self):
        shapes = self._nodes()
        away = jnp.stack([separation(self.lon, self.lat, shape.lon, shape.lat) for shape in shapes])
        return (away + jnp.stack([jnp.asarray(shape.radius) for shape in shapes])).max()

    @property
    def scale(self):
        return jnp.stack([jnp.asarray(shape.scale) for shape in self._nodes()]).min()


class ShapeSlice(Morphology):
    """A [`gammajax.EnergyDependent`][] at an array of energies: a `shape` with arrays for its parameters."""

    shape: Morphology
    __repr__, __pdoc__ = described, document

    @property
    def lon(self):
        """Longitudes [deg] of the centre."""
        return self.shape.lon

    @property
    def lat(self):
        """Latitudes [deg] of the centre."""
        return self.shape.lat

    def brightness(self, lon, lat):
        return self._each(lambda shape, lon, lat: shape.brightness(lon, lat), lon, lat)

    def sample(self, key, size, reach=180.0):
        """Random directions (lon, lat) [deg], one for each of `size` energies."""
        leaves, kind = jax.tree.flatten(self.shape)

        def one(row):
            lon, lat = jax.tree.unflatten(kind, row[1]).sample(row[0], 1)
            return lon[0], lat[0]

        rows = jax.random.split(key, size), [jnp.broadcast_to(leaf, (size,)) for leaf in leaves]
        return jax.lax.map(one, rows, batch_size=BATCH)

    @property
    def radius(self):
        return self._each(lambda shape: jnp.asarray(shape.radius)).max()

    @property
    def scale(self):
        return self._each(lambda shape: jnp.asarray(shape.scale)).min()

    def _each(self, function, *arguments):
        """A function of the shape at every energy, and of arguments that broadcast against the energies."""
        leaves, kind = jax.tree.flatten(self.shape)

        def one(*values):
            return function(jax.tree.unflatten(kind, values[: len(leaves)]), *values[len(leaves) :])

        return jnp.vectorize(one)(*leaves, *arguments)
