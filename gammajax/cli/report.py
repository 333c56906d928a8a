"""Report of a run: one page of HTML with its figures, tables, messages and configuration, which needs no network."""

import base64
from html import escape
from pathlib import Path

from gammajax.common.writing import replacing

CAPTIONS = {
    "corner": "Posterior: contours of 39 and 86 % of the probability (one and two sigma), intervals of 68 %.",
    "counts": "Counts and the model's expectation, by reconstructed energy and on the sky.",
    "run": "Progress of the sampler towards the evidence.",
}
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { white-space: nowrap; text-align: right; padding: .25rem .75rem; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; }
figure { margin: 1.5rem 0; } img { max-width: 100%; background: #fff; border-radius: 4px; }
figcaption { font-size: .9rem; opacity: .8; }
pre { overflow-x: auto; padding: 1rem; background: #8881; border-radius: 4px; font-size: .85rem; }
.message { border-left: 4px solid #d55e00; padding: .25rem .75rem; margin: .5rem 0; }
"""


def write_report(out: Path, result) -> Path:
    """Write `report.html` into the folder `out` of a run, from its `result` and the files that are there."""
    path = out / "report.html"
    with replacing(path) as temporary:
        temporary.write_text(_page(out, result), encoding="utf-8")
    return path


def _page(out: Path, result) -> str:
    attributes = result.tree.attrs
    parts = [
        f"<h1>{escape(out.name)}</h1>",
        f"<p>{_count(attributes['events'])} events, sampled by <b>{escape(attributes['method'])}</b>.</p>",
    ]
    parts += [f'<div class="message">{escape(message)}</div>' for message in result.messages]
    if result.log_evidence is not None:
        parts.append("<p>log evidence {:.3f} ± {:.3f}</p>".format(*result.log_evidence))
    parts += ["<h2>Parameters</h2>", _table(_with_units(result.summary(), result.units))]
    parts += [_figure(out / f"{name}.png") for name in ("corner", "run")]
    parts += ["<h2>Fractions of the events</h2>", _table(result.summary("fractions")), _figure(out / "counts.png")]
    parts += _of_products(out, attributes["config"])
    parts += ["<h2>How it was made</h2>", f"<pre>{escape((out / 'run.log').read_text(encoding='utf-8'))}</pre>"]
    parts += ["<h2>Configuration</h2>", f"<pre>{escape(attributes['config'])}</pre>"]
    body = "\n".join(part for part in parts if part)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(out.name)}</title>\n'
        f'<meta name="viewport" content="width=device-width">\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n'
        "</body>\n</html>\n"
    )


def _count(number) -> str:
    return f"{int(number):,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _with_units(summary, units):
    from gammajax.common.display import plain_unit

    names = {name: plain_unit(units.get(str(name).split("[")[0], "")) for name in summary.index}
    return summary.rename(index={name: f"{name} [{unit}]" if unit else str(name) for name, unit in names.items()})


def _table(table) -> str:
    times = {name: "{:.5f}".format for name in table.columns if str(name).startswith("time")}  # MJD
    text = table.to_html(border=0, formatters=times, float_format=lambda value: f"{value:.4g}", na_rep="")
    return f'<div class="wide">{text}</div>'


def _figure(path: Path) -> str:
    """A figure of the folder, if it is there."""
    if not path.exists():
        return ""
    caption = escape(CAPTIONS.get(path.stem, path.stem))
    data = base64.b64encode(path.read_bytes()).decode()
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'
    )


def _of(product) -> str:
    component = getattr(product, "component", None)
    return f" of {component}" if component else ""


def _of_products(out: Path, config: str) -> list[str]:
    """Tables and figures that are not of every run."""
    import pandas

    from gammajax.cli.configurations import parse

    products = parse(config).products
    kinds = {name: escape(f": {product.type.replace('-', ' ')}{_of(product)}") for name, product in products.items()}

    own = {"corner", "counts", "run"}
    parts = []
    tables = [path for path in sorted(out.glob("*.csv")) if path.stem not in ("summary", "fractions")]
    for path in tables:
        name = path.stem
        kind = kinds.get(name, "")
        parts += [f"<h2>{escape(name)}{kind}</h2>", _table(pandas.read_csv(path, index_col=0))]
        figures = [path for path in out.glob(f"{name}*.png") if path.stem not in own]
        parts += [_figure(path) for path in sorted(figures, key=lambda path: len(path.stem))]
    return parts
