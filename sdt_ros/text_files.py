"""YAML and JSON from files that nobody vouches for: no tags that run code, no size, depth or aliases without bound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

MOST_BYTES = 1 << 20  # of a file; the largest that anyone writes by hand or by recorder has some ten thousand
MOST_VALUES = 200_000  # with every alias written out: a few lines of aliases can stand for more than memory holds
MOST_DEPTH = 50  # lists in mappings in lists


class TextFileError(ValueError):
    """A text cannot be read; the message says why, without naming the file."""


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """The text of a file.

    Raises:
        TextFileError: it is larger than anything of its kind, or no UTF-8.
        OSError: it cannot be opened.
    """
    with path.open("rb") as stream:
        octets = stream.read(most_bytes + 1)
    if len(octets) > most_bytes:
        raise TextFileError(f"larger than {most_bytes >> 20} MiB: this is another file")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextFileError(f"no UTF-8 text ({error.reason} at byte {error.start})") from None


def parse_yaml(text: str) -> Any:
    """The plain value that a YAML text stands for.

    Raises:
        TextFileError: it is no YAML, has tags (`!!python/...`) or a key twice, or is nested or aliased beyond any use.
    """
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        raise TextFileError(f"no YAML: {_in_one_line(error)}") from None
    except RecursionError:
        raise TextFileError(f"nested deeper than {MOST_DEPTH} levels") from None
    # dates of month 13, numbers of 5000 digits, characters beyond Unicode
    except (ValueError, OverflowError) as error:
        raise error if isinstance(error, TextFileError) else TextFileError(f"no YAML: {_in_one_line(error)}") from None


def read_yaml(path: Path) -> Any:
    """The plain value in a YAML file; see `read_text` and `parse_yaml` for what is raised."""
    return parse_yaml(read_text(path))


def parse_json(text: str) -> Any:
    """The plain value that a JSON text stands for.

    Raises:
        TextFileError: it is no JSON, has a key twice, or is nested beyond any use.
    """
    try:
        return json.loads(text, object_pairs_hook=_without_doubles)
    except TextFileError:
        raise
    except ValueError as error:  # also numbers of more digits than Python converts
        raise TextFileError(f"no JSON: {_in_one_line(error)}") from None
    except RecursionError:
        raise TextFileError("nested too deep") from None


def read_json(path: Path, most_bytes: int = MOST_BYTES) -> Any:
    """The plain value in a JSON file; see `read_text` and `parse_json` for what is raised."""
    return parse_json(read_text(path, most_bytes))


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, which measures what the text stands for before anything is built of it."""

    def fetch_flow_collection_start(self, TokenClass: Any) -> None:  # noqa: N803 - the name is PyYAML's
        # Its scanner looks through all open brackets at each token: a page of them takes minutes.
        if self.flow_level >= MOST_DEPTH:
            raise TextFileError(f"nested deeper than {MOST_DEPTH} levels")
        super().fetch_flow_collection_start(TokenClass)

    def add_indent(self, column: int) -> bool:
        if len(self.indents) >= 2 * MOST_DEPTH:
            raise TextFileError(f"nested deeper than {MOST_DEPTH} levels")
        added: bool = super().add_indent(column)
        return added

    def get_single_node(self) -> yaml.Node | None:
        node: yaml.Node | None = super().get_single_node()
        if node is not None:
            _measure(node, 0, {}, set())
        return node


def _measure(node: yaml.Node, depth: int, known: dict[int, int], above: set[int]) -> int:
    """Number of values below a node; `known` holds those of nodes met before, `above` the nodes that lead here."""
    if depth > MOST_DEPTH:
        raise TextFileError(f"nested deeper than {MOST_DEPTH} levels")
    if id(node) in above:
        raise TextFileError("an alias that leads back to itself")
    if id(node) not in known:
        below: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            below = node.value
        elif isinstance(node, yaml.MappingNode):
            _refuse_doubles(node)
            below = [part for pair in node.value for part in pair]
        above.add(id(node))
        known[id(node)] = 1 + sum(_measure(part, depth + 1, known, above) for part in below)
        above.discard(id(node))
    if known[id(node)] > MOST_VALUES:
        raise TextFileError(f"its aliases stand for more than {MOST_VALUES} values")
    return known[id(node)]


def _refuse_doubles(node: yaml.MappingNode) -> None:
    """YAML forbids a key to be there twice; PyYAML takes the last one."""
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise TextFileError(
                    f"key {key.value!r} is there twice, the second time in line {key.start_mark.line + 1}"
                )
            seen.add((key.tag, key.value))


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise TextFileError(f"key {next(key for key in keys if keys.count(key) > 1)!r} is there twice")
    return values


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) < 300 else text[:300] + " ..."
