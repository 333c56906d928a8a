"""The dense marginal with the conventions of GammaBayes: its speed, and its error on GammaBayes' own numbers.

GammaBayes sums over a grid of true energies and directions,

    ln L(x'|theta) = ln Sum_x  Phat(Omega'|x) Dhat(E'|x) p(x|theta) W(x),     x = (E, Omega) on the nodes of a grid

with events moved to the nearest node and the response sampled at nodes, even if it is narrow. Conventions: one weight
per node (`riemann_weights`); the point spread function P and the energy dispersion D are normalised over the
reconstructed nodes; the likelihood takes the nearest node of the table. At one true energy P depends on (Omega', Omega)
and D on (E', Omega), so

    k(E', Omega'|E) = Sum_Omega [Dhat(E'|E, Omega) p(Omega|E) W] Phat(Omega'|E, Omega)

is one matrix product for all reconstructed nodes, and a spectrum with any parameters is one more.

Speed: from the tables of the response to the marginals of `--events` occupied reconstructed nodes and 41 masses, on
55 x 26 x 26 true nodes. Error: largest difference from the marginals of reference case A (tests/data/README.md).
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float, Int

from benchmarks.report import report
from gammajax.instrument.sky import separation
from gammajax.instrument.table import Axis, Table
from gammajax.io.ctao_prod5 import EMBEDDED

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "tests" / "data" / "gammabayes_case_A.npz"
# below, the response that GammaBayes takes the logarithm of has left the range of doubles
REPRESENTED = -600.0


def riemann_weights(nodes: Float[Array | np.ndarray, " node"], logarithmic: bool = False) -> Float[Array, " node"]:
    """Weight of every node, as in GammaBayes: the step, for the last node too.

    On a logarithmic axis the weight is E_i 10^D with D = log10(E_1 / E_0): 10^D / (D ln 10) times the weight of the
    mid-point rule. This constant cancels in normalised priors, but not in expected counts.
    """
    nodes = jnp.asarray(nodes)
    return nodes * (nodes[1] / nodes[0]) if logarithmic else jnp.full(nodes.shape, nodes[1] - nodes[0])


def dense_log_kernel(
    response: Callable[[Any], tuple[Float[Array, "direction position"], Float[Array, "energy position"]]],
    energy_true: Float[Array, " energy_true"],
    log_prior: Float[Array, "energy_true position"],
    log_weight_direction: Float[Array, " direction"],
    log_weight_energy: Float[Array, " energy"],
    select: Callable[[Float[Array, "energy direction"]], Any] = lambda table: table,
) -> Any:
    """Logarithm of k(E', Omega'|E), the response summed over true positions; leaves [energy_true, *select(table)].

    - `response(E)`: ln P [direction, position] and ln D [energy, position] between the reconstructed nodes and the
      true positions, in any norm: both are normalised over the nodes, with the weights given by their logarithms.
      If the response reaches no node the norm is one, as in GammaBayes.
    - `log_prior`: logarithm of the prior over true positions times their weights.
    - `select`: the part to keep of the table [energy, direction] of every true energy, for example nodes with events.

    Terms a factor e^-600 (in double precision) below the product of the largest terms of P and D count as zero. The
    same happens in GammaBayes, which evaluates P and D before it takes logarithms.
    """

    def one(at):
        energy, prior = at
        log_spread, log_dispersion = response(energy)
        prior = prior - _log_norm(log_spread, log_weight_direction) - _log_norm(log_dispersion, log_weight_energy)
        return select(_log_product(log_dispersion + prior, log_spread))

    return jax.lax.map(one, (energy_true, log_prior))


def dense_marginal(
    log_kernel: Float[Array, " energy_true *event"],
    log_spectrum: Float[Array, " energy_true *grid"],
    log_weight: Float[Array, " energy_true"],
) -> Float[Array, "..."]:
    """Marginal ln Sum_E k(x'|E) S(E|theta) W(E) of every event at every point of a grid, shape [*event, *grid].

    With ln Sum_Omega p(Omega|E) W(Omega) in place of the kernel it is the norm of the prior, ln N(theta).
    """
    events, grid = log_kernel.ndim - 1, log_spectrum.ndim - 1
    log_spectrum = log_spectrum + log_weight.reshape(-1, *(1,) * grid)
    kernel = log_kernel.reshape(*log_kernel.shape, *(1,) * grid)
    return logsumexp(kernel + log_spectrum.reshape(-1, *(1,) * events, *log_spectrum.shape[1:]), axis=0)


def _log_norm(log_values, log_weights):
    """Logarithm of the weighted sum over the first axis; zero if the sum is empty."""
    return _finite(logsumexp(log_values + log_weights[:, None], axis=0))


def _log_product(log_a: Float[Array, "a position"], log_b: Float[Array, "b position"]) -> Float[Array, "a b"]:
    """Ln Sum_x exp(a + b) as a matrix product, each row scaled by its largest term."""
    top_a, top_b = _finite(log_a.max(1, keepdims=True)), _finite(log_b.max(1, keepdims=True))
    return jnp.log(jnp.exp(log_a - top_a) @ jnp.exp(log_b - top_b).T) + top_a + top_b.T


def _finite(values):
    return jnp.where(jnp.isfinite(values), values, 0.0)


class Case(eqx.Module):
    """Nodes, response tables and weights of the reference case."""

    energy_true: Float[Array, " energy_true"]
    position: tuple[Float[Array, " position"], Float[Array, " position"]]
    energy: Float[Array, " energy"]
    direction: tuple[Float[Array, " direction"], Float[Array, " direction"]]
    offset: Float[Array, " position"]
    livetime: Float[Array, ""]
    sigma: Table
    dispersion: Table
    area: Table

    def __init__(self, reference):
        import warnings

        from gammapy.irf import load_irf_dict_from_file

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units that astropy knows by other names
            irf = load_irf_dict_from_file(ROOT / "gammajax" / "data" / EMBEDDED["South", 20, 50])

        def table(name, values, *axes):
            nodes = [irf[name].axes[axis].center.value for axis in axes]
            nodes = [np.log(n) if axis == "energy_true" else n for n, axis in zip(nodes, axes, strict=True)]
            return Table([Axis(n, uniform=False) for n in nodes], jnp.asarray(values, float))

        axes = ("energy_true", "offset")
        self.sigma = table("psf", irf["psf"].data["sigma_1"], *axes)
        self.dispersion = table("edisp", irf["edisp"].data, "energy_true", "migra", "offset")
        self.area = table("aeff", irf["aeff"].quantity.to_value("cm2"), *axes)
        self.energy_true, self.energy = jnp.asarray(reference["E_true"]), jnp.asarray(reference["E_recon"])
        self.position, self.direction = (
            tuple(
                jnp.asarray(c.ravel()) for c in np.meshgrid(reference["lon_" + a], reference["lat_" + a], indexing="ij")
            )
            for a in ("true", "recon")
        )
        self.offset = separation(*self.position, *reference["pointing"])
        self.livetime = jnp.asarray(reference["livetime_s"])

    def response(self, energy_true):
        """Logarithms of the point spread function [deg^-2] and of the dispersion [TeV^-1] between all nodes."""
        log_energy = jnp.log(energy_true)
        sigma = self.sigma(log_energy, self.offset, outside=None)
        lon, lat = self.direction
        rad = separation(lon[:, None], lat[:, None], *self.position)
        log_spread = -0.5 * (rad / sigma) ** 2 - jnp.log(2.0 * jnp.pi * sigma**2)
        migra = self.energy[:, None] / energy_true
        return log_spread, jnp.log(
            jnp.maximum(self.dispersion(log_energy, migra, self.offset, outside=None), 0.0) / energy_true
        )

    @property
    def log_exposure(self) -> Float[Array, "energy_true position"]:
        """Logarithm of effective area times livetime [cm^2 s]."""
        return jnp.log(self.area(jnp.log(self.energy_true)[:, None], self.offset, outside=None) * self.livetime)

    def kernel(
        self, log_prior: Float[Array, "energy_true position"], events: Int[Array, "event 2"]
    ) -> Float[Array, "energy_true event"]:
        """Logarithm of the kernel of the events, given by their reconstructed nodes (energy, direction)."""
        cell = jnp.log(_step(self.position[1]) ** 2)
        log_weights = jnp.full(self.direction[0].shape, cell), jnp.log(riemann_weights(self.energy, True))
        return dense_log_kernel(
            self.response,
            self.energy_true,
            log_prior + cell,
            *log_weights,
            lambda table: table[events[:, 0], events[:, 1]],
        )

    def marginal(self, log_prior, log_spectrum, events):
        """Marginals [event, *grid] for the separable prior, normalised over the true nodes."""
        log_weight = jnp.log(riemann_weights(self.energy_true, True))
        inside = logsumexp(log_prior, axis=1) + jnp.log(_step(self.position[1]) ** 2)
        norm = dense_marginal(inside, log_spectrum, log_weight)
        return dense_marginal(self.kernel(log_prior, events), log_spectrum, log_weight) - norm


def _step(lat):
    return lat[1] - lat[0]


@eqx.filter_jit
def dark_matter(case: Case, reference, events):
    """Marginals [event, mass] of the annihilating halo."""
    log_prior = case.log_exposure + reference["logJ_Einasto"].ravel()
    return case.marginal(log_prior, reference["logdNdE"], events)


@eqx.filter_jit
def fixed(case: Case, log_prior, events):
    """Marginals [event] of a component without parameters."""
    log_prior = log_prior.reshape(case.energy_true.size, -1)
    return case.marginal(log_prior, jnp.zeros(case.energy_true.size), events)


def load():
    """The arrays of the reference case, and the nodes (energy, direction) of its events."""
    with np.load(REFERENCE) as file:
        reference = {name: file[name] for name in file.files}
    energy, lon, lat = reference["events"].astype(int).T
    return reference, np.stack([energy, lon * reference["lat_recon"].size + lat], 1)


def main():
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=4438)
    options = parser.parse_args()
    with jax.enable_x64(True):
        reference, events = load()
        case = Case(reference)
        arrays = {name: jnp.asarray(reference[name]) for name in ("logJ_Einasto", "logdNdE")}
        ours, theirs = np.asarray(dark_matter(case, arrays, jnp.asarray(events))), reference["logmarg_DM"]
        seen = theirs > REPRESENTED
        nodes = np.indices((case.energy.size, case.direction[0].size)).reshape(2, -1).T
        chosen = jnp.asarray(np.random.default_rng(0).choice(nodes, options.events, replace=False))
        times = []
        for _ in range(6):
            started = time.perf_counter()
            jax.block_until_ready(dark_matter(case, arrays, chosen))
            times.append(time.perf_counter() - started)
        report(
            "dense",
            {
                "seconds": float(np.median(times[1:])),
                "max_abs_err": float(np.abs(ours[seen] - theirs[seen]).max()),
                "compile_s": times[0] - float(np.median(times[1:])),
                "events": options.events,
                "masses": int(arrays["logdNdE"].shape[1]),
                "true_nodes": int(case.energy_true.size * case.offset.size),
            },
        )


if __name__ == "__main__":
    main()
