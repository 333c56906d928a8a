"""Figure of a profile likelihood."""

from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from gammajax.plots.style import BOXED, COLOURS, axes_in
from gammajax.statistics.profiles import DEEP, INTERVALS, UPPER_LIMIT


def plot_profile(profile: Any, ax=None, label: str | None = None):
    """Q against the values, with the 68 % and 95 % intervals; see [`gammajax.Profile.plot`][]."""
    from matplotlib import rc_context

    from gammajax.common.ticks import labelled, plain_ticks

    # the maximum may lie between the values
    at, first = np.unique(np.append(profile.values, profile.best_value), return_index=True)
    q = np.append(profile.fall, 0.0)[first]
    with rc_context(BOXED):
        ax = axes_in(ax, (6.4, 4.4))
        if profile._crossing(-1, INTERVALS[0.95]) == profile.support[0] == 0.0:  # all that is known is a limit
            limit = profile._crossing(1, UPPER_LIMIT)
            if np.isfinite(limit):
                ax.axvline(limit, color=COLOURS[0], lw=1.5, ls="--", label="95 % upper limit, one-sided")
                ax.legend(loc="upper left", framealpha=0.9)
        for (level, height), shade in zip(INTERVALS.items(), ("0.75", "0.88"), strict=True):
            low, high = profile._crossing(-1, height), profile._crossing(1, height)
            if not np.any(np.isnan([low, high])):
                ax.axvspan(*np.clip([low, high], at[0], at[-1]), color=shade, lw=0, zorder=-height)
            ax.axhline(height, color="0.4", lw=0.8, ls=":")
            ax.text(0.99, height, f"{100 * level:.0f} %", ha="right", va="bottom", transform=ax.get_yaxis_transform())
        some = np.isfinite(q)
        # straight across the maximum for a Gaussian likelihood
        smooth = PchipInterpolator(at[some], np.sign(at - profile.best_value)[some] * np.sqrt(q[some]))
        fine = np.linspace(at[some][0], at[some][-1], 400)
        ax.plot(fine, smooth(fine) ** 2, color=COLOURS[1], lw=1.8)
        ax.plot(at[some], q[some], "o", ms=3.5, color=COLOURS[1])
        ax.set(
            xlabel=labelled(label or profile.name, profile.unit, 60),
            ylabel=r"$2\,(\ln L_\mathrm{max} - \ln L)$",
            xlim=at[some][[0, -1]],
        )
        ax.set_ylim(0.0, min(DEEP, max(1.15 * q[some].max(), 1.2)))
        plain_ticks(ax.xaxis)
    return ax
