"""Round sources without images: the kernel of one with a fixed morphology, and intensities of one with a free one.

    lambda_k = t Sum_j F_j Sum_m h_m (A D)_kjm C_jm(r_k),

C_jm and the mean hat functions h_m at the true directions from [`gammajax.radial`][]. Rows out of reach of the source
cost nothing. Excluded sky leaves the expected counts by the same sum, with the exposure in place of A D.
"""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gammajax import distributed
from gammajax.energy import EnergyNodes
from gammajax.engines.detector import Detector
from gammajax.engines.exposure import Exposure
from gammajax.engines.rows import Rows
from gammajax.morphology import Morphology, Point
from gammajax.radial import Folded, PointFold, RadialFold, directions, radial_fold
from gammajax.runs import Runs
from gammajax.sky import displace, separation_on_host

CHUNK = 2**11  # pairs of row and point, per step of an evaluation: bounds its memory
PIXELS = 256  # the same for pixels of excluded sky, with all true energies
PROBES = 64  # runs whose offsets set the window of offsets


class RadialResponse(eqx.Module):
    """Response of all runs to one fixed round morphology, for kernels; see [`gammajax.engines.kernel.folded`][]."""

    morphology: Morphology
    runs: Runs
    detector: Detector
    folded: Folded
    exposure: Float[Array, "run energy"]
    window: int = eqx.field(static=True)

    @classmethod
    def init(cls, morphology: Morphology, runs: Runs, nodes: EnergyNodes) -> "RadialResponse":
        """Fold; eager."""
        fold = radial_fold([morphology], runs, np.asarray(nodes.energy, np.float64))
        detector = Detector.init(runs, nodes, fold.offsets)
        folded = _fold(fold, morphology)
        window = _window(folded, morphology, runs, nodes)
        exposure = Exposure.init(detector, runs, nodes, fold.reach)
        counted = _by_energy(exposure, morphology, runs)
        excluded = Excluded.init([morphology], runs, nodes, detector, fold.reach)
        if excluded is not None:
            counted = counted - _excluded(excluded, folded, morphology, runs)
        return cls(morphology, runs, detector, folded, counted, window)

    def first(self, run, lon, lat, start, band: int) -> Int[Array, " row"]:
        """First offset node of the windows of rows with points [row, point]."""
        rows, points = lon.shape
        run, start = jnp.repeat(run, points), jnp.repeat(start, points)
        there = directions(self.morphology, lon.ravel(), lat.ravel(), (self.runs.lon[run], self.runs.lat[run]))
        low, _ = _ends(self.folded, self.runs.response[run], start, band, there)
        low = jnp.floor(low.reshape(rows, -1).min(1)).astype(jnp.int32)
        return jnp.clip(low, 0, self.folded.offsets.size - self.window)

    def detected(self, run, first, energy, node, energy_true) -> Float[Array, "row offset band"]:
        """T A D [cm^2 s TeV^-1] at the windows."""
        values = self.detector(self.runs.response[run], energy, node, energy_true, first, self.window)
        return self.runs.livetime[run][:, None, None] * values

    def kernel(self, detected, run, first, point, start) -> Float[Array, "row band"]:
        """Kernel [cm^2 s TeV^-1 sr^-1] of each row at one direction."""
        lon, lat = point
        there = directions(self.morphology, lon, lat, (self.runs.lon[run], self.runs.lat[run]))
        return self.folded.kernel(detected, self.runs.response[run], first, start, there)


class Excluded(eqx.Module):
    """Pixels of excluded sky in reach of a source: `solid_angle` [sr], and the exposure [cm^2 s] of every run."""

    run: Int[Array, " pixel"]
    lon: Float[Array, " pixel"]
    lat: Float[Array, " pixel"]
    solid_angle: Float[Array, " pixel"]
    exposure: Float[Array, "run offset energy"]

    @classmethod
    def init(cls, morphologies, runs: Runs, nodes: EnergyNodes, detector: Detector, reach: float) -> "Excluded | None":
        """Pixels within the selections; None if there are none."""
        columns = []
        for number, observation in enumerate(runs.observations):
            exclusion = observation.exclusion
            if exclusion is None or not observation.excludes:
                continue
            grid = exclusion.grid
            lon, lat = (np.asarray(column, np.float64) for column in _centres(grid))
            inside = np.asarray(exclusion.excluded) & (
                separation_on_host(lon, lat, observation.lon, observation.lat) <= observation.offset_max
            )
            lon, lat = lon[inside], lat[inside]
            near = in_reach(morphologies, lon, lat, reach)
            columns.append([np.full(near.sum(), number), lon[near], lat[near], np.full(near.sum(), grid.solid_angle)])
        if not sum(column[0].size for column in columns):
            return None
        run, lon, lat, solid_angle = (np.concatenate(part) for part in zip(*columns, strict=True))
        count = -(-run.size // PIXELS) * PIXELS
        solid_angle = np.where(np.arange(count) < run.size, np.resize(solid_angle, count), 0.0)
        run, lon, lat = (np.resize(column, count) for column in (run, lon, lat))
        exposure = jnp.moveaxis(detector.exposure(runs, nodes.energy), 2, 1)
        lon, lat, solid_angle = (jnp.asarray(np.asarray(column, exposure.dtype)) for column in (lon, lat, solid_angle))
        return cls(jnp.asarray(run), lon, lat, solid_angle, exposure)

    def __call__(self, folded: Folded, morphology: Morphology, runs: Runs) -> Float[Array, "run energy"]:
        """Exposure [cm^2 s] of the source through these pixels."""
        energies = self.exposure.shape[2]

        @jax.checkpoint
        def some(columns):
            run, lon, lat, solid_angle = columns
            there = directions(morphology, lon, lat, (runs.lon[run], runs.lat[run]))
            none = jnp.zeros_like(run)
            kernel = folded.kernel(self.exposure[run], runs.response[run], none, none, there)
            return kernel * solid_angle[:, None]

        columns = (self.run, self.lon, self.lat, self.solid_angle)
        values = jax.lax.map(some, jax.tree.map(lambda a: a.reshape(-1, PIXELS), columns))
        return jax.ops.segment_sum(values.reshape(-1, energies), self.run, runs.lon.size)


class RadialSource(eqx.Module):
    """A round source with a free morphology.

    Pairs of a row in reach and one of its points: `exact` [cm^2 s TeV^-1] is T A D in a window of offsets from `first`
    and of energies from `start` on. `members`: the rows; `weight` of the points.
    """

    nodes: EnergyNodes
    runs: Runs
    fold: PointFold | RadialFold
    exposure: Exposure
    excluded: Excluded | None
    run: Int[Array, " pair"]
    lon: Float[Array, " pair"]
    lat: Float[Array, " pair"]
    first: Int[Array, " pair"]
    start: Int[Array, " pair"]
    exact: Float[Array, "pair offset band"]
    weight: Float[Array, "row point"]
    members: Int[Array, " row"]
    rows: int = eqx.field(static=True)

    @classmethod
    def init(cls, morphologies: Sequence[Morphology], rows: Rows) -> "RadialSource":
        """Tabulate for the source at several values of its parameters; eager."""
        runs, nodes = rows.runs, rows.nodes
        fold = radial_fold(morphologies, runs, np.asarray(nodes.energy, np.float64))
        detector = Detector.init(runs, nodes, fold.offsets)
        points = rows.points()
        near = in_reach(morphologies, points.lon, points.lat, fold.reach).any(1)
        mine, place = rows.share(np.flatnonzero(near))
        energy, lon, lat, weight = rows.points(mine).pairs()
        each = weight.shape[1]
        run = np.repeat(rows.observation[mine], each)
        start = np.repeat(np.repeat(rows.start, rows.block)[mine], each)
        low, high = _hull(fold, morphologies, runs, run, lon, lat, start, rows.band)
        # arrays of all processes have one shape
        window = int(distributed.over(rows.shared, np.max, (high - low).max(initial=1))) + 1
        first = np.minimum(low, fold.offsets.size - window)
        exact = _exact(detector, runs, nodes, rows.band, window, run, energy, first, start, rows.dtype)
        return cls(
            nodes,
            runs,
            fold,
            Exposure.init(detector, runs, nodes, fold.reach),
            Excluded.init(morphologies, runs, nodes, detector, fold.reach),
            rows.place(run.astype(np.int32)),
            rows.place(lon),
            rows.place(lat),
            rows.place(first.astype(np.int32)),
            rows.place(start),
            rows.place(exact),
            rows.place(weight),
            rows.place(place),
            rows.total,
        )

    def intensity(self, morphology: Morphology, flux: Float[Array, " energy"]) -> Float[Array, " row"]:
        """Intensity [TeV^-1 sr^-1] of every row."""
        folded = self.fold(morphology)
        band = self.exact.shape[2]
        runs = self.runs

        @jax.checkpoint
        def some(columns):
            run, lon, lat, first, start, exact = columns
            there = directions(morphology, lon, lat, (runs.lon[run], runs.lat[run]))
            near = flux[start[:, None] + jnp.arange(band)]
            return (folded.kernel(exact, runs.response[run], first, start, there) * near).sum(1)

        columns = (self.run, self.lon, self.lat, self.first, self.start, self.exact)
        values = _by_chunks(some, columns)
        values = (values.reshape(self.weight.shape) * self.weight).sum(1)
        # transforms leave noise of either sign; not maximum: its derivative at zero is one half
        values = jnp.where(values < 0.0, 0.0, values)
        result = jnp.zeros(self.rows, flux.dtype)
        return result.at[self.members].set(values.astype(result.dtype), mode="drop")

    def expected_counts(self, morphology: Morphology, flux: Float[Array, " energy"]) -> Float[Array, " run"]:
        """Expected counts in the selection of every run."""
        counts = self.exposure(morphology, flux, self.runs)
        if self.excluded is None:
            return counts
        return counts - self.excluded(self.fold(morphology), morphology, self.runs) @ flux


def _by_chunks(function, columns):
    """Apply to whole chunks of rows and to the rest."""
    size = columns[0].shape[0]
    chunk = min(CHUNK, size)
    if size == 0:
        return jnp.zeros(0)
    whole = size // chunk * chunk
    values = jax.lax.map(function, jax.tree.map(lambda a: a[:whole].reshape(-1, chunk, *a.shape[1:]), columns)).reshape(
        whole
    )
    if whole == size:
        return values
    return jnp.concatenate([values, function(jax.tree.map(lambda a: a[whole:], columns))])


def in_reach(morphologies: Sequence[Morphology], lon, lat, reach: float) -> np.ndarray:
    """Whether a photon of any of the sources can be reconstructed in these directions [deg]."""
    near = np.zeros(np.shape(lon), bool)
    for place in {tuple(float(x) for x in (m.lon, m.lat, m.radius)) for m in morphologies}:
        near |= separation_on_host(lon, lat, *place[:2]) <= place[2] + reach
    return near


def _ends(folded, response, start, band: int, there):
    """Lowest and highest offset of the true directions of each pair, in steps of the offset nodes."""
    last = folded.offsets.size - 1
    at = folded.sides(response, jnp.zeros_like(start), last + 1, start, band, there)
    at = jnp.clip(at, 0.0, last)
    return at.min((0, 2, 3)), at.max((0, 2, 3))


def _window(folded, morphology, runs, nodes) -> int:
    """Number of offset nodes that the true directions of one reconstructed direction can reach."""
    if isinstance(morphology, Point):
        return 2
    away = separation_on_host(runs.lon, runs.lat, morphology.lon, morphology.lat)
    probed = np.argsort(away)[np.unique(np.linspace(0, away.size - 1, PROBES).astype(int))]
    probed = np.resize(probed, min(PROBES, away.size))
    rad = float(morphology.radius) * np.linspace(0.0, 1.3, 14)
    angle = np.arange(0.0, 360.0, 30.0)
    low, high = _probe(folded, morphology, runs, jnp.asarray(probed), jnp.asarray(rad), jnp.asarray(angle), nodes)
    count = np.ceil(np.asarray(high) - 1e-4) - np.floor(np.asarray(low) + 1e-4)
    return min(int(count.max()) + 2, folded.offsets.size)


@eqx.filter_jit
def _probe(folded, morphology, runs, probed, rad, angle, nodes):
    run = jnp.repeat(probed, rad.size * angle.size)
    r, a = (x.ravel() for x in jnp.meshgrid(rad, angle))
    lon, lat = displace(morphology.lon, morphology.lat, jnp.tile(r, probed.size), jnp.tile(a, probed.size))
    there = directions(morphology, lon, lat, (runs.lon[run], runs.lat[run]))
    return _ends(folded, runs.response[run], jnp.zeros_like(run), nodes.energy.size, there)


def _hull(fold, morphologies, runs, run, lon, lat, start, band):
    """First and last offset node of the true directions of each pair, for any of the morphologies."""
    low = np.full(run.size, np.inf)
    high = np.full(run.size, -np.inf)
    size = CHUNK * 4
    padded = -(-max(run.size, 1) // size) * size
    columns = [np.resize(np.asarray(c), padded) if run.size else None for c in (run, lon, lat, start)]
    seen = []
    for morphology in morphologies:
        place = jax.tree.map(float, morphology)
        if any(place == other for other in seen) or not run.size:
            continue
        seen.append(place)
        a, b = _hull_of(fold, morphology, runs, tuple(map(jnp.asarray, columns)), band)
        low, high = np.minimum(low, np.asarray(a)[: run.size]), np.maximum(high, np.asarray(b)[: run.size])
    last = fold.offsets.size - 1
    low = np.clip(np.floor(low), 0, last - 1).astype(int)
    return low, np.clip(np.ceil(high), low + 1, last).astype(int)


@eqx.filter_jit
def _hull_of(fold, morphology, runs, columns, band: int):
    folded = fold(morphology)

    def some(columns):
        run, lon, lat, start = columns
        there = directions(morphology, lon, lat, (runs.lon[run], runs.lat[run]))
        return _ends(folded, runs.response[run], start, band, there)

    columns = jax.tree.map(lambda a: a.reshape(-1, CHUNK), columns)
    return jax.tree.map(jnp.ravel, jax.lax.map(some, columns))


def _exact(detector, runs, nodes, band, window, run, energy, first, start, dtype):
    """T A D of all pairs, a chunk at a time, on the host."""
    result = np.empty((run.size, window, band), dtype)
    size = CHUNK
    for begin in range(0, run.size, size):
        chunk = slice(begin, begin + size)
        columns = [jnp.asarray(np.resize(c[chunk], size)) for c in (run, energy, first, start)]
        result[chunk] = np.asarray(_detected(detector, runs, nodes, band, window, *columns))[: run[chunk].size]
    return result


@eqx.filter_jit
def _detected(detector, runs, nodes, band: int, window: int, run, energy, first, start):
    node = start[:, None] + jnp.arange(band)
    values = detector(runs.response[run], energy, node, nodes.energy[node], first, window)
    return runs.livetime[run][:, None, None] * values


@eqx.filter_jit
def _fold(fold, morphology):
    return fold(morphology)


@eqx.filter_jit
def _by_energy(exposure, morphology, runs):
    return exposure.by_energy(morphology, runs)


@eqx.filter_jit
def _excluded(excluded, folded, morphology, runs):
    return excluded(folded, morphology, runs)


@eqx.filter_jit
def _centres(grid):
    return grid.directions()
