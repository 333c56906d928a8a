"""Files of modules: arrays in an npz archive, and the structure around them in JSON.

The file holds no code. It names classes and functions of this package and distributions of numpyro, and reading takes
nothing else, so a file of a stranger cannot run anything. Arrays that several modules share are written once.
"""

import dataclasses
import importlib
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from gammajax.common.writing import read_archive, write_archive

HOMES = ("gammajax.", "numpyro.distributions.")  # of the classes and functions in files
NUMPY = ("float32", "float64", "float16", "bfloat16", "int32", "int64", "bool")  # types of numbers given as fields
PLAIN = (bool, int, float, str, type(None))

# arrays of a file as they were; a weak one takes the precision of others
MAKE = {"numpy": lambda a: a, "scalar": lambda a: a[()], "weak": lambda a: jnp.asarray(a.item()), "jax": jnp.asarray}


def write_tree(path, tree: Any, header: dict[str, Any]) -> None:
    """Write a module, or a dict, list or tuple of modules, with a `header` of plain values.

    Raises `ValueError` for an object that a file cannot hold, by its place in the tree, and writes nothing then.
    """
    arrays: dict[str, np.ndarray] = {}
    structure = _encoded(tree, "", arrays, {})
    write_archive(path, {**header, "structure": structure}, arrays)


def read_tree(path, kind: str) -> tuple[Any, dict[str, Any]]:
    """The tree and the header of a file; `kind` says in messages what it should be.

    Raises `ValueError` for another file, a damaged one, and for one with classes or fields that this version of the
    package does not know; `FileNotFoundError` if there is none.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with open(path, "rb") as file:
            header, arrays = read_archive(file)
        structure = header.pop("structure")
    except (ValueError, KeyError, OSError) as error:
        raise ValueError(f"{path}: not a {kind} that gammajax wrote, or a damaged one") from error
    try:
        return _decoded(structure, arrays, {}), header
    except Exception as error:  # of fields that the file lacks, or of arrays of another kind
        from gammajax import __version__

        raise ValueError(
            f"{path}: gammajax {header.get('gammajax', '?')} wrote this {kind}, and {__version__} cannot read it "
            f"({' '.join(f'{error}'.split()) or type(error).__name__}); write it again with this version"
        ) from error


def _encoded(value, place: str, arrays: dict, seen: dict) -> Any:
    """Structure of a value: plain ones are themselves, all others are a dict with one key, their kind."""
    if type(value) in PLAIN:
        return value
    if isinstance(value, jax.Array | np.ndarray | np.generic):
        return _array(value, place, arrays, seen)
    if isinstance(value, list | tuple | dict) and type(value) in (list, tuple, dict):
        if isinstance(value, dict):
            inner = [
                [_encoded(key, place, arrays, seen), _encoded(one, f"{place}.{key}", arrays, seen)]
                for key, one in value.items()
            ]
        else:
            inner = [_encoded(one, f"{place}[{i}]", arrays, seen) for i, one in enumerate(value)]
        return {type(value).__name__: inner}
    if isinstance(value, np.dtype | type) and getattr(np.dtype(value), "name", "") in NUMPY:
        return {"dtype": np.dtype(value).name}
    single = _global(value)
    if single:  # numpyro compares some constraints by identity
        return {"name": single}
    if isinstance(value, types.FunctionType | type):
        if not f"{value.__module__}.".startswith(HOMES) or "<" in value.__qualname__:
            raise ValueError(f"{place[1:]} is {value.__qualname__!r} of {value.__module__}, which no file can hold")
        return {"name": f"{value.__module__}:{value.__qualname__}"}
    if not f"{type(value).__module__}.".startswith(HOMES):
        raise ValueError(f"{place[1:]} is a {type(value).__name__} of {type(value).__module__}, which no file can hold")
    return {"object": [_encoded(type(value), place, arrays, seen), _fields(value, place, arrays, seen)]}


def _global(value) -> str:
    """Name of the object that a module of numpyro holds for all, or nothing."""
    module = sys.modules[type(value).__module__]
    if not module.__name__.startswith(HOMES):
        return ""
    return next((f"{module.__name__}:{name}" for name, one in vars(module).items() if one is value), "")


def _fields(value, place, arrays, seen) -> dict[str, Any]:
    names = getattr(value, "_fields", None)  # of a named tuple
    if names is not None:
        fields = dict(zip(names, value, strict=True))
    elif dataclasses.is_dataclass(value):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if hasattr(value, f.name)}
    else:
        fields = vars(value)
    return {name: _encoded(one, f"{place}.{name}", arrays, seen) for name, one in fields.items()}


def _array(value, place, arrays, seen) -> dict[str, Any]:
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        raise ValueError(f"{place[1:]} is spread over several processes; write it from one")
    if id(value) not in seen:
        number, plain = str(len(arrays)), np.asarray(value)
        if plain.dtype == object:
            raise ValueError(f"{place[1:]} is an array of objects, which no file can hold")
        if isinstance(value, jax.Array):
            kind = "weak" if value.weak_type and value.ndim == 0 else "jax"
        else:
            kind = "scalar" if isinstance(value, np.generic) else "numpy"
        brief = plain.dtype == ml_dtypes.bfloat16
        arrays[number] = plain.view(np.uint16) if brief else plain
        # the value is kept: another object must not get its number
        seen[id(value)] = {"array": [number, kind, "bfloat16" if brief else ""]}, value
    return seen[id(value)][0]


def _decoded(structure, arrays, made) -> Any:
    if isinstance(structure, PLAIN):
        return structure
    (kind, inner), *_ = structure.items()
    if kind == "array":
        number, where, dtype = inner
        if number not in made:
            array = arrays.pop(number)
            array = array.view(ml_dtypes.bfloat16) if dtype else array
            made[number] = MAKE[where](array)
        return made[number]
    if kind == "dict":
        return {_decoded(key, arrays, made): _decoded(value, arrays, made) for key, value in inner}
    if kind in ("list", "tuple"):
        return {"list": list, "tuple": tuple}[kind](_decoded(one, arrays, made) for one in inner)
    if kind == "dtype":
        return {name: jnp.dtype(name) for name in NUMPY}[inner]
    if kind == "name":
        module, name = inner.split(":")
        if not module.startswith(HOMES):
            raise KeyError(f"{module} is no module of gammajax")
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        # a module also holds what it imports
        home = getattr(found if isinstance(found, types.FunctionType | type) else type(found), "__module__", "")
        if not f"{home}.".startswith(HOMES):
            raise KeyError(f"{name} is none of gammajax")
        return found
    cls, fields = _decoded(inner[0], arrays, made), {n: _decoded(f, arrays, made) for n, f in inner[1].items()}
    if not isinstance(cls, type):
        raise TypeError(f"{cls} is no class")
    if issubclass(cls, tuple):
        return cls(**fields)
    if dataclasses.is_dataclass(cls):
        unknown = fields.keys() ^ {f.name for f in dataclasses.fields(cls)}
        if unknown:
            raise TypeError(f"{cls.__name__} has other fields: {', '.join(sorted(unknown))}")
    value = object.__new__(cls)
    for name, field in fields.items():
        object.__setattr__(value, name, field)
    return value
