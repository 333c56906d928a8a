"""Result: posterior samples with their diagnostics and provenance, in an ArviZ data tree."""

import json
import subprocess
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gammajax.common.display import block, listed, number_of, plain_unit, rows, words
from gammajax.common.parameters import check_labels
from gammajax.common.writing import replacing
from gammajax.results.significance import BayesFactor, Significance, model_comparison, savage_dickey, tail_significance

ATTRIBUTES = ("method", "messages", "timings")  # that every result has
CHUNK = 32  # draws at a time, for functions of draws
PACKAGES = ("gammajax", "jax", "numpyro", "blackjax", "optax", "equinox", "gammapy", "astropy")
LEVELS = {"median": 0.5, "68% low": 0.1587, "68% high": 0.8413, "95% low": 0.0228, "95% high": 0.9772}


class Result:
    """Samples of a posterior, from any sampler.

    `tree` is an `xarray.DataTree` with the groups of ArviZ: `posterior`, `sample_stats` and, if true values are known,
    `constant_data`. The group `fractions` has the fraction of the events of every node of the mixture. Runs that end
    with weighted points keep them in `weighted` and `weighted_stats`; `smc_stats` has the steps of a tempered run. The
    attributes record the provenance: method, seed, versions, git state, device, timings, messages.

    >>> import gammajax as gj, numpy as np
    >>> draws = np.random.default_rng(0).normal(2.0, 0.1, (4, 500))
    >>> result = gj.Result.from_samples({"mass": draws}, method="example", units={"mass": "TeV"})
    >>> result.summary().index.tolist(), round(result.upper_limit("mass"), 1)
    (['mass'], 2.2)
    """

    def __init__(self, tree):
        self.tree = tree

    @classmethod
    def from_samples(
        cls,
        samples: dict,
        *,
        method: str,
        sample_stats: dict | None = None,
        truths: dict | None = None,
        units: dict[str, str] | None = None,
        labels: Mapping[str, Sequence[str]] | None = None,
        fractions: dict | None = None,
        messages=(),
        timings: dict[str, float] | None = None,
        weighted: dict | None = None,
        smc_stats: dict | None = None,
        log_evidence: tuple[float, float] | None = None,
        information: float | None = None,
        calls: int | None = None,
        seed: int | None = None,
        events: int | None = None,
        attributes: dict | None = None,
    ) -> "Result":
        """Result from arrays [chain, draw, ...] by name of parameter.

        - `truths`: known values; `units`: for tables and plots; `timings` [s].
        - `labels` of the elements of a vector, along its last axis: `{"ratios": ["W", "b"]}` renames `ratios[0]` to
          `ratios[W]`. Samplers take labels from the model if it has names.
        - `fractions` [chain, draw] of the events by path of the mixture's node.
        - `weighted`: points of an importance or nested run, `{"samples": {name: [point, ...]}, "log_weight": [point]}`
          and for a nested run `log_likelihood`, `log_likelihood_birth` and `log_volume` [point]. Stored weights are
          normalised to one. The samples are then equally weighted draws of these points.
        - `smc_stats`: `temperature`, `ess` and `acceptance` [step] of a tempered run.
        - `log_evidence`: natural logarithm of the absolute evidence, and its standard error.
        - `information`: Kullback-Leibler divergence of the posterior from the prior [nat].
        - `calls`: evaluations of the likelihood; a gradient counts as one.
        - `seed` of the random numbers; number of `events`.
        - `attributes`: plain values by name, kept in the attributes of the `tree`.

        Raises `ValueError` for samples that are not finite or not of equal length, truths and units of other names or
        shapes, and an evidence that is not finite.
        """
        from arviz_base import from_dict

        samples = {name: np.asarray(values) for name, values in samples.items()}
        shapes = {values.shape[:2] for values in samples.values()}
        if len(shapes) != 1 or len(next(iter(shapes))) != 2:
            raise ValueError(f"samples must be arrays [chain, draw, ...] of one length, not of {sorted(shapes)}")
        for name, values in samples.items():
            if not np.all(np.isfinite(values)):
                raise ValueError(f"samples of {name!r} are not finite")
        groups = {"posterior": samples}
        if sample_stats:
            groups["sample_stats"] = {name: np.asarray(values) for name, values in sample_stats.items()}
        check_labels({name: values.shape[2:] for name, values in samples.items()}, truths, units)
        if truths:
            groups["constant_data"] = {name: np.asarray(value) for name, value in truths.items()}
        nodes = {}
        if fractions:
            groups["fractions"] = {"fraction_of_events": np.stack([np.asarray(v) for v in fractions.values()], axis=-1)}
            nodes = {"dims": {"fraction_of_events": ["node"]}, "coords": {"node": list(fractions)}}
        with warnings.catch_warnings():
            # arviz warns about more chains than draws, but short runs are the caller's choice
            warnings.filterwarnings("ignore", message="More chains", category=UserWarning)
            tree = from_dict(groups, **nodes)
        for name, unit in (units or {}).items():
            tree["posterior"][name].attrs["units"] = unit
        for group, dataset in _points(weighted).items():
            tree[group] = dataset
        if smc_stats:
            tree["smc_stats"] = _dataset(smc_stats, "step")
        plain = {"information": information, "calls": calls, "seed": seed, "events": events, **(attributes or {})}
        if log_evidence is not None:
            plain["log_evidence"] = np.asarray(log_evidence, np.float64)
            if plain["log_evidence"].shape != (2,) or not np.isfinite(plain["log_evidence"][0]):
                raise ValueError(f"log_evidence must be a finite number and its standard error, not {log_evidence}")
        device = jax.devices()[0]
        tree.attrs = {
            "method": method,
            "messages": json.dumps(list(messages)),
            "timings": json.dumps({step: round(float(seconds), 3) for step, seconds in (timings or {}).items()}),
            "versions": json.dumps({package: version(package) for package in PACKAGES}),
            "git": _git_state(),
            "device": f"{device.platform} {device.device_kind}",
            **{name: value for name, value in plain.items() if value is not None},
        }
        return cls(tree).with_labels(**(labels or {}))

    @property
    def samples(self) -> dict[str, np.ndarray]:
        """Samples by parameter, chains joined: [draw, ...]."""
        arrays = {str(name): array.to_numpy() for name, array in self.tree["posterior"].data_vars.items()}
        return {name: values.reshape(-1, *values.shape[2:]) for name, values in arrays.items()}

    @property
    def weighted(self) -> dict[str, np.ndarray]:
        """Weighted points [point, ...] by parameter; empty for methods without weights."""
        if "weighted" not in self.tree.children:
            return {}
        return {str(name): array.to_numpy() for name, array in self.tree["weighted"].data_vars.items()}

    @property
    def weights(self) -> np.ndarray:
        """Weights [point] of the weighted points; they add up to one. Empty for methods without weights."""
        if "weighted" not in self.tree.children:
            return np.zeros(0)
        return np.exp(self.tree["weighted_stats"]["log_weight"].to_numpy())

    @property
    def fractions(self) -> dict[str, np.ndarray]:
        """Fraction of the detected events [draw] of every component and inner mixture, by path."""
        if "fractions" not in self.tree.children:
            return {}
        array = self.tree["fractions"]["fraction_of_events"]
        values = array.to_numpy().reshape(-1, array.sizes["node"])
        return dict(zip(array["node"].to_numpy().tolist(), values.T, strict=True))

    @property
    def truths(self) -> dict[str, np.ndarray]:
        """Known true values by parameter."""
        if "constant_data" not in self.tree.children:
            return {}
        return {str(name): array.to_numpy() for name, array in self.tree["constant_data"].data_vars.items()}

    @property
    def units(self) -> dict[str, str]:
        """Units of the parameters that have one."""
        arrays = self.tree["posterior"].data_vars.items()
        return {str(name): array.attrs["units"] for name, array in arrays if "units" in array.attrs}

    @property
    def labels(self) -> dict[str, list[str]]:
        """Labels of vector elements along the last axis, by parameter."""
        arrays = {str(name): array for name, array in self.tree["posterior"].data_vars.items() if array.ndim > 2}
        last = {name: array[array.dims[-1]].to_numpy() for name, array in arrays.items()}
        return {name: [str(label) for label in values] for name, values in last.items() if values.dtype.kind in "OUT"}

    @property
    def messages(self) -> list[str]:
        """Warnings of the sampler, in words."""
        return json.loads(self.tree.attrs["messages"])

    @property
    def timings(self) -> dict[str, float]:
        """Seconds spent in each step."""
        return json.loads(self.tree.attrs["timings"])

    @property
    def log_evidence(self) -> tuple[float, float] | None:
        """Natural logarithm of the evidence and its standard error, or None for methods without evidence."""
        if "log_evidence" not in self.tree.attrs:
            return None
        value, error = self.tree.attrs["log_evidence"]
        return float(value), float(error)

    @property
    def information(self) -> float | None:
        """Kullback-Leibler divergence of the posterior from the prior [nat], or None for methods without it."""
        return float(self.tree.attrs["information"]) if "information" in self.tree.attrs else None

    @property
    def calls(self) -> int | None:
        """Evaluations of the likelihood, gradients included, or None for methods that do not count them."""
        return int(self.tree.attrs["calls"]) if "calls" in self.tree.attrs else None

    def with_labels(self, **labels: Sequence[str]) -> "Result":
        """Result with these labels for the elements of vectors, along their last axis, in tables, plots and files.

        >>> import gammajax as gj, numpy as np
        >>> draws = np.random.default_rng(0).dirichlet([1.0, 2.0], (4, 500))
        >>> result = gj.Result.from_samples({"ratios": draws}, method="example").with_labels(ratios=["W", "b"])
        >>> result.summary().index.tolist()
        ['ratios[W]', 'ratios[b]']

        Raises `ValueError` for a name that is not a vector of the result, and unless each element has a different text.
        """
        from xarray import DataTree

        tree = self.tree.copy()
        dataset = tree["posterior"].to_dataset()
        vectors = {str(name): array for name, array in dataset.data_vars.items() if array.ndim > 2}
        for name, given in labels.items():
            if name not in vectors:
                raise ValueError(
                    f"labels are of {name!r}, which is no vector; there are {', '.join(vectors) or 'none'}"
                )
            dimension, size = vectors[name].dims[-1], vectors[name].shape[-1]
            plain = not isinstance(given, str) and all(isinstance(label, str) and label for label in given)
            if not plain or len(set(given)) != size or len(given) != size:
                raise ValueError(f"the labels of {name!r} must be {size} different texts, not {given!r}")
            dataset = dataset.assign_coords({dimension: np.asarray(given, object)})
        tree["posterior"] = DataTree(dataset)
        return Result(tree)

    def derive(self, *, units: dict[str, str] | None = None, **functions) -> "Result":
        """Result with new quantities, each a function of the dict of parameters (jax, one draw at a time).

        A function may use quantities derived before it. True values are derived if those of all parameters are
        known. New quantities behave like parameters in the summary, plots, limits and saved files.

        >>> import gammajax as gj, numpy as np
        >>> draws = np.random.default_rng(0).normal(2.0, 0.1, (4, 500))
        >>> result = gj.Result.from_samples({"mass": draws}, method="example", units={"mass": "TeV"})
        >>> result = result.derive(square=lambda p: p["mass"] ** 2, units={"square": "TeV$^2$"})
        >>> result.summary().loc["square", "median"].round(1).item()
        4.0

        Raises `ValueError` for an argument that is not a function, for a name in use, for units of other names, and for
        values that are not finite.
        """
        from xarray import DataTree

        for name, function in functions.items():
            if not callable(function):
                raise ValueError(
                    f"{name!r} must be a function of the dict of parameters, not {function!r}; "
                    "the only other keyword is units="
                )
        check_labels(dict.fromkeys(functions), units=units)
        taken = [name for name in functions if name in self.samples]
        if taken:
            raise ValueError(f"{taken[0]!r} is a quantity of the result already; choose another name")
        names = list(self.samples)
        tree = self.tree.copy()
        groups = [group for group in ("posterior", "weighted", "constant_data") if group in tree.children]
        for group in groups:
            dataset = tree[group].to_dataset()
            if any(name not in dataset for name in names):
                continue
            lead = {"posterior": ("chain", "draw"), "weighted": ("point",)}.get(group, ())
            shape = tuple(dataset.sizes[dimension] for dimension in lead)
            flat = {name: dataset[name].to_numpy().reshape(-1, *dataset[name].shape[len(lead) :]) for name in names}
            for name, values in _map(functions, flat).items():
                if not np.all(np.isfinite(values)):
                    raise ValueError(f"derived quantity {name!r} is not finite for some draws")
                values = values.reshape((*shape, *values.shape[1:]))
                dims = (*lead, *(f"{name}_dim_{i}" for i in range(values.ndim - len(lead))))
                attributes = {"units": units[name]} if group == "posterior" and units and name in units else {}
                dataset[name] = (dims, values, attributes)
            tree[group] = DataTree(dataset)
        return Result(tree)

    def upper_limit(self, name: str, level: float | int = 0.95) -> float:
        """Upper limit with posterior probability `level`: the quantile of the draws.

        `name` as in the rows of [`Result.summary`][]. If the prior ends at zero, this is the usual upper limit of a
        flux or cross section; it depends on that prior.

        Raises `ValueError` for an unknown name, and if fewer than five effective draws lie above the limit.
        """
        if not 0 < level < 1:
            raise ValueError(f"the level must lie between 0 and 1, it is {level:g}")
        values, weights, effective = self._draws(name)
        if effective * (1.0 - level) < 5.0:
            raise ValueError(
                f"a limit at {level:g} needs {5.0 / (1.0 - level):.0f} effective draws, {name!r} has {effective:.0f}"
            )
        return float(np.quantile(values, level, weights=weights, method="inverted_cdf"))

    def significance(self, name: str, null: float | int = 0.0) -> Significance:
        """Distance of the quantity from `null`: posterior probability p beyond `null`, and sigma = Phi^-1(1 - p).

        For a Gaussian posterior sigma is (mean - null) / sd. With few draws beyond `null` it is a limit,
        never infinite. `name` as in the rows of [`Result.summary`][].

        Raises `ValueError` if draws reach `null` without crossing it, like draws of a flux near zero: use
        [`Result.bayes_factor`][] then.
        """
        return tail_significance(name, *self._draws(name), null)

    def bayes_factor(self, name: str, null: float | int = 0.0, *, prior_density: float | int) -> BayesFactor:
        """Bayes factor of this model against the model with the quantity fixed at `null`, which may be a prior edge.

        Savage-Dickey ratio B = prior density / posterior density at `null` (Dickey 1971,
        doi:10.1214/aoms/1177693507; Verdinelli & Wasserman 1995, doi:10.1080/01621459.1995.10476554), for models whose
        other priors are the same. `prior_density` per unit of the quantity: 1 / 1000 for `Uniform(0, 1000)`.
        If the draws do not reach `null`, ln B is a limit.
        """
        return savage_dickey(name, *self._draws(name), null, prior_density)

    def compare(self, other: "Result") -> BayesFactor:
        """Bayes factor of this model against another for the same data: ln B = ln Z - ln Z', errors in quadrature.

        Words by the scale of Trotta (2008, arXiv:0803.4089): weak from |ln B| = 1, moderate from 2.5, strong from 5.
        Results with different numbers of events raise a warning.

        Raises `ValueError` if one of them has no evidence.
        """
        if self.log_evidence is None or other.log_evidence is None:
            method = (self if self.log_evidence is None else other).tree.attrs["method"]
            raise ValueError(f"a result by {method!r} has no evidence; use one with evidence, such as smc or nested")
        counts = [result.tree.attrs.get("events") for result in (self, other)]
        if None not in counts and counts[0] != counts[1]:
            warnings.warn(
                f"the results are of {counts[0]} and {counts[1]} events; evidences of other data cannot be compared",
                stacklevel=2,
            )
        return model_comparison(self.log_evidence, other.log_evidence)

    def summary(self, group: str = "posterior"):
        """Table (`pandas.DataFrame`) with one row per number of the group, `posterior` or `fractions`.

        Columns: median, 68 % and 95 % equal-tailed intervals, mean, sd, bulk effective sample size, R-hat, and the
        truth if known. Weighted points are used directly, not their draws; their effective sample size is
        1 / Sum w^2.
        """
        import pandas

        ess, r_hat = self.diagnostics(group)
        rows = {}
        for label, (name, index) in self._numbers(group).items():
            quantiles = self._quantiles(label, list(LEVELS.values()), group)
            values, weights = self._points(label, group)
            if weights is None:
                mean, effective = values.mean(), float(ess[name][index])
                sd = values.std(ddof=1) if values.size > 1 else np.nan
            else:
                mean, effective = weights @ values, 1.0 / np.sum(weights**2)
                sd = np.sqrt(weights @ (values - mean) ** 2)
            row = dict(zip(LEVELS, quantiles, strict=True))
            row |= {"mean": mean, "sd": sd, "ess_bulk": effective, "r_hat": float(r_hat[name][index])}
            if self.truths and group == "posterior":
                row["truth"] = float(self.truths[name][index]) if name in self.truths else np.nan
            rows[label] = row
        return pandas.DataFrame.from_dict(rows, orient="index").rename_axis(
            "parameter" if group == "posterior" else "node"
        )

    def diagnostics(self, group: str = "posterior") -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Bulk effective sample size and R-hat of every parameter (or fraction); NaN for too few draws."""
        from arviz_stats.sampling_diagnostics import ess, rhat

        posterior = self.tree[group]
        unknown = {str(name): np.full(a.shape[2:], np.nan) for name, a in posterior.data_vars.items()}
        if posterior.sizes["draw"] < 4:
            return unknown, unknown
        size = {str(name): array.to_numpy() for name, array in ess(posterior.to_dataset()).data_vars.items()}
        if posterior.sizes["chain"] < 2:
            return size, unknown
        return size, {str(name): array.to_numpy() for name, array in rhat(posterior.to_dataset()).data_vars.items()}

    def save(self, path) -> Path:
        """Write a NetCDF file, first under a temporary name so that `path` is never incomplete."""
        # HDF5 does not survive a full disk: it writes to memory
        data = self.tree.to_netcdf(engine="h5netcdf")
        with replacing(path) as temporary:
            temporary.write_bytes(data)
        return Path(path)

    @classmethod
    def load(cls, path) -> "Result":
        """Read a file that `save` wrote. Raises `FileNotFoundError`, or `ValueError` for other files."""
        import h5py
        import xarray

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        try:
            with h5py.File(path) as file:  # h5netcdf leaves a traceback on the terminal where these are damaged
                dict(file.attrs)
            tree = xarray.load_datatree(path, engine="h5netcdf")
        except Exception as error:  # h5py, h5netcdf and xarray raise a dozen kinds for damaged bytes
            raise ValueError(f"{path}: not a NetCDF file, or a damaged one ({type(error).__name__})") from error
        missing = [name for name in ATTRIBUTES if not isinstance(tree.attrs.get(name), str)]
        samples = tree["posterior"].data_vars.values() if "posterior" in tree.children else ()
        whole = all(one.dims[:2] == ("chain", "draw") and one.size and one.dtype.kind in "fiu" for one in samples)
        if missing or not samples or not whole:
            lacks = f" (no {', no '.join(missing)})" if missing else ""
            raise ValueError(f"{path}: not a result that gammajax wrote, or a damaged one{lacks}")
        return cls(tree)

    def save_chains(self, root) -> list[Path]:
        """Write a nested run in PolyChord's format, `<root>_dead-birth.txt` and `<root>.paramnames`.

        `anesthetic.read_chains(root)` reads them. Columns: the parameters, ln L, ln L at birth.
        Raises `ValueError` for a result without the birth of its points.
        """
        stats = self.tree["weighted_stats"] if "weighted_stats" in self.tree.children else {}
        if "log_likelihood_birth" not in stats:
            raise ValueError(f"a result by {self.tree.attrs['method']!r} has no points with likelihoods at birth")
        numbers = self._numbers()
        columns = [self.weighted[name][(slice(None), *index)] for name, index in numbers.values()]
        columns += [stats[name].to_numpy() for name in ("log_likelihood", "log_likelihood_birth")]
        table = np.stack(columns, axis=1)
        paths = [Path(f"{root}_dead-birth.txt"), Path(f"{root}.paramnames")]
        with replacing(paths[0]) as dead_birth, replacing(paths[1]) as names:
            np.savetxt(dead_birth, table[np.argsort(table[:, -2], kind="stable")], fmt="%.17g")
            names.write_text("".join(f"{'_'.join(label.split())} {_latex(label)}\n" for label in numbers))
        return paths

    def check(self, posterior, **options):
        """Goodness of fit (`gammajax.Check`) with p-values and residual maps, see [`gammajax.check`][]."""
        from gammajax.products.goodness import check

        return check(posterior, self, **options)

    def plot_corner(self, names=None, truths: dict | None = None, figure=None, **options):
        """Corner plot (`matplotlib.figure.Figure`), see [`gammajax.plots.corner.plot_corner`][]."""
        from gammajax.plots.corner import plot_corner

        return plot_corner(self, names, truths, figure, **options)

    def plot_counts(self, posterior, **options):
        """Data against the posterior's predictions (figure), see [`gammajax.plots.counts.plot_counts`][]."""
        from gammajax.plots.counts import plot_counts

        return plot_counts(posterior, self, **options)

    def plot_spectrum(self, posterior, names=None, **options):
        """Credible bands of spectra (axes), see [`gammajax.plots.bands.plot_spectrum`][]."""
        from gammajax.plots.bands import plot_spectrum

        return plot_spectrum(posterior, self, names, **options)

    def plot_trace(self, names=None, figure=None):
        """Chains, their ranks and marginals (figure), see [`gammajax.plots.traces.plot_trace`][]."""
        from gammajax.plots.traces import plot_trace

        return plot_trace(self, names, figure)

    def plot_run(self, figure=None):
        """Course of a nested or tempered run (figure), see [`gammajax.plots.traces.plot_run`][]."""
        from gammajax.plots.traces import plot_run

        return plot_run(self, figure)

    def _draws(self, label: str) -> tuple[np.ndarray, np.ndarray, float]:
        """Values of one number, normalised weights and effective number of draws; of the weighted points if any."""
        values, weights = self._points(label)
        if weights is not None:
            return values, weights, float(1.0 / np.sum(weights**2))
        name, index = self._numbers()[label]
        effective, number = float(self.diagnostics()[0][name][index]), len(values)
        return values, np.full(number, 1.0 / number), effective if np.isfinite(effective) else float(number)

    def _points(self, label: str, group: str = "posterior") -> tuple[np.ndarray, np.ndarray | None]:
        """Weighted points of one number and their weights, or its draws and None."""
        numbers = self._numbers(group)
        if label not in numbers:
            raise ValueError(f"no quantity {label!r} in the result; there are {', '.join(numbers)}")
        name, index = numbers[label]
        if group == "posterior" and name in self.weighted:
            return np.asarray(self.weighted[name][(slice(None), *index)], np.float64), self.weights
        array = self.tree[group][name].to_numpy()
        return np.asarray(array.reshape(-1, *array.shape[2:])[(slice(None), *index)], np.float64), None

    def _quantiles(self, label: str, levels: list[float], group: str = "posterior") -> np.ndarray:
        """Quantiles of one number, of the weighted points if any."""
        values, weights = self._points(label, group)
        return np.quantile(values, levels, weights=weights, method="linear" if weights is None else "inverted_cdf")

    def _numbers(self, group: str = "posterior") -> dict[str, tuple[str, tuple[int, ...]]]:
        """Label, name of variable and index of every number."""
        if group == "fractions":
            return {str(node): ("fraction_of_events", (i,)) for i, node in enumerate(self.fractions)}
        numbers, labels = {}, self.labels
        for name, values in self.samples.items():
            for index in np.ndindex(values.shape[1:]):
                shown = (*index[:-1], labels[name][index[-1]]) if name in labels else index
                numbers[name + "".join(f"[{i}]" for i in shown)] = (name, index)
        return numbers

    def _chosen(self, names) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Like `_numbers`, for the rows or whole quantities in `names`, in that order; all for None.

        Raises `ValueError` for an unknown name and an empty list.
        """
        numbers = self._numbers()
        if names is None:
            return numbers
        if isinstance(names, dict):
            raise ValueError(f"names must be a list of {', '.join(numbers)}, not a dict; true values go to truths=")
        names = [names] if isinstance(names, str) else list(names)
        unknown = [name for name in names if name not in self.samples and name not in numbers]
        if unknown or not names:
            raise ValueError(f"no quantity {unknown} in the result; there are {', '.join(numbers)}")
        return {
            label: place
            for name in names
            for label, place in numbers.items()
            if name in (label, place[0])  # the name of a vector selects all its elements
        }

    @words
    def __repr__(self) -> str:
        """Method and draws, medians with 68 % intervals, evidence and warnings."""
        sizes, units, table = self.tree["posterior"].sizes, self.units, self.summary()
        estimates = []
        for label, row in table.iterrows():
            unit = plain_unit(units.get(str(label).split("[")[0], ""))
            up, down = row["68% high"] - row["median"], row["median"] - row["68% low"]
            estimates.append(f"{label} = {row['median']:.4g} +{up:.2g} -{down:.2g} {unit}".rstrip())
        evidence = [] if self.log_evidence is None else ["log evidence {:.3f} +- {:.3f}".format(*self.log_evidence)]
        warned = [f"{number_of(len(self.messages), 'warning')}, in messages"] if self.messages else []
        return block(
            f"Result({self.tree.attrs['method']}: {listed(list(self.samples))}; {number_of(sizes['chain'], 'chain')} x "
            f"{sizes['draw']} draws)",
            *rows(estimates),
            *evidence,
            *warned,
        )


def _map(functions, draws) -> dict[str, np.ndarray]:
    """Values [draw, ...] of functions of a dict of parameters; each may use the results of earlier functions."""

    def one(parameters):
        found = {}
        for name, function in functions.items():
            found[name] = jnp.asarray(function({**parameters, **found}))
        return found

    draws = {name: jnp.asarray(values) for name, values in draws.items()}
    # pass closed-over arrays, such as a posterior's, as arguments
    converted = eqx.filter_closure_convert(one, {name: values[0] for name, values in draws.items()})
    mapped = eqx.filter_jit(lambda function, draws: jax.lax.map(function, draws, batch_size=CHUNK))(converted, draws)
    return {name: np.asarray(mapped[name]) for name in functions}


def _latex(label: str) -> str:
    """A label in LaTeX math mode."""
    return r"\mathrm{" + label.replace("_", r"\_").replace(" ", r"\ ") + "}"


def _points(weighted) -> dict:
    """Groups `weighted` and `weighted_stats` of weighted points; the weights add up to one."""
    if not weighted:
        return {}
    stats = {name: np.asarray(values, np.float64) for name, values in weighted.items() if name != "samples"}
    samples = {name: np.asarray(values) for name, values in weighted["samples"].items()}
    lengths = {values.shape[0] for values in (*stats.values(), *samples.values())}
    if len(lengths) != 1:
        raise ValueError(f"weighted samples and their statistics must be of one length, not of {sorted(lengths)}")
    weight = stats["log_weight"]
    if np.any(np.isnan(weight)) or not np.isfinite(weight.max()):
        raise ValueError("log_weight of the weighted samples must be numbers, at least one of them finite")
    stats["log_weight"] = weight - np.logaddexp.reduce(weight)
    return {"weighted": _dataset(samples, "point"), "weighted_stats": _dataset(stats, "point")}


def _dataset(arrays, first: str):
    """Dataset of arrays that share their first dimension; other dimensions have ArviZ's names."""
    from xarray import Dataset

    variables = {}
    for name, values in arrays.items():
        values = np.asarray(values)
        variables[name] = ([first, *(f"{name}_dim_{i}" for i in range(values.ndim - 1))], values)
    return Dataset(variables)


@lru_cache(maxsize=1)
def _git_state() -> str:
    """Short commit of the package's git checkout, with "+changes" if edited; empty outside a checkout."""
    folder = Path(__file__).parents[2]
    if not (folder / ".git").exists():  # the package is installed inside another repository
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--exclude=*", "--dirty=+changes"]
    try:
        # once per process, about 10 ms; do not wait for a slow disk
        done = subprocess.run(command, capture_output=True, text=True, timeout=1.0)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
