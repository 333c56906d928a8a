"""Likelihood of binned counts: of Poisson where a background is known, else the profile likelihood of ON and OFF.

A source k expects in the bin of reconstructed energy i and pixel p

    mu_kip = Sum_j R_kji F_kj A_jp C_kjp

with its flux F in bins of true energy, the dispersion R of photons of a bin over reconstructed energies, the exposure A
and the part C of its photons in the pixel, which is the morphology in pixels, convolved with the point spread function.
As in gammapy, R and the kernel are those at the position of the source, here at the centres of the priors.
Spectra have one pixel with all photons of a source: their exposure includes the part within the region.

    Poisson     ln L = Sum n ln mu - mu                  = -cash / 2,   mu = Sum_k mu_k + background
    ON and OFF  ln L = max over b of the two Poissonians = -wstat / 2,  mu_on = Sum_k mu_k + alpha b,  mu_off = b

(W. Cash 1979, doi:10.1086/156922; `wstat` of XSPEC's appendix B, with the terms that make a perfect fit zero).
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float
from scipy.fft import next_fast_len

from gammajax.common.display import block, document, number_of, total, words
from gammajax.instrument.observation import Aside
from gammajax.likelihood.sums import accurate_sum, sum_of_logs
from gammajax.likelihood.term import Data, Reference, Setup, Term, require_energies_alone, seen
from gammajax.model.mixture import InstrumentBackground, Mixture, Source, or_undefined
from gammajax.model.morphology import Morphology, Point
from gammajax.model.off_background import OffBackground
from gammajax.model.splines import cubic_pieces, piece_weights

POINTS = 3, 10  # fewest and most Gauss-Legendre points along a side of a pixel
BEYOND, MOST = 0.5, 4.0  # in ln E', by which an energy scale may move counts, and in ln counts there
LEAST = 1e-30  # counts, whose logarithm is taken
MARGIN = 0.02  # deg beyond the ends of priors of a position, for the fit of pixel coordinates


class Pixels(NamedTuple):
    """Sky pixels of counts, as functions: of directions [deg] and of pixel coordinates (x, y).

    `directions(x, y)` and `coordinates(lon, lat)` are inverse; `size` of a side [deg].
    """

    directions: Callable
    coordinates: Callable
    size: float


class Binned(Data):
    """Counts in bins of energy, and of the sky or a region, with the response of these data.

    `gammajax.io.from_gammapy_datasets` makes them. Arrays have the axes energy, y, x; spectra have one pixel.

    - `counts` between the `edges` [TeV] of reconstructed energy; `mask` of the bins that count.
    - `exposure` [cm^2 s] between the `edges_true` [TeV] of true energy.
    - `background`: expected counts, or None.
    - `counts_off` and `ratio`: counts of OFF regions, and ratio of the acceptances of ON and OFF; or None.
    - `response(lon, lat)`: kernel of the point spread function [true energy, y, x] or None, and dispersion
      [true energy, energy], at a direction. `pixels` and their `solid_angle` [sr]: for maps.
    - `components`: those that these data see, by path; by default all sources, and the instrument's background where
      these data have one.

    Raises `ValueError` for a mask without bins, and for acceptance ratios that are not positive.
    """

    name: str | None = eqx.field(static=True)
    counts: Float[np.ndarray, "energy y x"]
    mask: Bool[np.ndarray, "energy y x"]
    edges: Float[np.ndarray, " edge"]
    edges_true: Float[np.ndarray, " edge_true"]
    exposure: Float[np.ndarray, "true y x"]
    response: Callable = eqx.field(static=True)
    background: Float[np.ndarray, "energy y x"] | None = None
    counts_off: Float[np.ndarray, "energy y x"] | None = None
    ratio: Float[np.ndarray, "energy y x"] | None = None
    solid_angle: Float[np.ndarray, "y x"] | None = None
    pixels: Pixels | None = eqx.field(static=True, default=None)
    components: Sequence[str] | str | None = eqx.field(static=True, converter=seen, default=None)
    __pdoc__ = document

    def __check_init__(self):
        if not self.mask.any():
            raise ValueError(f"data set {self.name!r}: its mask leaves no bins; check the energy range of the mask")
        if self.ratio is not None and not np.all(self.ratio[self.mask] > 0):
            number = int((~(self.ratio[self.mask] > 0)).sum())
            raise ValueError(
                f"data set {self.name!r}: {number} bins have an acceptance of zero in ON or OFF; mask these bins"
            )

    @property
    def energy(self) -> Float[np.ndarray, " energy"]:
        """Centres of the bins of reconstructed energy [TeV]."""
        return np.sqrt(self.edges[1:] * self.edges[:-1])

    @words
    def __repr__(self) -> str:
        """Numbers of counts and bins."""
        kind = "spectrum" if self.pixels is None else "map"
        return block(
            f"{'ON and OFF' if self.counts_off is not None else 'Binned'} {kind} {self.name or ''}: "
            f"{self.counts[self.mask].sum():g} counts in {self.mask.sum()} bins"
        )

    def prepare(self, setup: Setup) -> Term:
        """Parts of the photons of each source in pixels.

        Raises `ValueError` for weights, for a background that these data have not, and for counts that come from no
        component.
        """
        explored, depends = setup.explored, setup.explored.dependence
        if explored.mixture.weighted:
            raise ValueError("binned data need absolute fluxes: a Mixture without weights")
        mixture = explored.mixture if self.components is None else explored.mixture.only(self.components)
        engines: dict[str, Folded | Moving | Scaled] = {}
        for path, part in mixture.components.items():
            if isinstance(part, OffBackground):  # of ON and OFF regions
                continue
            if isinstance(part, InstrumentBackground):
                if part.correction is not None:
                    raise ValueError(
                        f"component {path!r} has a correction over the field of view, which binned data do not know; "
                        "give it to data of events, and name the components of each by components="
                    )
                if self.background is not None:
                    engines[path] = Scaled(jnp.asarray(self.energy), jnp.asarray(self.background))
                elif self.components is not None and path in self.components:
                    raise ValueError(f"data set {self.name!r} has no background for component {path!r}")
                continue
            variants = [part, *(variant.components[path] for variant in explored.variants)]
            for variant in variants:
                _require_response(path, variant)
            free = bool(depends.morphologies.get(path))
            made = _engine(self, part, [source.morphology for source in variants], free)
            if made is not None:
                engines[path] = made
        # a background that no component scales
        own = any(isinstance(engine, Scaled) for engine in engines.values())
        fixed = None if own or self.background is None else jnp.asarray(self.background)
        off = None if self.counts_off is None else (jnp.asarray(self.counts_off), jnp.asarray(self.ratio))
        term = BinnedTerm(
            name=self.name or setup.name,
            count=jnp.asarray(np.where(self.mask, self.counts, 0.0)),
            reference=Reference(jnp.zeros(0), {}),
            mask=jnp.asarray(self.mask),
            engines=engines,
            background=fixed,
            off=off,
            aside=Aside(self.edges),
        )
        term = setup.referred(term)
        if off is None:
            self._require_possible(np.asarray(term.reference.rows))
        return term

    def _require_possible(self, expected) -> None:
        impossible = np.argwhere(self.mask & (self.counts > 0) & ~(expected > 0))
        if impossible.size:
            raise ValueError(
                f"data set {self.name!r}: {len(impossible)} bins have counts but expect none, the first at "
                f"{self.energy[impossible[0][0]]:.4g} TeV; add a background or mask these bins"
            )


class Scaled(eqx.Module):
    """Expected counts of the instrument's background, by its norm and tilt."""

    energy: Float[Array, " energy"]
    background: Float[Array, "energy y x"]

    def __call__(self, part: InstrumentBackground) -> Float[Array, "energy y x"]:
        """Counts in all bins."""
        return self.background * part.select(0).factor(self.energy)[:, None, None]


class Rescaling(eqx.Module):
    """Counts of reconstructed energies that are 1 + z times larger, in the same bins.

    The counts below an energy are a cubic spline in its logarithm through those at the edges. Beyond the bins, as far
    as a scale may reach, the logarithm of the counts continues as a parabola: photons that scale into the bins.
    """

    log_edges: Float[Array, " edge"]
    nodes: Float[Array, " node"]  # ln of the edges of all bins [TeV], with those beyond
    pieces: Float[Array, "power interval node"]
    more: tuple[int, int] = eqx.field(static=True)  # bins beyond the first and the last

    @classmethod
    def init(cls, edges: Float[np.ndarray, " edge"]) -> "Rescaling":
        """Of bins between the `edges` [TeV]."""
        inner = np.log(np.asarray(edges, np.float64))
        step = np.diff(inner)[[0, -1]]
        low, high = (math.ceil(BEYOND / one) for one in step)
        before, after = inner[0] - step[0] * np.arange(low, 0, -1), inner[-1] + step[1] * np.arange(1, high + 1)
        nodes = np.concatenate([before, inner, after])
        return cls(jnp.asarray(inner), jnp.asarray(nodes), cubic_pieces(nodes), (low, high))

    def __call__(self, counts: Float[Array, "energy y x"], energy_scale) -> Float[Array, "energy y x"]:
        """Counts at an energy scale z."""
        beyond = [
            edge * jnp.exp(self._continued(total, number))[:, None, None]
            for edge, total, number in (
                (counts[0], counts[:3].sum((1, 2)), self.more[0]),
                (counts[-1], counts[:-4:-1].sum((1, 2)), self.more[1]),
            )
        ]
        every = jnp.concatenate([beyond[0][::-1], counts, beyond[1]])
        below = jnp.concatenate([jnp.zeros((1, *counts.shape[1:])), jnp.cumsum(every, 0)])
        weights = piece_weights(self.nodes, self.pieces, self.log_edges - jnp.log1p(energy_scale))
        return jnp.diff(jnp.tensordot(weights, below, 1, precision=jax.lax.Precision.HIGHEST), axis=0)

    def _continued(self, total: Float[Array, " outer"], number: int) -> Float[Array, " beyond"]:
        """Logarithms of ratios of counts beyond the bins to those of the outermost: a parabola that bends down."""
        log_total = jnp.log(jnp.maximum(total, LEAST))
        slope = log_total[0] - log_total[1] if total.size > 1 else jnp.zeros(())
        bend = jnp.minimum(slope - (log_total[1] - log_total[2]), 0.0) if total.size > 2 else jnp.zeros(())
        away = jnp.arange(1, number + 1)
        return jnp.minimum(slope * away + 0.5 * bend * away * (away + 1.0), MOST)


class Folded(eqx.Module):
    """Expected counts of a source of fixed morphology: `exposure` has the parts of its photons in the pixels."""

    edges: Float[Array, " edge"]  # of true energy [TeV]
    rescaling: Rescaling
    dispersion: Float[Array, "true energy"]
    exposure: Float[Array, "true rows columns"]
    corner: tuple[int, int] = eqx.field(static=True)
    shape: tuple[int, int] = eqx.field(static=True)

    def __call__(self, part: Source) -> Float[Array, "energy y x"]:
        """Counts in all bins."""
        return self.spread(part, self.exposure)

    def spread(self, part: Source, exposure: Float[Array, "true rows columns"]) -> Float[Array, "energy y x"]:
        """Counts in all bins for exposures times parts in pixels."""
        change, photons = part.response, part.spectrum.integral(self.edges)
        if change is not None:
            change = change.select(0)
            photons *= change.effective_area * change.area_factor(jnp.sqrt(self.edges[1:] * self.edges[:-1]))
        weight = self.dispersion * photons[:, None]
        counts = jnp.einsum("ji,jyx->iyx", weight, exposure, precision=jax.lax.Precision.HIGHEST)
        if change is not None and change.changed_fields(["energy_scale"]):
            counts = self.rescaling(counts, change.energy_scale)
        rows, columns = exposure.shape[1:]
        (row, column), (height, width) = self.corner, self.shape
        return jnp.pad(counts, ((0, 0), (row, height - row - rows), (column, width - column - columns)))


class Moving(eqx.Module):
    """Expected counts of a source of free morphology: in pixels, convolved, in every call.

    `kernel` is the transform of the point spread function, `directions` and `weights` those of points in
    the pixels, with `solid_angle`, and `plane` gives pixel coordinates of directions near the source.
    """

    folded: Folded  # with the exposure alone
    kernel: Array | None
    directions: Float[Array, "2 point rows columns"]
    weights: Float[Array, " point"]
    solid_angle: Float[Array, "rows columns"]
    plane: "Plane"
    lengths: tuple[int, int] = eqx.field(static=True)
    start: tuple[int, int] = eqx.field(static=True)

    def __call__(self, part: Source) -> Float[Array, "energy y x"]:
        """Counts in all bins."""
        image = self._image(part.morphology)
        if self.kernel is not None:
            rows, columns = image.shape[1:]
            (row, column) = self.start
            image = jnp.fft.irfft2(jnp.fft.rfft2(image, self.lengths) * self.kernel, self.lengths)
            image = jnp.maximum(image[:, row : row + rows, column : column + columns], 0.0)  # rounded below zero
        return self.folded.spread(part, self.folded.exposure * image)

    def _image(self, morphology: Morphology) -> Float[Array, "true rows columns"]:
        """Parts of the photons in the pixels; one image, or one for each true energy."""
        rows, columns = self.solid_angle.shape
        if isinstance(morphology, Point):
            row, column = self.folded.corner
            x, y = self.plane(morphology.lon, morphology.lat)
            return point_in_pixels(x - column, y - row, rows, columns)[None]
        edges = self.folded.edges
        energy = jnp.sqrt(edges[1:] * edges[:-1])[:, None, None]
        shape = morphology.at(energy) if morphology.is_energy_dependent else morphology

        def one(sum_, point):
            direction, weight = point
            return sum_ + weight * shape.brightness(*direction), None

        start = jnp.zeros((energy.size if morphology.is_energy_dependent else 1, rows, columns))
        points = jnp.moveaxis(self.directions, 1, 0)
        return jax.lax.scan(jax.checkpoint(one), start, (points, self.weights))[0] * self.solid_angle


class Plane(eqx.Module):
    """Pixel coordinates (x, y) as polynomials of the third degree in directions [deg] about a place."""

    lon: Float[Array, ""]
    lat: Float[Array, ""]
    half: Float[Array, "2"]
    origin: Float[Array, "2"]
    coefficients: Float[Array, "2 power"]

    @classmethod
    def fit(cls, pixels: Pixels, lon: Float[np.ndarray, " some"], lat: Float[np.ndarray, " some"]) -> "Plane":
        """Fit about the directions: over the rectangle that contains them."""
        lon0, lat0 = lon[0], lat[0]
        away = (lon - lon0 + 180.0) % 360.0 - 180.0
        half = np.array([np.abs(away).max() + MARGIN, np.abs(lat - lat0).max() + MARGIN])
        u, v = (side.ravel() for side in np.meshgrid(*(np.cos(np.linspace(0.0, np.pi, 9)),) * 2))
        x, y = pixels.coordinates(lon0 + half[0] * u, np.clip(lat0 + half[1] * v, -90.0, 90.0))
        centre = np.array([np.mean(x), np.mean(y)])
        values = np.stack([x, y], 1) - centre
        coefficients = np.linalg.lstsq(np.asarray(_powers(u, v)).T, values, rcond=None)[0].T
        return cls(*map(jnp.asarray, (lon0, lat0, half, centre, coefficients)))

    def __call__(self, lon, lat) -> Float[Array, "2"]:
        """Pixel coordinates."""
        away = lon - self.lon
        away = away - 360.0 * jnp.round(away / 360.0)  # exact for small ones, as a remainder of 180 + away is not
        return self.origin + self.coefficients @ _powers(away / self.half[0], (lat - self.lat) / self.half[1])


def _powers(u, v):
    module = np if isinstance(u, np.ndarray) else jnp
    return module.stack([u**i * v**j for i in range(4) for j in range(4 - i)])


def point_in_pixels(x, y, rows: int, columns: int) -> Float[Array, "rows columns"]:
    """Parts of a point in the four pixels about it that keep its place."""
    across = jnp.maximum(1.0 - jnp.abs(jnp.arange(columns) - x), 0.0)
    along = jnp.maximum(1.0 - jnp.abs(jnp.arange(rows) - y), 0.0)
    return along[:, None] * across


def _engine(data: Binned, source: Source, places: list[Morphology], free: bool) -> Folded | Moving | None:
    """Expected counts of a source with the morphologies `places` over the prior, the first at its centre.

    None for a source that these data do not see.
    """
    morphology = source.morphology
    kernel, dispersion = data.response(float(morphology.lon), float(morphology.lat))
    bins = jnp.asarray(data.edges_true), Rescaling.init(data.edges), jnp.asarray(dispersion)
    height, width = data.counts.shape[1:]
    if data.pixels is None or data.solid_angle is None:
        if kernel is not None:
            if not isinstance(morphology, Point):
                raise ValueError(
                    f"data set {data.name!r} is a spectrum with a point spread function: it takes point sources only"
                )
            return Folded(*bins, jnp.asarray(data.exposure * kernel), (0, 0), (height, width))
        return Folded(*bins, jnp.asarray(data.exposure), (0, 0), (height, width))
    pixels = data.pixels
    lon, lat = (np.array([float(getattr(place, side)) for place in places]) for side in ("lon", "lat"))
    x, y = pixels.coordinates(lon, lat)
    half = (0, 0) if kernel is None else (kernel.shape[1] // 2, kernel.shape[2] // 2)
    reach = max(0.0 if isinstance(place, Point) else float(place.radius) for place in places) / pixels.size

    def window(low, high, more, end):
        if not np.all(np.isfinite([low, high])):
            return 0, end
        return max(math.floor(low - reach) - more - 1, 0), min(math.ceil(high + reach) + more + 2, end)

    (top, bottom), (left, right) = window(y.min(), y.max(), half[0], height), window(x.min(), x.max(), half[1], width)
    if top >= bottom or left >= right:
        return None
    rows, columns = bottom - top, right - left
    exposure = data.exposure[:, top:bottom, left:right]
    lengths: Any = (0, 0)
    start, transform = (0, 0), None
    if kernel is not None:
        sizes = rows + 2 * half[0], columns + 2 * half[1]
        lengths = tuple(math.ceil(next_fast_len(size, real=True) or size) for size in sizes)
        transform, start = jnp.asarray(np.fft.rfft2(kernel, lengths)), half
    scale = min(float(place.scale) for place in places)
    order = POINTS[1] if scale <= 0 else int(np.clip(math.ceil(3.0 * pixels.size / scale), *POINTS))
    shift, share = np.polynomial.legendre.leggauss(1 if isinstance(morphology, Point) else order)
    px, py = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
    points = [pixels.directions(px + 0.5 * dx, py + 0.5 * dy) for dy in shift for dx in shift]
    directions = np.nan_to_num(np.moveaxis(np.array(points), 1, 0), nan=180.0)
    moving = Moving(
        Folded(*bins, jnp.asarray(exposure), (top, left), (height, width)),
        transform,
        jnp.asarray(directions),
        jnp.asarray(0.25 * np.outer(share, share).ravel()),
        jnp.asarray(data.solid_angle[top:bottom, left:right]),
        Plane.fit(pixels, lon, lat),
        lengths,
        start,
    )
    if free:
        return moving
    image = np.asarray(moving._image(morphology), np.float64)
    if isinstance(morphology, Point):  # exact, without the polynomial
        image = np.asarray(point_in_pixels(x[0] - left, y[0] - top, rows, columns), np.float64)[None]
    if kernel is not None:
        image = np.fft.irfft2(np.fft.rfft2(image, lengths) * np.fft.rfft2(kernel, lengths), lengths)
        image = np.maximum(image[:, half[0] : half[0] + rows, half[1] : half[1] + columns], 0.0)
    return Folded(*bins, jnp.asarray(exposure * image), (top, left), (height, width))


def _require_response(path: str, source: Source) -> None:
    """Raise `ValueError` for a source whose response binned data cannot have."""
    require_energies_alone(path, source)
    if source.response is None:
        return
    source.response.check_observations(1)
    if source.response.changed_fields(["energy_resolution"]):
        raise ValueError(
            f"component {path!r} changes the energy resolution, but binned data keep that of their matrix of the "
            "dispersion; components=(...) names those of each data set"
        )


class BinnedTerm(Term):
    """Log-likelihood of binned counts.

    `engines` give expected counts by path of the component; `background` are those of no component. `off`: counts of
    OFF regions and ratio of acceptances. The reference is the expected counts of all bins, or their `wstat`.
    """

    name: str = eqx.field(static=True)
    count: Float[Array, "energy y x"]
    reference: Reference
    mask: Bool[Array, "energy y x"]
    engines: dict[str, Folded | Moving | Scaled]
    background: Float[Array, "energy y x"] | None
    off: tuple[Float[Array, "energy y x"], Float[Array, "energy y x"]] | None
    aside: Aside = eqx.field(static=True)  # edges of the bins
    __pdoc__ = document

    @words
    def __repr__(self) -> str:
        """Number of counts."""
        kind = "ON and OFF bins" if self.off is not None else "bins"
        return block(f"{total(self.count.astype(int))} counts in {number_of(self.mask.size, 'bin')} ({kind})")

    def by_energy(self, mixture: Mixture) -> dict[str, Float[Array, " energy"]]:
        """Expected counts in the mask by reconstructed energy: of components, and of a background that is none.

        Of ON and OFF data that is the best background for the counts.
        """
        parts = self._expected(mixture)
        if self.off is not None:
            off, ratio = self.off
            parts["OFF"] = ratio * best_background(self.count, off, ratio, self._total(parts))
        elif self.background is not None:
            parts["its background"] = self.background
        return {name: jnp.where(self.mask, part, 0.0).sum((1, 2)) for name, part in parts.items()}

    @property
    def edges(self) -> Float[np.ndarray, " edge"]:
        """Edges of the bins of reconstructed energy [TeV]."""
        return self.aside.value

    @property
    def energy_range(self) -> tuple[float, float]:
        """Reconstructed energies [TeV] of the mask."""
        some = np.flatnonzero(np.asarray(self.mask).any((1, 2)))
        return float(self.edges[some[0]]), float(self.edges[some[-1] + 1])

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of the data set."""
        return (self.name,)

    def refer(self, mixture: Mixture) -> Reference:
        """Expected counts, or `wstat`, of all bins."""
        parts = self._expected(mixture)
        counts = {name: jnp.where(self.mask, part, 0.0).sum((1, 2))[None] for name, part in parts.items()}
        return Reference(self._value(self._total(parts)), counts)

    def log_likelihood_ratio(self, mixture: Mixture) -> Float[Array, ""]:
        """Value relative to the reference."""
        value = self._value(self._total(self._expected(mixture)))
        more = accurate_sum(jnp.where(self.mask, value - self.reference.rows, 0.0).ravel())
        if self.off is not None:
            return -0.5 * more
        return sum_of_logs(value.ravel(), self.reference.rows.ravel(), self.count.ravel()) - more

    @property
    def log_reference(self) -> Float[Array, ""]:
        """Value of log L at the reference."""
        value = jnp.where(self.mask, self.reference.rows, 0.0).sum()
        if self.off is not None:
            return -0.5 * value
        rows = self.reference.rows.ravel()
        return sum_of_logs(rows, jnp.ones_like(rows), self.count.ravel()) - value

    def log_reference_exact(self) -> float:
        """`log_reference` in double precision, on the host."""
        rows = np.asarray(self.reference.rows, np.float64)[np.asarray(self.mask)]
        if self.off is not None:
            return float(-0.5 * rows.sum())
        count = np.asarray(self.count, np.float64)[np.asarray(self.mask)]
        some = count > 0
        return float(count[some] @ np.log(rows[some]) - rows.sum())

    def expected_counts(self, mixture: Mixture) -> dict[str, Float[Array, " observation"]]:
        """Expected counts of every component in the bins of the mask."""
        return {name: jnp.where(self.mask, part, 0.0).sum()[None] for name, part in self._expected(mixture).items()}

    def _expected(self, mixture) -> dict[str, Float[Array, "energy y x"]]:
        parts: Any = {name: part for name, part in mixture.components.items() if name in self.engines}
        return {name: or_undefined(part, self.engines[name](part)) for name, part in parts.items()}

    def _total(self, parts) -> Float[Array, "energy y x"]:
        """Expected counts of all components, and of the background of the data."""
        background = jnp.zeros(self.mask.shape) if self.background is None else self.background
        return sum(parts.values(), start=background)

    def _value(self, expected) -> Float[Array, "energy y x"]:
        """Expected counts of bins of counts, `wstat` of bins of ON and OFF."""
        return expected if self.off is None else wstat(self.count, *self.off, expected)


def wstat(
    count: Float[Array, "*shape"], off: Float[Array, "*shape"], ratio: Float[Array, "*shape"], signal
) -> Float[Array, "*shape"]:
    """-2 ln L of counts in ON and OFF at the best background, relative to a perfect fit: gammapy's `wstat`."""
    background = best_background(count, off, ratio, signal)
    return _deviance(count, signal + ratio * background) + _deviance(off, background)


def best_background(
    count: Float[Array, "*shape"], off: Float[Array, "*shape"], ratio: Float[Array, "*shape"], signal
) -> Float[Array, "*shape"]:
    """Expected counts b of OFF regions that fit best beside a signal.

    The root of a (1 + a) b^2 - c b - n_off s = 0, where a is the ratio of acceptances, s the signal and
    c = a (n_on + n_off) - (1 + a) s.
    """
    c = ratio * (count + off) - (1.0 + ratio) * signal
    square = c**2 + 4.0 * ratio * (ratio + 1.0) * off * signal
    positive = square > 0
    root = jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)
    # the difference of two near numbers is none of this root
    below = c < 0
    return jnp.where(
        below, 2.0 * off * signal / jnp.where(below, root - c, 1.0), (c + root) / (2.0 * ratio * (ratio + 1.0))
    )


def _deviance(count, expected):
    """2 (mu - n + n ln(n / mu)): twice the logarithm of a Poissonian relative to its largest value."""
    some = count > 0
    n = jnp.where(some, count, 1.0)
    mu = jnp.where(some, expected, 1.0)
    return 2.0 * (expected - count - jnp.where(some, n * jnp.log(mu / n), 0.0))
