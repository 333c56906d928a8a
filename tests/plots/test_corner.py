"""Corner plots tell the numbers of the table."""

import numpy as np

import gammajax as gj
from gammajax.plots.corner import BINS, _interval

FLUX = "10$^{-12}$ TeV$^{-1}$ cm$^{-2}$ s$^{-1}$"


def importance(points=4000, draws=600):
    """Points about 1 with weights of a Gaussian about 0, in units of a width of 0.1; and few draws of these."""
    random = np.random.default_rng(0)
    away = random.normal(1.0, 1.2, points)
    log_weight = 0.5 * ((away - 1.0) / 1.2) ** 2 - 0.5 * away**2
    weights = np.exp(log_weight - log_weight.max())
    chosen = random.choice(points, draws, p=weights / weights.sum())
    values = {"index": 2.5 + 0.1 * away, "amplitude": 4.0 - 0.3 * away}
    samples = {name: column[None, chosen] for name, column in values.items()}
    weighted = {"samples": values, "log_weight": log_weight}
    return gj.Result.from_samples(samples, method="laplace", weighted=weighted, units={"amplitude": FLUX})


def titles(result):
    axes = np.array(result.plot_corner().axes)
    return [one.get_title() for one in axes.reshape(2, 2).diagonal()]


def test_titles_are_rows_of_the_summary():
    """Of the weighted points, as the table; by draws the medians would be 0.05 widths off."""
    chains = np.random.default_rng(1).normal(size=(2, 2, 300))
    drawn = {"index": 2.5 + 0.1 * chains[0], "amplitude": 4.0 - 0.3 * chains[1]}
    for result in (importance(), gj.Result.from_samples(drawn, method="nuts", units={"amplitude": FLUX})):
        table = result.summary()
        for (name, row), title in zip(table.iterrows(), titles(result), strict=True):
            assert title.startswith(str(name))
            assert title.endswith(_interval(result._quantiles(name, [0.1587, 0.5, 0.8413])))
            assert f"${row['median']:.3f}^" in title or f"${row['median']:.2f}^" in title


def test_titles_have_units():
    index, amplitude = titles(importance())
    assert index.startswith("index = $") and f"[{FLUX}]" in amplitude.replace("\n", " ")


def test_few_draws_have_wide_bins():
    def steps(draws):
        random = np.random.default_rng(0)
        result = gj.Result.from_samples({"index": random.normal(size=(2, draws // 2))}, method="nuts")
        figure = result.plot_corner(smooth1d=None)
        return len(np.unique(figure.axes[0].patches[0].get_xy()[:, 0])) - 1

    assert steps(4000) == BINS and steps(200) < 0.7 * BINS


def test_interval():
    assert _interval([0.1587, 0.5, 0.8413]) == "$0.50^{+0.34}_{-0.34}$"
