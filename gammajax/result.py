"""Result: posterior samples with their diagnostics and provenance, in an ArviZ data tree."""

import json
import os
import subprocess
import tempfile
import warnings
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

PACKAGES = ("gammajax", "jax", "numpyro", "blackjax", "optax", "equinox", "gammapy", "astropy")
LEVELS = {"median": 0.5, "68% low": 0.1587, "68% high": 0.8413, "95% low": 0.0228, "95% high": 0.9772}


class Result:
    """Samples of a posterior, whatever sampler made them.

    `tree` is an `xarray.DataTree` with the groups ArviZ expects: `posterior`, `sample_stats` and, when true values are
    known, `constant_data`; and `fractions` of the events for every node of the mixture. Runs that end with weighted
    points keep them in `weighted` and `weighted_stats`, the steps of a tempered run are in `smc_stats`. Its attributes
    say how it was made: method, seed, versions, git state, device, timings, messages.
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
        fractions: dict | None = None,
        messages=(),
        timings: dict[str, float] | None = None,
        weighted: dict | None = None,
        smc_stats: dict | None = None,
        log_evidence: tuple[float, float] | None = None,
        information: float | None = None,
        calls: int | None = None,
        **attributes,
    ) -> "Result":
        """Result of arrays [chain, draw, ...] by name of parameter.

        - `truths`: known values; `units`: for labels; `timings` [s].
        - `fractions` [chain, draw] of the events by path of the mixture's node.
        - `weighted`: points of an importance or nested run, `{"samples": {name: [point, ...]}, "log_weight": [point]}`
          and for a nested run `log_likelihood`, `log_likelihood_birth` and `log_volume` [point]. Weights are stored so
          that they add up to one. The samples are then equally weighted draws of these points.
        - `smc_stats`: `temperature`, `ess` and `acceptance` [step] of a tempered run.
        - `log_evidence`: natural logarithm of the absolute evidence, and its standard error.
        - `information`: Kullback-Leibler divergence of the posterior from the prior [nat].
        - `calls`: evaluations of the likelihood; a gradient counts as one.
        - `attributes`: plain values to keep along, as `seed`, or the number of `events`.

        Raises `ValueError` for samples that are not finite or not of equal length, and an evidence that is not finite.
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
        known = {name: np.asarray(value) for name, value in (truths or {}).items() if name in samples}
        if known:
            groups["constant_data"] = known
        labels = {}
        if fractions:
            groups["fractions"] = {"fraction_of_events": np.stack([np.asarray(v) for v in fractions.values()], axis=-1)}
            labels = {"dims": {"fraction_of_events": ["node"]}, "coords": {"node": list(fractions)}}
        with warnings.catch_warnings():
            # arviz wonders about more chains than draws; short runs are the caller's choice
            warnings.filterwarnings("ignore", message="More chains", category=UserWarning)
            tree = from_dict(groups, **labels)
        for name, unit in (units or {}).items():
            if name in tree["posterior"]:
                tree["posterior"][name].attrs["units"] = unit
        for group, dataset in _points(weighted).items():
            tree[group] = dataset
        if smc_stats:
            tree["smc_stats"] = _dataset(smc_stats, "step")
        plain = {"information": information, "calls": calls, **attributes}
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
        return cls(tree)

    @property
    def samples(self) -> dict[str, np.ndarray]:
        """Samples by parameter, chains joined: [draw, ...]."""
        arrays = {str(name): array.to_numpy() for name, array in self.tree["posterior"].data_vars.items()}
        return {name: values.reshape(-1, *values.shape[2:]) for name, values in arrays.items()}

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
        """Known true values, where given."""
        if "constant_data" not in self.tree.children:
            return {}
        return {str(name): array.to_numpy() for name, array in self.tree["constant_data"].data_vars.items()}

    @property
    def units(self) -> dict[str, str]:
        """Units of the parameters that have one."""
        arrays = self.tree["posterior"].data_vars.items()
        return {str(name): array.attrs["units"] for name, array in arrays if "units" in array.attrs}

    @property
    def messages(self) -> list[str]:
        """What the sampler warned about, in words."""
        return json.loads(self.tree.attrs["messages"])

    @property
    def timings(self) -> dict[str, float]:
        """Seconds spent in each step."""
        return json.loads(self.tree.attrs["timings"])

    @property
    def log_evidence(self) -> tuple[float, float] | None:
        """Natural logarithm of the evidence and its standard error, or None where the method gives none."""
        if "log_evidence" not in self.tree.attrs:
            return None
        value, error = self.tree.attrs["log_evidence"]
        return float(value), float(error)

    @property
    def information(self) -> float | None:
        """Kullback-Leibler divergence of the posterior from the prior [nat], where the method gives it."""
        return float(self.tree.attrs["information"]) if "information" in self.tree.attrs else None

    @property
    def calls(self) -> int | None:
        """Evaluations of the likelihood, gradients included, where the method counts them."""
        return int(self.tree.attrs["calls"]) if "calls" in self.tree.attrs else None

    def add_timings(self, timings: dict[str, float]) -> None:
        """Put seconds of other steps before the sampler's own."""
        self.tree.attrs["timings"] = json.dumps({**timings, **self.timings})

    def summary(self, group: str = "posterior"):
        """Table (`pandas.DataFrame`) with one row per number of the group, `posterior` or `fractions`.

        Columns: median, 68 % and 95 % equal-tailed intervals, mean, sd, bulk effective sample size, R-hat, and the
        truth where it is known.
        """
        import pandas

        ess, r_hat = self.diagnostics(group)
        rows = {}
        for label, (name, index) in self._numbers(group).items():
            array = self.tree[group][name].to_numpy()
            values = array.reshape(-1, *array.shape[2:])[(slice(None), *index)]
            row = dict(zip(LEVELS, np.quantile(values, list(LEVELS.values())), strict=True))
            row |= {"mean": values.mean(), "sd": values.std(ddof=1) if values.size > 1 else np.nan}
            row |= {"ess_bulk": float(ess[name][index]), "r_hat": float(r_hat[name][index])}
            if self.truths and group == "posterior":
                row["truth"] = float(self.truths[name][index]) if name in self.truths else np.nan
            rows[label] = row
        return pandas.DataFrame.from_dict(rows, orient="index").rename_axis(
            "parameter" if group == "posterior" else "node"
        )

    def diagnostics(self, group: str = "posterior") -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Bulk effective sample size and R-hat of every parameter (or fraction); NaN where there are too few draws."""
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
        """Write a NetCDF file, first under a temporary name so that it is never half there."""
        path = Path(path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
        os.close(handle)
        try:
            self.tree.to_netcdf(temporary, engine="h5netcdf")
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
        return path

    @classmethod
    def load(cls, path) -> "Result":
        """Read a file that `save` wrote. Raises `FileNotFoundError`, or `ValueError` when it is something else."""
        import xarray

        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file")
        try:
            tree = xarray.load_datatree(path, engine="h5netcdf")
        except OSError as error:
            raise ValueError(f"{path}: not a NetCDF file") from error
        if "posterior" not in tree.children or "method" not in tree.attrs:
            raise ValueError(f"{path}: not a result that gammajax wrote")
        return cls(tree)

    def plot_corner(self, truths: dict | None = None, **options):
        """Corner plot (`matplotlib.figure.Figure`), see [`gammajax.plot.plot_corner`][]."""
        from gammajax.plot import plot_corner

        return plot_corner(self, truths, **options)

    def _numbers(self, group: str = "posterior") -> dict[str, tuple[str, tuple[int, ...]]]:
        """Label, name of variable and index of every number."""
        if group == "fractions":
            return {str(node): ("fraction_of_events", (i,)) for i, node in enumerate(self.fractions)}
        numbers = {}
        for name, values in self.samples.items():
            for index in np.ndindex(values.shape[1:]):
                numbers[name + "".join(f"[{i}]" for i in index)] = (name, index)
        return numbers

    def __repr__(self) -> str:
        sizes = self.tree["posterior"].sizes
        names = ", ".join(self.samples)
        return f"Result({self.tree.attrs['method']}: {names}; {sizes['chain']} chains x {sizes['draw']} draws)"


def _points(weighted) -> dict:
    """Groups `weighted` and `weighted_stats` of weighted points, the weights adding up to one."""
    if not weighted:
        return {}
    stats = {name: np.asarray(values, np.float64) for name, values in weighted.items() if name != "samples"}
    samples = {name: np.asarray(values) for name, values in weighted["samples"].items()}
    lengths = {values.shape[0] for values in (*stats.values(), *samples.values())}
    if len(lengths) != 1:
        raise ValueError(f"weighted samples and their statistics must be of one length, not of {sorted(lengths)}")
    weight = stats["log_weight"]
    if np.any(np.isnan(weight)) or not np.isfinite(weight.max()):
        raise ValueError("log_weight of the weighted samples must be numbers, of which one at least is finite")
    # to the largest first: the sum of exponentials would overflow
    stats["log_weight"] = weight - weight.max() - np.log(np.sum(np.exp(weight - weight.max())))
    return {"weighted": _dataset(samples, "point"), "weighted_stats": _dataset(stats, "point")}


def _dataset(arrays, first: str):
    """Dataset of arrays that share their first dimension; the others are named as ArviZ does."""
    from xarray import Dataset

    variables = {}
    for name, values in arrays.items():
        values = np.asarray(values)
        variables[name] = ([first, *(f"{name}_dim_{i}" for i in range(values.ndim - 1))], values)
    return Dataset(variables)


@lru_cache(maxsize=1)
def _git_state() -> str:
    """Short commit of the checkout this package is imported from, "+changes" where edited; empty if it is none."""
    folder = Path(__file__).parents[1]
    if not (folder / ".git").exists():  # an installed package in somebody else's repository
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--exclude=*", "--dirty=+changes"]
    try:
        # asked once in a process; some 10 ms, and no reason to wait for a slow disk
        done = subprocess.run(command, capture_output=True, text=True, timeout=1.0)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
