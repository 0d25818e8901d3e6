"""Typed configs from plain values: nested frozen dataclasses that refuse what they do not know."""

from __future__ import annotations

import copy
import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sdt_ros.text_files import TextFileError, parse_yaml

T = TypeVar("T")


class ConfigError(ValueError):
    """A key or value of a config is wrong; the message names the key, and what is known or expected."""


class RefusedValueError(ConfigError):
    """A value that its dataclass refuses, which knows its own key but not where it stands."""

    def __init__(self, key: str, value: object, expected: str) -> None:
        super().__init__(f"config key {key!r} is {value!r}, expected {expected}")
        self.key, self.value, self.expected = key, value, expected

    def below(self, where: str) -> RefusedValueError:
        """The same with the key as it is below a dotted key."""
        return RefusedValueError(_join(where, self.key), self.value, self.expected)


def from_plain(kind: type[T], values: Any, where: str = "") -> T:
    """Build a dataclass from the plain values that YAML gives.

    Args:
        kind: a dataclass; fields may be int, float, str, bool, Path, dicts, other dataclasses, tuples and unions of
            these with None.
        values: a mapping; what it lacks keeps its default.
        where: dotted key of `values`, for messages.

    Raises:
        ConfigError: a key is unknown, or a value is of the wrong type or refused by the dataclass.
    """
    if values is None:
        values = {}
    if not isinstance(values, Mapping):
        raise ConfigError(f"config key {where!r} is {values!r}, expected keys below it: {', '.join(known_keys(kind))}")
    known = known_keys(kind)
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown config key {_join(where, str(key))!r}; known here are {', '.join(known)}")
    hints = typing.get_type_hints(kind)
    built = {key: _convert(hints[key], value, _join(where, key)) for key, value in values.items()}
    try:
        return kind(**built)
    except RefusedValueError as error:
        raise error.below(where) from None
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(f"config{f' at {where!r}' if where else ''}: {error}") from error


def from_file(kind: type[T], values: dict[str, Any], settings: Sequence[str], path: Path) -> T:
    """Build a dataclass from what a file holds and from `key=value` settings, which come before it.

    Raises:
        ConfigError: as `from_plain` and `override`; the message says whether the file or the command line is wrong.
    """
    whole = copy.deepcopy(values)
    for setting in settings:
        override(whole, setting)
    try:
        return from_plain(kind, whole)
    except ConfigError as error:
        blamed = path if _fault(kind, values) == str(error) else "command line"
        raise ConfigError(f"{blamed}: {error}") from error


def _fault(kind: type[T], values: Mapping[str, Any]) -> str | None:
    """What is wrong with values; None where nothing is."""
    try:
        from_plain(kind, values)
    except ConfigError as error:
        return str(error)
    return None


def known_keys(kind: type) -> list[str]:
    """The keys that a dataclass takes."""
    return [field.name for field in dataclasses.fields(kind) if field.init]


def to_plain(value: Any) -> Any:
    """What YAML and JSON can hold of a config; `from_plain` reads it back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key: to_plain(getattr(value, key)) for key in known_keys(type(value))}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(each) for key, each in value.items()}
    if isinstance(value, tuple | list):
        return [to_plain(each) for each in value]
    return value


def without_defaults(value: Any) -> Any:
    """`to_plain`, without the keys that have their default."""
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        if isinstance(value, tuple | list):
            return [without_defaults(each) for each in value]
        return to_plain(value)
    changed = {}
    for field in dataclasses.fields(value):
        own = getattr(value, field.name)
        default = field.default_factory() if callable(field.default_factory) else field.default
        if dataclasses.is_dataclass(own) and dataclasses.is_dataclass(default):
            if inner := without_defaults(own):
                changed[field.name] = inner
        elif field.init and to_plain(own) != to_plain(default):
            changed[field.name] = without_defaults(own)
    return changed


def same(stored: Any, config: Any) -> bool:
    """Whether plain values, written perhaps by an earlier version, are those of a config: missing keys are defaults."""
    try:
        return bool(to_plain(from_plain(type(config), stored)) == to_plain(config))
    except ConfigError:
        return False


def override(values: dict[str, Any], setting: str) -> None:
    """Apply one `key=value` with a dotted key to plain values, in place; list entries are named by their number.

    Raises:
        ConfigError: it has no `=`, the value is no YAML, or the key leads through something that has no keys.
    """
    key, equals, text = setting.partition("=")
    if not equals or not key:
        raise ConfigError(f"{setting!r} is no setting; write key=value, as in optimiser.lr=1e-3")
    try:
        value = parse_yaml(text)
    except TextFileError as error:
        raise ConfigError(f"the value of {setting!r}: {error}") from error
    place: Any = values
    *way, last = key.split(".")
    for part in way:
        inner = _entry(place, part, key)
        if inner is None:
            inner = {}
            _store(place, part, inner, key)
        place = inner
    _store(place, last, value, key)


def _entry(place: Any, part: str, key: str) -> Any:
    if isinstance(place, dict):
        return place.get(part)
    if isinstance(place, list) and part.isdecimal() and int(part) < len(place):
        return place[int(part)]
    raise ConfigError(f"config key {key!r}: there is no {part!r} in {place!r}")


def _store(place: Any, part: str, value: Any, key: str) -> None:
    if isinstance(place, dict):
        place[part] = value
    elif isinstance(place, list) and part.isdecimal() and int(part) <= len(place):
        place[int(part) :] = [value, *place[int(part) + 1 :]]
    else:
        raise ConfigError(f"config key {key!r}: there is no {part!r} in {place!r}")


def _join(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in arguments:
            return None
        (inner,) = [each for each in arguments if each is not type(None)]
        return _convert(inner, value, where)
    if dataclasses.is_dataclass(hint):
        return from_plain(typing.cast(type, hint), value, where)
    if origin in (tuple, Sequence, list) and isinstance(value, list | tuple):
        if origin is tuple and arguments[-1] is not Ellipsis:
            if len(value) != len(arguments):
                raise ConfigError(f"config key {where!r} is {value!r}, expected {len(arguments)} values")
            return tuple(
                _convert(h, v, _join(where, str(k))) for k, (h, v) in enumerate(zip(arguments, value, strict=True))
            )
        return tuple(_convert(arguments[0], v, _join(where, str(k))) for k, v in enumerate(value))
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if isinstance(value, Mapping):
            return {str(key): _convert(arguments[1], each, _join(where, str(key))) for key, each in value.items()}
    elif hint is Any:
        return value
    elif hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 takes 1e-3 for text
        except ValueError:
            pass
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif hint in (int, bool, str) and type(value) is hint:
        return value
    name = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    quote = "; YAML reads on, off, yes and no so: put the word in quotes" if hint is str and type(value) is bool else ""
    raise ConfigError(f"config key {where!r} is {value!r}, expected {name}{quote}")
