"""Pages of the site that are not in `docs`, figures of its examples, and tables of the reference: hooks of mkdocs.

- CHANGELOG.md, CONTRIBUTING.md, benchmarks/RESULTS.md and the notebooks are pages, where links to them lead.
- `<!-- figure: CAPTION -->` after an example is the `figure`, or that of the `ax`, of the examples before it.
- `<!-- names -->` is the table of all public names, `<!-- commands -->` that of the command line.
"""

import base64
import doctest
import importlib
import inspect
import io
import json
import os
import posixpath
import re
import types
from pathlib import Path

from mkdocs.structure.files import File

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=1")  # compilation takes most of the time
ROOT = Path(__file__).parent.parent
PAGES = {
    "CHANGELOG.md": "changes.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    **{f"notebooks/{path.name}": f"tutorials/{path.stem}.md" for path in sorted(ROOT.glob("notebooks/*.ipynb"))},
    "README.md": "index.md",
}
LINK = re.compile(r"(!?)\[([^\]\n]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")
LINKED = re.compile(r"\[(`[^`]*`)\]\[[^\]]*\]")
FENCE = re.compile(r"^```(?:python|pycon)\n(>>> .*?)\n*^```$", re.MULTILINE | re.DOTALL)
LONG = re.compile(r"<td>(?=[^<]{60,}</td>)")
FIGURE = re.compile(r"^<!-- figure: (.*?) -->$", re.MULTILINE | re.DOTALL)


def on_files(files, config):
    """Add the pages and figures that lie elsewhere in the repository."""
    for source, page in PAGES.items():
        if page != "index.md":
            text = (ROOT / source).read_text(encoding="utf-8")
            content = notebook(json.loads(text), page, config, files) if source.endswith(".ipynb") else text
            files.append(File.generated(config, page, content=relinked(content, source, page)))
    for picture in sorted((ROOT / "benchmarks/results").glob("*.png")):
        files.append(File.generated(config, f"benchmarks/results/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to pages of the site, examples without the empty line at their end, figures and tables."""
    here = page.file.src_uri
    if page.parent is None:
        page.meta["hide"] = ["navigation"]  # its section is this page alone: the column would be empty
    if here not in PAGES.values() or here == "index.md":
        markdown = relinked(markdown, f"docs/{here}", here)
    if FIGURE.search(markdown):
        markdown = drawn(markdown, here, config, files)
    markdown = FENCE.sub(lambda block: f"```pycon\n{block.group(1)}\n```", markdown)
    for marker, table in (("<!-- names -->", names), ("<!-- commands -->", commands)):
        if marker in markdown:
            markdown = markdown.replace(marker, table())
    return markdown


def on_page_content(html, page, config, files):
    """Cells with long texts of the benchmarks, which the numbers beside them would make narrow and tall."""
    return LONG.sub('<td class="long">', html) if page.file.src_uri == PAGES["benchmarks/RESULTS.md"] else html


def relinked(markdown: str, source: str, page: str) -> str:
    """Links of a file of the repository as links of a page; files that the site does not have are named only."""

    def link(match: re.Match) -> str:
        image, text, target, anchor = match.groups()
        place = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if place.startswith("benchmarks/results/") or place in PAGES:
            place = PAGES.get(place, place)
        elif place.startswith(("docs/", "figures/")):
            place = place.removeprefix("docs/")
        else:
            return text
        return f"{image}[{text}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor or ''})"

    return LINK.sub(link, markdown)


def notebook(cells: dict, page: str, config, files) -> str:
    """Text, code, printed results and figures of a notebook, as they are in its file."""
    parts = []
    for number, cell in enumerate(cells["cells"]):
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", []):
            if picture := output.get("data", {}).get("image/png"):
                name = f"figures/{page.removesuffix('.md')}-{number}.png"
                files.append(File.generated(config, name, content=base64.b64decode("".join(picture))))
                parts.append(f"![figure of the code above]({posixpath.relpath(name, posixpath.dirname(page))})")
                continue
            printed = "".join(output.get("text", output.get("data", {}).get("text/plain", ""))).rstrip()
            if printed and not printed.startswith("<Figure"):
                parts.append(f"```text\n{printed}\n```")
    return "\n\n".join(parts)


def drawn(markdown: str, page: str, config, files) -> str:
    """Run the examples of a page, and put their `figure`, or that of their `ax`, in the place of each marker."""
    import matplotlib

    matplotlib.use("Agg")
    scope: dict = {}
    parts, end = [], 0
    for number, marker in enumerate(FIGURE.finditer(markdown), 1):
        before = markdown[end : marker.start()]
        for block in FENCE.finditer(before + "\n"):
            for example in doctest.DocTestParser().get_examples(block.group(1) + "\n"):
                exec(compile(example.source, page, "exec"), scope)
        figure = scope.pop("figure", None) or getattr(scope.pop("ax", None), "figure", None)
        if figure is None:
            raise ValueError(f"{page}: no example before {marker.group(1)!r} has a `figure` or `ax`")
        picture = io.BytesIO()
        figure.savefig(picture, format="png", dpi=110, bbox_inches="tight")
        name = f"figures/{page.removesuffix('.md')}-{number}.png"
        files.append(File.generated(config, name, content=picture.getvalue()))
        caption = " ".join(marker.group(1).split())
        parts += [before, f"![{caption}]({posixpath.relpath(name, posixpath.dirname(page) or '.')})\n\n*{caption}*"]
        end = marker.end()
    return "".join([*parts, markdown[end:]])


def public(module) -> dict:
    """Public names of `gammajax` or `gammajax.io` and what they are, without modules, in their order."""
    items = vars(module).items()
    return {n: thing for n, thing in items if not n.startswith("_") and not isinstance(thing, types.ModuleType)}


def names() -> str:
    """Table of the public names in the order of the flow, with their first sentences."""
    gammajax = importlib.import_module("gammajax")
    rows = ["| name | |", "| --- | --- |"]
    for prefix, module in (("gj", gammajax), ("gj.io", gammajax.io)):
        for name, thing in public(module).items():
            if prefix == "gj.io" and getattr(gammajax, name, None) is thing:
                continue
            first = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
            sentence = re.split(r"(?<=\.)\s", LINKED.sub(r"\1", first))[0].replace("|", "\\|")
            target = f"gammajax.io.{name}" if name in vars(gammajax.io) else f"gammajax.{name}"
            rows.append(f"| [`{prefix}.{name}`][{target}] | {sentence} |")
    return "\n".join(rows)


def commands() -> str:
    """Commands with their arguments and options, from the program itself."""
    import typer.main

    group = typer.main.get_command(importlib.import_module("gammajax.cli.commands").app)
    parts = []
    for name, command in sorted(group.commands.items()):  # pyright: ignore[reportAttributeAccessIssue]
        parts.append(f"## gammajax {name}\n\n{inspect.cleandoc(command.help or '')}")
        if command.params:
            parts[-1] += "\n\n| argument | |\n| --- | --- |"
        for parameter in command.params:
            words = getattr(parameter, "help", None) or ""
            spelled = " ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
            spelled = spelled if parameter.param_type_name == "option" else f"`{parameter.name.upper()}`"
            parts[-1] += f"\n| {spelled} | {words} |"
    return "\n\n".join(parts)
