"""Built-in configurations, and reading of configuration files."""

import re
from importlib import resources
from pathlib import Path

import yaml
from pydantic import ValidationError

from gammajax.config import MORPHOLOGIES, SPECTRA, Config, unknown


def builtin(name: str) -> str:
    """Text of a built-in configuration: "galactic-centre", "crab" or "template"."""
    return (resources.files("gammajax.configs") / f"{name}.yaml").read_text()


def load(source: str) -> Config:
    """Configuration from the path of a YAML file or the name of a built-in one.

    Raises `FileNotFoundError`, or `ValueError` in one line that says where and what is wrong.
    """
    files = [file.name for file in resources.files("gammajax.configs").iterdir()]
    names = [name.removesuffix(".yaml") for name in files if name.endswith(".yaml")]
    if source in names:
        return parse(builtin(source), source)
    path = Path(source).expanduser()
    if not path.is_file():
        known = unknown("configuration", source, [n for n in names if n != "template"])
        raise FileNotFoundError(f"{source}: no such file" + ("" if path.suffix in (".yaml", ".yml") else f"; {known}"))
    return parse(path.read_text(), str(path))


def parse(text: str, name: str = "configuration") -> Config:
    """Configuration from YAML text; `name` is what errors call it."""
    try:
        values = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{name}: must hold sections such as observations, model and parameters")
    try:
        return Config(**values) if all(isinstance(key, str) for key in values) else Config.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{name}: {_one_line(error)}") from error


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-12 is a number, as it is in every other language."""


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_EXPONENT = re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789"))


def _one_line(error: ValidationError) -> str:
    """The first problem of a configuration: where, what."""
    problem = error.errors(include_url=False)[0]
    tags = {
        *SPECTRA,
        *MORPHOLOGIES,
        "background",
        "source",
        "ctao",
        "gadf",
        "nuts",
        "smc",
        "nested",
        "svi",
        "laplace",
        "int",
        "float",
        "str",
        "bool",
        "constrained-int",
        "list[int]",
    }
    # names that people give come after these keys; other tags are pydantic's own
    places = zip(problem["loc"], ("", *problem["loc"]), strict=False)
    place = ".".join(str(part) for part, before in places if part not in tags or before in ("components", "parameters"))
    context = problem.get("ctx", {})
    if problem["type"] == "union_tag_invalid":
        known = [tag.strip().strip("'") for tag in context["expected_tags"].split(",")]
        message = unknown(context["discriminator"].strip("'"), context["tag"], known)
    elif problem["type"] == "value_error":
        message = str(context["error"])
    else:
        message = problem["msg"][0].lower() + problem["msg"][1:]
        if problem["type"] not in ("missing", "union_tag_not_found"):
            message += f", not {problem['input']!r}"
    return f"{place}: {message}" if place else message
