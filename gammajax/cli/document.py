"""YAML documents: bytes to text, and text to plain values, in YAML 1.2 with nothing left to guess.

YAML 1.1 reads 03600 as octal, 05:34:31.94 in base 60 and `on` as true; YAML 1.2 does not.
"""

import codecs
import re
import warnings
from io import StringIO
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import ReusedAnchorWarning, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

TAG = "tag:yaml.org,2002:"
PLAIN = frozenset(TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))
MOST = 100_000  # values of a document with its anchors, far above any that is meant
# the longer first: that of UTF-16 begins that of UTF-32
MARKS = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32", codecs.BOM_UTF16_LE: "utf-16"}
MARKS |= {codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig"}


def decode(data: bytes) -> str:
    """Text of a file in UTF-8, or with the byte order mark of another Unicode; lines end in a newline alone.

    Raises `ValueError` that says in which line it is neither.
    """
    encoding = next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\r|\n", data[: error.start])) + 1
        kind = encoding.removesuffix("-sig").upper()
        raise ValueError(
            f"line {line} is not {kind} (byte 0x{data[error.start]:02x}); save the file as UTF-8"
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def values(text: str) -> Any:
    """Values of the one document in `text`.

    Raises `ValueError` in one line, with the number of the line, for invalid YAML, repeated keys, tags and
    other versions of YAML.
    """
    version = re.search(r"^%YAML\s+(\S+)", text, re.MULTILINE)
    if version and version[1] != "1.2":
        raise ValueError(f"%YAML {version[1]} asks for another YAML; leave the line out: files are read as YAML 1.2")
    yaml = YAML(typ="safe", pure=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", ReusedAnchorWarning)
            root = yaml.compose(text.lstrip("\ufeff"))
        if root is None:
            return None
        _check(root, (), {})
        return yaml.constructor.construct_document(root)
    except ReusedAnchorWarning as error:
        lines = " and ".join(re.findall(r"line (\d+)", str(error))[:2])
        raise ValueError(f"an anchor is there twice, in lines {lines}; give each its own name") from error
    except ReaderError as error:
        line = text[: error.position].count("\n") + 1
        raise ValueError(f"line {line} holds the character {chr(error.character)!r}; is this a text file?") from error
    except (YAMLError, RecursionError) as error:
        raise ValueError(_problem(error, text)) from error


def dump(values: Any) -> str:
    """YAML of plain values, in their order."""
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style, yaml.allow_unicode, yaml.width = False, True, 4096
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    stream = StringIO()
    yaml.dump(values, stream)
    return stream.getvalue()


def _check(node, above: tuple, sizes: dict) -> int:
    """Refuse nodes without a plain meaning, and keep dates as text; returns the number of values of a node."""
    line = node.start_mark.line + 1
    if node in above:
        raise ValueError(f"line {line}: the anchor &{node.anchor} holds itself")
    if node in sizes:  # an alias
        return sizes[node]
    size = 1
    if node.tag == TAG + "timestamp":
        node.tag = TAG + "str"  # YAML 1.2 has no dates: it is the name of a folder, say
    if node.tag not in PLAIN:
        raise ValueError(f"line {line}: the tag {node.tag.replace(TAG, '!!')} is not known; write plain values")
    if isinstance(node, SequenceNode):
        for item in node.value:
            size += _check(item, (*above, node), sizes)
    if isinstance(node, MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            _check(key, (*above, node), sizes)
            name = key.value if isinstance(key, ScalarNode) else "of several values"
            if key.tag not in (TAG + "str", TAG + "merge"):
                raise ValueError(f"line {line}: the key {name} is not text; write a name, or put it in quotes")
            if name in lines:
                raise ValueError(f"the key {name!r} is there twice, in lines {lines[name]} and {line}; keep one")
            lines[name] = line
            size += _check(value, (*above, node), sizes)
    if size > MOST:
        raise ValueError(f"line {line}: anchors make more than {MOST} values of this; write the values out")
    sizes[node] = size
    return size


def _problem(error, text: str) -> str:
    """The first problem of a document, with its line."""
    problem, context = getattr(error, "problem", None), getattr(error, "context", None) or ""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is None or problem is None:
        return f"not valid YAML: {' '.join(str(error).split()) or type(error).__name__}"
    if "another document" in problem:
        return f"line {mark.line + 1} begins another document; a file holds one run, without --- or ... in the middle"
    if "'\\t'" in problem:
        return f"line {mark.line + 1}: a tab stands where YAML wants spaces"
    lines = text.splitlines()
    at = f" at {lines[mark.line].strip()!r}" if mark.line < len(lines) and lines[mark.line].strip() else ""
    return f"not valid YAML in line {mark.line + 1}{at}: {' '.join(f'{context} {problem}'.split())}"
