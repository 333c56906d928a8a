"""Conversion of gammapy spectra to gammajax spectra, and back."""

# astropy and gammapy carry no types
# pyright: reportAttributeAccessIssue=false, reportOptionalMemberAccess=false, reportArgumentType=false
# pyright: reportOptionalSubscript=false, reportOperatorIssue=false

import math
import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gammajax.io.optical_depth import optical_depths
from gammajax.model.absorption import Absorption
from gammajax.model.darkmatter import DarkMatter, DarkMatterDecay
from gammajax.model.lines import PROFILE, GaussianLine, Line
from gammajax.model.spectra import (
    MEV_PER_TEV,
    BrokenPowerLaw,
    ExponentialCutoffPowerLaw,
    LogParabola,
    PowerLaw,
    ProductSpectrum,
    SmoothBrokenPowerLaw,
    Spectrum,
    SumSpectrum,
    SuperExponentialCutoffPowerLaw4FGL,
    TabulatedSpectrum,
)

FLUX = "cm-2 s-1 TeV-1"
ENERGY_RANGE = (0.005, 500.0)  # TeV, of tables
PER_DECADE = 200  # nodes of a table: power laws between them are off by 2e-4 at ten times a cut-off energy
SMALLEST = 1e-25  # of the maximum of a table; smaller values at its ends count as zero
TINY = 1e-36  # single precision ends at 1e-38


class Reader:
    """Values of gammapy parameters: given by name for free parameters, gammapy's own for the others.

    `free` collects the parameters that were read: name -> (parameter, unit). A parameter used only by a table is never
    read, which freezes it. `tables` caches objects that depend on no parameter; `notes` are messages to the user.
    """

    def __init__(self, names, values, tables, energy_range, prefix=""):
        self.names, self.values, self.tables = names, values, tables
        self.energy_range, self.prefix = energy_range, prefix
        self.free: dict[str, tuple[Any, str]] = {}
        self.notes: list[str] = []

    def __call__(self, parameter, unit: str = ""):
        """Value of a gammapy parameter in `unit`."""
        name = self.names.get(id(parameter))
        if name is not None:
            self.free.setdefault(name, (parameter, unit))
            if name in self.values:
                return self.values[name]
        return float(parameter.quantity.to_value(unit))

    def table(self, model, make: Callable[[], Any]):
        """Result of `make`, called once per gammapy model."""
        if id(model) not in self.tables:
            self.tables[id(model)] = make()
        return self.tables[id(model)]

    def note(self, text: str) -> None:
        """Add a sentence about the component being read."""
        self.notes.append(f"{self.prefix}: {text}")

    def note_frozen(self, model, text: str) -> None:
        """[`note`][] on the replacement of `model`, and on its free parameters that are now frozen."""
        frozen = [parameter.name for parameter in model.parameters if id(parameter) in self.names]
        end = f"; frozen: {', '.join(frozen)}" if frozen else ""
        self.note(f"{type(model).__name__} is {text}{end}")


def spectrum_from_gammapy(model, read: Reader) -> Any:
    """Spectrum, or factor on a spectrum, from a gammapy spectral model: native if there is one, else a table."""
    kind = type(model)
    # a class of the same name from elsewhere is another model
    native = NATIVE.get(kind.__name__) if kind.__module__.startswith("gammapy.") else None
    result = None if native is None else native(model, read)
    return _tabulated(model, read) if result is None else result


def is_flux(model) -> bool:
    """Whether a gammapy spectral model is a differential flux; factors have no unit."""
    from astropy import units as u

    return u.Quantity(model(np.array([1.0]) * u.TeV)).unit.is_equivalent(FLUX)


def _tabulated(model, read):
    def make():
        low, high = read.energy_range
        energy = np.geomspace(low, high, math.ceil(PER_DECADE * math.log10(high / low)) + 1)
        return positive_table(energy, evaluate(model, energy), f"{read.prefix}: {type(model).__name__}")

    table = read.table(model, make)
    low, high = (float(table.energy[i]) for i in (0, -1))
    read.note_frozen(model, f"a table from {low:.3g} to {high:.3g} TeV")
    return table


def evaluate(model, energy):
    """Values of a gammapy spectral model at `energy` [TeV], in gammajax's unit."""
    from astropy import units as u

    value = u.Quantity(model(energy * u.TeV))
    return np.asarray(value.to_value("" if value.unit.is_equivalent("") else FLUX), float)


def positive_table(energy, value, name) -> TabulatedSpectrum:
    """Table without zeros at its ends; zeros in between become the smallest value that counts."""
    least = max(SMALLEST * np.nanmax(value, initial=0.0), TINY)
    some = np.flatnonzero(value > least)
    if some.size < 2 or not np.all(np.isfinite(value)):
        raise ValueError(f"{name} is not a positive, finite flux within {energy[0]:.3g} to {energy[-1]:.3g} TeV")
    kept = slice(some[0], some[-1] + 1)
    return TabulatedSpectrum(energy[kept], np.maximum(value[kept], least))


def _template(model, read):
    def make():
        low, high = read.energy_range
        nodes = np.asarray(model.energy.to_value("TeV"), float)
        # gammapy extrapolates the outer intervals
        ends = [e for e in (low, high) if not nodes[0] <= e <= nodes[-1]]
        nodes = np.unique(np.append(nodes, ends))
        table = positive_table(nodes, evaluate(model, nodes), f"{read.prefix}: {type(model).__name__}")
        kept = np.asarray(table.energy, float)
        between = np.sqrt(kept[1:] * kept[:-1])
        expected = evaluate(model, between)
        same = np.allclose(np.asarray(table(jnp.asarray(between)), float), expected, rtol=1e-4, atol=TINY)
        return table if same else None

    # other interpolations are tabulated like any other model
    return read.table(model, make) if len(model.energy) > 1 else None


def _compound(model, read):
    first, second, kind = model.model1, model.model2, model.operator
    if kind not in (operator.mul, operator.add, operator.sub):
        return None
    if kind is operator.mul and is_flux(second) and not is_flux(first):
        first, second = second, first
    spectrum, other = spectrum_from_gammapy(first, read), spectrum_from_gammapy(second, read)
    if not isinstance(spectrum, Spectrum):
        spectrum = ProductSpectrum(PowerLaw(0.0, 1.0), spectrum)
    if kind is operator.mul:
        if type(second).__name__ == "PowerLawNormSpectralModel" and second.tilt.frozen and second.tilt.value == 0:
            other = other.amplitude
        return ProductSpectrum(spectrum, other)
    if not isinstance(other, Spectrum):
        other = ProductSpectrum(PowerLaw(0.0, 1.0), other)
    return spectrum + (other if kind is operator.add else ProductSpectrum(other, -1.0))


def _power_law_2(model, read):
    index, high = read(model.index), read(model.emax, "TeV")
    edges = jnp.stack([jnp.asarray(read(model.emin, "TeV"), float), jnp.asarray(high, float)])
    unit = PowerLaw(index, 1.0, high)
    return PowerLaw(index, read(model.amplitude, "cm-2 s-1") / unit.integral(edges)[0], high)


def _cutoff_3fgl(model, read):
    index = model.index if hasattr(model, "index") else model.index_1
    alpha = read(model.index_2) if hasattr(model, "index_2") else 1.0
    reference, cutoff = read(model.reference, "TeV"), read(model.ecut, "TeV")
    amplitude = read(model.amplitude, FLUX) * jnp.exp((reference / cutoff) ** alpha)
    return ExponentialCutoffPowerLaw(read(index), 1.0 / cutoff, amplitude, reference, alpha)


def _pulsar_dr3(model, read):
    """In 4FGL-DR3 the index and the strength d of the cut-off are defined at the reference energy."""
    amplitude, reference = read(model.amplitude, FLUX), read(model.reference, "TeV")
    index, d, power = read(model.index_1), read(model.expfactor), read(model.index_2)
    if model.index_2.frozen and abs(model.index_2.value) < 1e-3:
        return LogParabola(index, 0.5 * d, amplitude, reference)
    strength = d / power**2 / (MEV_PER_TEV * reference) ** power
    return SuperExponentialCutoffPowerLaw4FGL(amplitude, reference, strength, index - d / power, power)


def _log_parabola_2(model, read):
    beta, reference = read(model.beta), read(model.reference, "TeV")
    alpha = read(model.alpha) + beta * jnp.log(reference / read(model.escale, "TeV"))
    return LogParabola(alpha, beta, read(model.amplitude, FLUX), reference)


def _absorption(model, read):
    energy, redshift, depth = read.table(model, lambda: optical_depths(model))
    return Absorption(energy, redshift, depth, read(model.redshift), read(model.alpha_norm))


def _piecewise(model, read):
    if model._interp != "log" or not all(parameter.value > 0 for parameter in model.parameters):
        return None

    def make():
        energy = np.asarray(model.energy.to_value("TeV"), float)
        # constant beyond the outer nodes
        return TabulatedSpectrum([1e-6 * energy[0], *energy, 1e6 * energy[-1]], np.ones(energy.size + 2))

    norms = [jnp.asarray(read(parameter), float) for parameter in model.parameters]
    flux = jnp.stack([norms[0], *norms, norms[-1]])
    return eqx.tree_at(lambda table: table.flux, read.table(model, make), flux)


def _dark_matter(model, read):
    # without a source gammapy takes this one; from 2.2 on that is what it has by default
    if model.z != 0 or (model.source or "pppc4").lower() != "pppc4":
        return None
    kind, mass = type(model).__name__, _either(model, "mDM", "mass", "TeV")
    read.note(f"{kind} has one free parameter, its scale; build the spectrum yourself to free the mass")
    if kind == "DarkMatterDecaySpectralModel":
        rate = read(model.scale) / model.LIFETIME_AGE_OF_UNIVERSE.to_value("s")
        return DarkMatterDecay(model.channel, mass, rate, _either(model, "factor", "jfactor", "GeV cm-2"))
    # half the flux for k = 4, not self-conjugate
    sigma_v = read(model.scale) * model.THERMAL_RELIC_CROSS_SECTION.to_value("cm3 s-1") * (2.0 / model.k)
    return DarkMatter(model.channel, mass, sigma_v, _either(model, "factor", "jfactor", "GeV2 cm-5"))


def _either(model, name: str, before: str, unit: str) -> float:
    """Value of an attribute that gammapy 2.2 calls `name` and the versions up to 2.1 call `before`."""
    value = getattr(model, name) if hasattr(model, name) else getattr(model, before)
    return float(getattr(value, "quantity", value).to_value(unit))


NATIVE: dict[str, Callable[[Any, Reader], Any]] = {
    "ConstantSpectralModel": lambda m, read: PowerLaw(0.0, read(m.const, FLUX)),
    "PowerLawSpectralModel": lambda m, read: PowerLaw(
        read(m.index), read(m.amplitude, FLUX), read(m.reference, "TeV")
    ),
    "PowerLaw2SpectralModel": _power_law_2,
    "BrokenPowerLawSpectralModel": lambda m, read: BrokenPowerLaw(
        read(m.index1), read(m.index2), read(m.amplitude, FLUX), read(m.ebreak, "TeV")
    ),
    "SmoothBrokenPowerLawSpectralModel": lambda m, read: SmoothBrokenPowerLaw(
        read(m.index1), read(m.index2), read(m.amplitude, FLUX), read(m.ebreak, "TeV"), read(m.reference, "TeV"),
        read(m.beta),
    ),
    "ExpCutoffPowerLawSpectralModel": lambda m, read: ExponentialCutoffPowerLaw(
        read(m.index), read(m.lambda_, "TeV-1"), read(m.amplitude, FLUX), read(m.reference, "TeV"), read(m.alpha)
    ),
    "ExpCutoffPowerLaw3FGLSpectralModel": _cutoff_3fgl,
    "SuperExpCutoffPowerLaw3FGLSpectralModel": _cutoff_3fgl,
    "SuperExpCutoffPowerLaw4FGLSpectralModel": lambda m, read: SuperExponentialCutoffPowerLaw4FGL(
        read(m.amplitude, FLUX), read(m.reference, "TeV"), read(m.expfactor), read(m.index_1), read(m.index_2)
    ),
    "SuperExpCutoffPowerLaw4FGLDR3SpectralModel": _pulsar_dr3,
    "LogParabolaSpectralModel": lambda m, read: LogParabola(
        read(m.alpha), read(m.beta), read(m.amplitude, FLUX), read(m.reference, "TeV")
    ),
    "LogParabola2SpectralModel": _log_parabola_2,
    "GaussianSpectralModel": lambda m, read: GaussianLine(
        read(m.amplitude, "cm-2 s-1"), read(m.mean, "TeV"), read(m.sigma, "TeV")
    ),
    "TemplateSpectralModel": _template,
    "CompoundSpectralModel": _compound,
    "ScaleSpectralModel": lambda m, read: ProductSpectrum(spectrum_from_gammapy(m.model, read), read(m.norm)),
    "DarkMatterAnnihilationSpectralModel": _dark_matter,
    "DarkMatterDecaySpectralModel": _dark_matter,
    # factors
    "PowerLawNormSpectralModel": lambda m, read: PowerLaw(read(m.tilt), read(m.norm), read(m.reference, "TeV")),
    "ExpCutoffPowerLawNormSpectralModel": lambda m, read: ExponentialCutoffPowerLaw(
        read(m.index), read(m.lambda_, "TeV-1"), read(m.norm), read(m.reference, "TeV"), read(m.alpha)
    ),
    "LogParabolaNormSpectralModel": lambda m, read: LogParabola(
        read(m.alpha), read(m.beta), read(m.norm), read(m.reference, "TeV")
    ),
    "PiecewiseNormSpectralModel": _piecewise,
    "EBLAbsorptionNormSpectralModel": _absorption,
}  # fmt: skip


def number(leaf) -> float:
    """Plain number of a scalar leaf, with the fewest digits of its precision: 2.3, not 2.29999995."""
    return float(str(np.asarray(leaf)[()]))


def spectrum_to_gammapy(spectrum: Spectrum, energy_range):
    """Gammapy spectral model: the counterpart, or a table over `energy_range` [TeV] if there is none."""
    model = _counterpart(spectrum, energy_range)
    return _table_to_gammapy(spectrum, energy_range) if model is None else model


def _counterpart(spectrum, energy_range) -> Any:
    from astropy import units as u
    from gammapy.modeling import models as gp

    if isinstance(spectrum, TabulatedSpectrum):
        flux = np.asarray(spectrum.flux, float) * float(spectrum.norm)
        return _closed_template(np.asarray(spectrum.energy, float), flux, u.Unit(FLUX))
    if isinstance(spectrum, Line):
        # the width of the line's spline
        spectrum = GaussianLine(spectrum.amplitude, spectrum.energy, 0.5 * PROFILE * spectrum.energy)
    if isinstance(spectrum, SumSpectrum):
        first, *rest = [spectrum_to_gammapy(part, energy_range) for part in spectrum.parts]
        for model in rest:
            first = gp.CompoundSpectralModel(first, model, operator.add)
        return first
    if isinstance(spectrum, ProductSpectrum):
        factor = _factor_to_gammapy(spectrum.factor)
        if factor is None:
            return None
        return gp.CompoundSpectralModel(spectrum_to_gammapy(spectrum.spectrum, energy_range), factor, operator.mul)
    if type(spectrum) not in COUNTERPARTS:
        return None
    name, units = COUNTERPARTS[type(spectrum)]
    values = {field: number(getattr(spectrum, field)) * u.Unit(unit) for field, unit in units.items()}
    return getattr(gp, name)(**values)


def _factor_to_gammapy(factor) -> Any:
    from astropy import units as u
    from gammapy.modeling import models as gp

    if not callable(factor):
        model = gp.PowerLawNormSpectralModel(norm=number(factor))
        model.norm.frozen = True  # it is degenerate with the amplitude
        return model
    if isinstance(factor, Absorption):
        depth = np.asarray(factor.optical_depth, float)
        return gp.EBLAbsorptionNormSpectralModel(
            np.asarray(factor.energy, float) * u.TeV,
            np.asarray(factor.redshift_grid, float),
            np.exp(-depth),
            redshift=number(factor.redshift),
            alpha_norm=number(factor.alpha_norm),
        )
    if isinstance(factor, TabulatedSpectrum):
        values = float(factor.norm) * np.asarray(factor.flux, float)
        return _closed_template(np.asarray(factor.energy, float), values, u.Unit(""))
    if type(factor) not in FACTORS:
        return None
    name, fields = FACTORS[type(factor)]
    _, units = COUNTERPARTS[type(factor)]
    values = {fields.get(field, field): number(getattr(factor, field)) for field in units}
    quantities = {
        fields.get(field, field): u.Unit("" if field == "amplitude" else unit) for field, unit in units.items()
    }
    return getattr(gp, name)(**{field: value * quantities[field] for field, value in values.items()})


def _table_to_gammapy(spectrum, energy_range):
    from astropy import units as u

    low, high = energy_range
    energy = np.geomspace(low, high, math.ceil(PER_DECADE * math.log10(high / low)) + 1)
    table = positive_table(energy, np.asarray(_values(spectrum, jnp.asarray(energy)), float), type(spectrum).__name__)
    return _closed_template(np.asarray(table.energy, float), np.asarray(table.flux, float), u.Unit(FLUX))


@eqx.filter_jit
def _values(spectrum, energy):
    return spectrum(energy)


def _closed_template(energy, flux, unit):
    """Template that falls to zero outside its nodes; gammapy would extrapolate it."""
    from astropy import units as u
    from gammapy.modeling.models import TemplateSpectralModel

    ends = energy[[0, -1]] * [1.0 - 1e-6, 1.0 + 1e-6]
    energy = np.concatenate([ends[:1], energy, ends[1:]])
    flux = np.concatenate([[TINY * SMALLEST], flux, [TINY * SMALLEST]])
    return TemplateSpectralModel(energy * u.TeV, flux * unit)


# fields and units of classes with the same parameters in gammapy
COUNTERPARTS: dict[type, tuple[str, dict[str, str]]] = {
    PowerLaw: ("PowerLawSpectralModel", {"index": "", "amplitude": FLUX, "reference": "TeV"}),
    BrokenPowerLaw: (
        "BrokenPowerLawSpectralModel",
        {"index1": "", "index2": "", "amplitude": FLUX, "ebreak": "TeV"},
    ),
    SmoothBrokenPowerLaw: (
        "SmoothBrokenPowerLawSpectralModel",
        {"index1": "", "index2": "", "amplitude": FLUX, "ebreak": "TeV", "reference": "TeV", "beta": ""},
    ),
    ExponentialCutoffPowerLaw: (
        "ExpCutoffPowerLawSpectralModel",
        {"index": "", "lambda_": "TeV-1", "amplitude": FLUX, "reference": "TeV", "alpha": ""},
    ),
    SuperExponentialCutoffPowerLaw4FGL: (
        "SuperExpCutoffPowerLaw4FGLSpectralModel",
        {"amplitude": FLUX, "reference": "TeV", "expfactor": "", "index_1": "", "index_2": ""},
    ),
    LogParabola: ("LogParabolaSpectralModel", {"amplitude": FLUX, "reference": "TeV", "alpha": "", "beta": ""}),
    GaussianLine: ("GaussianSpectralModel", {"amplitude": "cm-2 s-1", "mean": "TeV", "sigma": "TeV"}),
}
# gammapy classes for the same spectra as factors, with the names that differ
FACTORS: dict[type, tuple[str, dict[str, str]]] = {
    PowerLaw: ("PowerLawNormSpectralModel", {"amplitude": "norm", "index": "tilt"}),
    ExponentialCutoffPowerLaw: ("ExpCutoffPowerLawNormSpectralModel", {"amplitude": "norm"}),
    LogParabola: ("LogParabolaNormSpectralModel", {"amplitude": "norm"}),
}
