"""Checks one value of the configuration against its declared type, and says in plain words what was expected instead."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints

import msgspec
from msgspec import Struct
from msgspec.inspect import (
    BoolType,
    CustomType,
    DictType,
    EnumType,
    FloatType,
    IntType,
    LiteralType,
    NoneType,
    StrType,
    Type,
    UnionType,
    VarTupleType,
    type_info,
)

from sollol.config import NOT_IN_FILES, SECRETS
from sollol.errors import ConfigError

_WORDS: Final = {"yes": True, "on": True, "true": True, "1": True, "no": False, "off": False, "false": False, "0": False}


def field_types(owner: type[Struct]) -> dict[str, Any]:
    """The declared type of each field, ranges included, in order."""
    hints = get_type_hints(owner, include_extras=True)
    return {name: hints[name] for name in owner.__struct_fields__}


def checked(path: str, value: object, declared: Any, source: str, *, lax: bool = False) -> Any:
    """`value` as `declared`. ``lax``: it came as text, so "8000" is a number and "a,b" a list. Raises `ConfigError`."""
    kind = type_info(declared)
    if isinstance(kind, VarTupleType):
        item = get_args(declared)[0]
        entries = _items(path, value, kind, source, lax)
        return tuple(checked(f"{path}[{index}]", entry, item, source, lax=lax) for index, entry in enumerate(entries))
    if isinstance(kind, DictType):
        item = get_args(declared)[1]
        table = _pairs(path, value, kind, source, lax)
        return {key: checked(f'{path}."{key}"', entry, item, source, lax=lax) for key, entry in table.items()}
    if isinstance(kind, CustomType):
        return _folder(path, value, source)
    try:
        return _scalar(value, declared, kind, lax)
    except (msgspec.ValidationError, ValueError):
        raise ConfigError(f"{source}: {path}: expected {expected(kind)}, got {shown(value, path)}") from None


def expected(kind: Type) -> str:
    """The declared type in words: "an integer from 1 to 65535"."""
    text = "another type"
    match kind:
        case BoolType():
            text = "true or false"
        case IntType():
            text = f"an integer{_range(kind)}"
        case FloatType():
            text = f"a number{_range(kind)}"
        case StrType():
            text = "text that is not empty" if kind.min_length else "text"
        case LiteralType():
            text = " or ".join(f'"{value}"' for value in kind.values)
        case EnumType():
            text = " or ".join(f'"{value}"' for value in kind.cls if value not in NOT_IN_FILES)
        case UnionType():
            text = " or ".join(expected(one) for one in kind.types if not isinstance(one, NoneType))
        case VarTupleType():
            text = f"a list, each {expected(kind.item_type)}"
        case DictType():
            text = f"a table, each {expected(kind.value_type)}"
    return text


def shown(value: object, path: str = "") -> str:
    """`value` for people, short, on one line; nothing of a secret."""
    if any(part.partition("[")[0] in SECRETS for part in path.split(".")):
        return "something else (not shown: it is a secret)"
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _items(path: str, value: object, kind: VarTupleType, source: str, lax: bool) -> list[object]:
    if lax and isinstance(value, str):
        return [item.strip() for item in value.split(",") if item.strip()]
    if isinstance(value, list | tuple):
        return list(value)
    raise ConfigError(f"{source}: {path}: expected {expected(kind)}, got {shown(value, path)}")


def _pairs(path: str, value: object, kind: DictType, source: str, lax: bool) -> dict[str, object]:
    """A table; as text "a=b,c=d". Where values are lists, one alone may stand for itself; as text, "|" separates them."""
    lists = isinstance(kind.value_type, VarTupleType)
    if lax and isinstance(value, str):
        pairs = [item.partition("=") for item in value.split(",") if item.strip()]
        if not all(separator for _, separator, _ in pairs):
            raise ConfigError(f'{source}: {path}: expected pairs, "name=name,name=name", got {shown(value, path)}')
        return {key.strip(): entry.strip().replace("|", ",") for key, _, entry in pairs}
    if not isinstance(value, dict):
        raise ConfigError(f"{source}: {path}: expected {expected(kind)}, got {shown(value, path)}")
    return {key: [entry] if lists and isinstance(entry, str) else entry for key, entry in value.items()}


def _folder(path: str, value: object, source: str) -> Path:
    if not isinstance(value, str | Path) or not str(value).strip():
        raise ConfigError(f"{source}: {path}: expected a folder, got {shown(value, path)}")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError:
        raise ConfigError(f"{source}: {path}: {shown(str(value))} names a user who has no home folder here") from None


def _scalar(value: object, declared: Any, kind: Type, lax: bool) -> Any:
    if lax and isinstance(value, str):
        value = _read(value, kind)
    return msgspec.convert(value, declared, strict=not lax)


def _read(text: str, kind: Type) -> object:
    """Text of the environment as a value: words for true and false, any case for names."""
    kinds = kind.types if isinstance(kind, UnionType) else (kind,)
    if any(isinstance(one, BoolType) for one in kinds) and text.lower() in _WORDS:
        return _WORDS[text.lower()]
    return text.lower() if any(isinstance(one, LiteralType | EnumType) for one in kinds) else text


def _range(kind: IntType | FloatType) -> str:
    """Every number among the settings has a range, which no infinity and no NaN is in."""
    if kind.ge is not None:
        return f" from {kind.ge} to {kind.le}"
    return f" over {kind.gt:g} and at most {kind.le:g}"
