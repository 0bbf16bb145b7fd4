"""`sollol config show`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import click

from sollol.cli.options import json_option, print_json
from sollol.config import SECRETS
from sollol.config_sources import DEFAULT, Loaded, leaves, load

HIDDEN = "(hidden)"


@click.group()
def config() -> None:
    """Settings: defaults, then sollol.toml, then SOLLOL_* variables, then options, each over the one before."""


@config.command()
@click.option("--config", "file", type=click.Path(path_type=Path), metavar="FILE", help="The file to read, as for `sollol up`.")
@json_option
def show(file: Path | None, as_json: bool) -> None:
    """Print every setting and where its value came from. Keys are not shown.

    What is printed is a valid sollol.toml.
    """
    loaded = load(file=file)
    values = {path: _visible(path, value) for path, value in leaves(loaded.config)}
    if as_json:
        print_json({path: {"value": value, "source": loaded.sources[path]} for path, value in values.items()})
    else:
        click.echo("\n".join(_lines(values, loaded)))
    for words in loaded.ignored:
        click.echo(f"note: {words}", err=True)


def _lines(values: Mapping[str, object], loaded: Loaded) -> list[str]:
    top = [_line(path, value, loaded.sources[path]) for path, value in values.items() if "." not in path]
    lines, section = top, ""
    for path, value in values.items():
        if "." not in path:
            continue
        owner, _, name = path.rpartition(".")
        if owner != section:
            section = owner
            lines += ["", "[[nodes]]" if owner.startswith("nodes[") else f"[{owner}]"]
        lines.append(_line(name, value, loaded.sources[path]))
    return lines


def _line(name: str, value: object, source: str) -> str:
    if value is None:
        return f"# {name} is not set"
    if name in SECRETS and value:
        return f"# {name} is set and not shown  # {source}"
    comment = "" if source == DEFAULT else f"  # {source}"
    return f"{name} = {_toml(value)}{comment}"


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(entry)}" for key, entry in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def _visible(path: str, value: object) -> object:
    """`value` in plain types, with secrets replaced."""
    if path.rpartition(".")[2] in SECRETS:
        return [HIDDEN for _ in value] if isinstance(value, tuple) else value and HIDDEN
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value
