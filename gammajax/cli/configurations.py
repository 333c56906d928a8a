"""Built-in configurations, reading of configuration files, and their checks against responses."""

import re
from importlib import resources

from pydantic import ValidationError

from gammajax.cli import document
from gammajax.cli.checks import check as check
from gammajax.cli.config import Config
from gammajax.cli.model_section import MORPHOLOGIES, SPECTRA
from gammajax.cli.settings import unknown
from gammajax.io.files import expand


def builtin(name: str) -> str:
    """Text of a built-in configuration: "galactic-centre", "crab" or "template"."""
    return (resources.files("gammajax.cli") / "builtin" / f"{name}.yaml").read_text(encoding="utf-8")


def load(source: str) -> Config:
    """Configuration from the path of a YAML file or the name of a built-in one.

    Raises `FileNotFoundError`, or `ValueError` in one line with the place and the mistake.
    """
    files = [file.name for file in (resources.files("gammajax.cli") / "builtin").iterdir()]
    names = [name.removesuffix(".yaml") for name in files if name.endswith(".yaml")]
    if source in names:
        return parse(builtin(source), source)
    path = expand(source)
    try:
        text = document.decode(path.read_bytes())
    except IsADirectoryError as error:
        raise ValueError(f"{source or '.'} is a folder; give the YAML file in it") from error
    except FileNotFoundError as error:
        known = unknown("configuration", source, [n for n in names if n != "template"])
        end = "" if path.suffix in (".yaml", ".yml") else f"; {known}"
        raise FileNotFoundError(f"{source}: no such file{end}") from error
    except OSError as error:
        raise ValueError(f"{source}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    return parse(text, str(path))


def parse(text: str, name: str = "configuration") -> Config:
    """Configuration from YAML text; `name` is its name in errors. Raises `ValueError` as [`load`][] does."""
    try:
        values = document.values(text)
        if not isinstance(values, dict):
            has = "is empty" if values is None else f"holds {values!r:.40}"
            raise ValueError(f"{has}; it must hold sections such as observations, model and parameters")
        return Config.model_validate(values)
    except ValidationError as error:
        raise ValueError(_shortened(f"{name}: {_one_line(error)}")) from error
    except ValueError as error:
        raise ValueError(_shortened(f"{name}: {error}")) from error


def dump(config: Config) -> str:
    """YAML text of a configuration with all defaults filled in, from which [`parse`][] makes the same."""
    return document.dump(config.model_dump(mode="json", exclude_none=True))


def changes(there: Config, here: Config) -> list[str]:
    """Keys of which two configurations differ, with both values, as `sampler.draws is 100 there and 200 here`."""

    def below(a, b, place: str) -> list[str]:
        if isinstance(a, dict) and isinstance(b, dict):
            names = [*b, *(name for name in a if name not in b)]
            return [line for name in names for line in below(a.get(name), b.get(name), f"{place}.{name}".lstrip("."))]
        shown = ["not given" if value is None else f"{value!r:.60}" for value in (a, b)]
        return [] if a == b else [f"{place} is {shown[0]} there and {shown[1]} here"]

    first, second = (config.model_dump(mode="json", exclude_none=True) for config in (there, here))
    return below(first, second, "")


# messages of pydantic in the terms of a file
MESSAGES = {
    "string_type": "must be text, not {input!r:.60}; put it in quotes",
    "list_type": "must be a list in brackets, not {input!r:.60}",
    "dict_type": "must be a section of keys and values, not {input!r:.60}",
    "model_type": "must be a section of keys and values, not {input!r:.60}",
    "model_attributes_type": "must be a section of keys and values, not {input!r:.60}",
    "too_short": "must not be empty, or have fewer than {min_length} entries",
}


NAMED = ("components", "parameters", "products", "several")  # keys of what people name


def _shortened(line: str) -> str:
    """The line without the middle of numbers that nobody reads to the end."""
    return re.sub(r"(\d{20})\d+", r"\1...", line)


def _one_line(error: ValidationError) -> str:
    """The first problem of a configuration, with its place."""
    problem = error.errors(include_url=False)[0]
    tags = {*SPECTRA, *MORPHOLOGIES, "background", "off-background", "source", "mixture"}
    tags |= {"one", "several", "ctao", "response", "gadf", "on-off", "gammapy", "regions"}
    tags |= {"nuts", "smc", "nested", "svi", "laplace", "flux-points", "light-curve", "limits", "check", "ts-map"}
    # names that people give come after these keys; other tags are pydantic's own
    places = zip(problem["loc"], ("", *problem["loc"]), strict=False)
    place = ".".join(str(part) for part, before in places if part not in tags or before in NAMED)
    context = problem.get("ctx", {})
    if problem["type"] == "union_tag_invalid":
        known = [tag.strip().strip("'") for tag in context["expected_tags"].split(",")]
        message = unknown(context["discriminator"].strip("'"), context["tag"], known)
    elif problem["type"] == "value_error":
        message = str(context["error"])
    elif problem["type"] == "union_tag_not_found":
        key = context["discriminator"].strip("'")
        message = f"needs a key {key!r}"
    elif problem["type"] in MESSAGES:
        message = MESSAGES[problem["type"]].format(**{**context, "input": problem["input"]})
    else:
        message = problem["msg"][0].lower() + problem["msg"][1:]
        if problem["type"] != "missing":
            message += f", not {problem['input']!r:.60}"
    return f"{place}: {message}" if place else message
