"""Fills in the tree of `sollol.config`: defaults < TOML file < `SOLLOL_*` environment < arguments.

Every value is checked by itself before the layers are put together, so that an error names its path and where it came from.
This module is the only reader of the environment.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from sollol.config import NOT_IN_FILES, SECRETS, Config, NodeSettings, default_config_file, default_data_dir
from sollol.config_values import checked, field_types, shown
from sollol.core.topology import parse_networks
from sollol.errors import ConfigError
from sollol.wire.address import parse_endpoint, parse_ollama_host
from sollol.wire.catalogue import Catalogue

DEFAULT: Final = "default"
# Short names of settings that people set often; every setting also has SOLLOL_<SECTION>_<FIELD>.
SHORT_NAMES: Final = {
    "SOLLOL_HOST": "gateway.host",
    "SOLLOL_PORT": "gateway.port",
    "SOLLOL_METRICS_PORT": "gateway.metrics_port",
    "SOLLOL_UVLOOP": "gateway.uvloop",
    "SOLLOL_API_KEYS": "auth.keys",
    "SOLLOL_ADMIN_KEYS": "auth.admin_keys",
    "SOLLOL_NODES": "nodes",
    "SOLLOL_DATA_DIR": "data_dir",
    "DOCKER_HOST": "discovery.docker_host",
}
# Read by the commands, not settings of the gateway.
_NOT_SETTINGS: Final = frozenset({"SOLLOL_CONFIG", "SOLLOL_URL", "SOLLOL_ADMIN_KEY", "SOLLOL_API_KEY"})
_OPTIONS: Final = {
    "gateway.host": "--host",
    "gateway.port": "--port",
    "nodes": "--node",
    "discovery.enabled": "--no-discovery",
    "discovery.demo_if_empty": "--demo-if-empty",
    "log.level": "--log-level",
    "log.requests": "--log-requests",
}
_SECTIONS: Final = field_types(Config)
# Tables whose keys are the user's own: each is one value.
TABLES: Final = frozenset({"aliases", "names", "fallbacks"})
_WHOLE: Final = TABLES | {"nodes", "data_dir"}


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, where each came from (by path, "nodes[0].url"), and variables that look like settings but are none."""

    config: Config
    sources: Mapping[str, str]
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Client:
    """How the commands reach a running gateway: its URL, and the key they send (SOLLOL_ADMIN_KEY, else SOLLOL_API_KEY)."""

    url: str
    key: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Given:
    """One value that somebody gave. ``lax``: it came as text and may be read as a number or a list."""

    path: str
    value: object
    source: str
    lax: bool = False


def load(
    arguments: Mapping[str, object] | None = None,
    *,
    file: str | Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Put the settings together.

    ``arguments`` are values by path ("gateway.port"; None is skipped; "nodes" is a list of addresses). ``file`` is the TOML
    file, else SOLLOL_CONFIG, else ./sollol.toml, else the user's own. Raises `ConfigError`: one line with path and source.
    """
    env = os.environ if environ is None else environ
    layers = [*_from_file(*_find_file(file, env)), *_from_environment(env), *_from_arguments(arguments or {})]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for given in layers:
        _set(given, values, sources)
    values.setdefault("data_dir", default_data_dir(env))
    if "nodes" not in (arguments or {}):
        _add_ollama_host(env, values, sources)
    config = _build(values)
    try:
        catalogue_of(config)
    except ConfigError as error:
        raise ConfigError(f"{sources.get(str(error).partition(': ')[0], DEFAULT)}: {error}") from None
    for path, _ in leaves(config):
        sources.setdefault(path, DEFAULT)
    return Loaded(config, sources, tuple(_ignored(env)))


def client(*, url: str | None = None, file: str | Path | None = None, environ: Mapping[str, str] | None = None) -> Client:
    """Where the commands find the gateway: ``url``, else SOLLOL_URL, else the configured host and port.

    Raises `ConfigError` when the address cannot be read.
    """
    env = os.environ if environ is None else environ
    address = url or env.get("SOLLOL_URL", "").strip()
    if not address:
        gateway = load(file=file, environ=env).config.gateway
        host = f"[{gateway.host}]" if ":" in gateway.host else gateway.host
        address = f"http://{host}:{gateway.port}"
    try:
        found = parse_endpoint(address).url
    except ConfigError as error:
        raise ConfigError(f"{'--url' if url else 'SOLLOL_URL'}: {error}") from None
    return Client(found, env.get("SOLLOL_ADMIN_KEY", "").strip() or env.get("SOLLOL_API_KEY", "").strip() or None)


def catalogue_of(config: Config) -> Catalogue:
    """What names mean. Raises `ConfigError`, which begins with the path of what is wrong."""
    nodes = {f"nodes[{index}].names": node.names for index, node in enumerate(config.nodes) if node.names}
    return Catalogue(config.aliases, {"names": config.names, **nodes}, config.fallbacks)


def leaves(config: Config) -> Iterator[tuple[str, object]]:
    """Every value of the tree with its path, in the tree's order."""
    for name in config.__struct_fields__:
        value = getattr(config, name)
        if name == "nodes":
            for index, node in enumerate(value):
                yield from ((f"nodes[{index}].{key}", getattr(node, key)) for key in node.__struct_fields__)
        elif isinstance(value, Struct):
            yield from ((f"{name}.{key}", getattr(value, key)) for key in value.__struct_fields__)
        else:
            yield name, value


def environment_name(path: str) -> str:
    """The variable that sets `path`: "queue.limit" is SOLLOL_QUEUE_LIMIT."""
    return "SOLLOL_" + path.replace(".", "_").upper()


# --- the layers ---------------------------------------------------------------------------------------------------------


def _find_file(file: str | Path | None, env: Mapping[str, str]) -> tuple[Path | None, str]:
    """The file to read, if there is one, and what errors call it."""
    named = file or env.get("SOLLOL_CONFIG", "").strip()
    if named:
        if not _is_file(Path(named)):
            raise ConfigError(f"{named}: there is no such configuration file ({'--config' if file else 'SOLLOL_CONFIG'})")
        return Path(named), str(named)
    for candidate in (Path("sollol.toml"), default_config_file(env)):
        if _is_file(candidate):
            return candidate, str(candidate)
    return None, ""


def _is_file(path: Path) -> bool:
    """Whether there is such a file for this user: a folder that cannot be entered has none."""
    try:
        return path.is_file()
    except OSError:
        return False


def _from_file(path: Path | None, source: str) -> Iterator[_Given]:
    if path is None:
        return
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: not valid TOML: {error}") from None
    except OSError as error:
        raise ConfigError(f"{source}: cannot be read: {error.strerror}") from None
    sections = _SECTIONS
    for name, value in table.items():
        if name not in sections:
            raise ConfigError(f"{source}: {name}: unknown setting{_did_you_mean(name, sections)}")
        if name in _WHOLE:
            yield _Given(name, value, source)
            continue
        if not isinstance(value, dict):
            raise ConfigError(f"{source}: {name}: expected a table, [{name}], got {shown(value)}")
        yield from (_Given(f"{name}.{key}", entry, source) for key, entry in value.items())


def _from_environment(env: Mapping[str, str]) -> Iterator[_Given]:
    known = {**{environment_name(path): path for path in _paths()}, **SHORT_NAMES}
    for variable, path in known.items():
        text = env.get(variable, "").strip()
        if text:
            yield _Given(path, text, variable, lax=True)
    prefixes = tuple(environment_name(name) + "_" for name in _SECTIONS if name not in _WHOLE)
    for variable in env:
        if variable.startswith(prefixes) and variable not in known and variable not in _NOT_SETTINGS:
            raise ConfigError(f"{variable}: unknown setting{_did_you_mean(variable, known)}")


def _from_arguments(arguments: Mapping[str, object]) -> Iterator[_Given]:
    for path, value in arguments.items():
        if value is not None:
            yield _Given(path, value, _OPTIONS.get(path, "argument"))


def _paths() -> Iterator[str]:
    for section, declared in _SECTIONS.items():
        if isinstance(declared, type) and issubclass(declared, Struct):
            yield from (f"{section}.{name}" for name in declared.__struct_fields__)
        elif section != "nodes":
            yield section


def _ignored(env: Mapping[str, str]) -> Iterator[str]:
    known = {*map(environment_name, _paths()), *SHORT_NAMES, *_NOT_SETTINGS}
    for variable in sorted(env):
        if variable.startswith("SOLLOL_") and variable not in known:
            yield f"{variable} is set, but there is no such setting{_did_you_mean(variable, known)}"


def _add_ollama_host(env: Mapping[str, str], values: dict[str, Any], sources: dict[str, str]) -> None:
    """OLLAMA_HOST names a node, unless it names this gateway: then it is there for clients."""
    try:
        endpoint = parse_ollama_host(env.get("OLLAMA_HOST", ""))
    except ConfigError as error:
        raise ConfigError(f"OLLAMA_HOST: {error}") from None
    if endpoint is None:
        return
    gateway = values.get("gateway", {})
    if endpoint.port == gateway.get("port", 8_000) and endpoint.host in {"127.0.0.1", "::1", "localhost", gateway.get("host")}:
        return
    nodes = values.setdefault("nodes", [])
    if any(parse_endpoint(node.url) == endpoint for node in nodes):
        return
    sources[f"nodes[{len(nodes)}].url"] = "OLLAMA_HOST"
    nodes.append(NodeSettings(url=endpoint.url))


# --- one value ----------------------------------------------------------------------------------------------------------


def _set(given: _Given, values: dict[str, Any], sources: dict[str, str]) -> None:
    """Check one value and put it over what lower layers said."""
    section, _, name = given.path.partition(".")
    if section not in _SECTIONS:
        raise ConfigError(f"{given.source}: {given.path}: unknown setting{_did_you_mean(section, _SECTIONS)}")
    if section == "nodes":
        values["nodes"] = _nodes(given, sources)
        return
    if name:
        values.setdefault(section, {})[name] = _leaf(given, _SECTIONS[section], name)
    else:
        values[section] = checked(given.path, given.value, _SECTIONS[section], given.source, lax=given.lax)
    sources[given.path] = given.source


def _leaf(given: _Given, owner: type[Struct], name: str) -> object:
    kinds = field_types(owner)
    if name not in kinds:
        raise ConfigError(f"{given.source}: {given.path}: unknown setting{_did_you_mean(name, kinds)}")
    value = checked(given.path, given.value, kinds[name], given.source, lax=given.lax)
    if given.path == "discovery.networks":
        _check_networks(value, given)
    if name in SECRETS and value:
        _check_keys(value, given)
    return value


def _nodes(given: _Given, sources: dict[str, str]) -> list[NodeSettings]:
    """Nodes as a list of tables (file), of addresses (arguments) or as a comma list (environment)."""
    entries = given.value.split(",") if isinstance(given.value, str) and given.lax else given.value
    if not isinstance(entries, list | tuple):
        raise ConfigError(f"{given.source}: nodes: expected [[nodes]] tables, got {shown(given.value)}")
    for path in [path for path in sources if path.startswith("nodes[")]:
        del sources[path]
    found = []
    for index, entry in enumerate(entry for entry in entries if not (given.lax and not entry.strip())):
        path = f"nodes[{index}]"
        table = _words(path, entry, given) if isinstance(entry, str) else entry
        found.append(_node(path, table, given, sources))
    return found


def _words(path: str, entry: str, given: _Given) -> dict[str, str]:
    """A node as text: its address, and after it what else there is to say, as in ``gpu1:8000 api_key=secret priority=9``."""
    address, *rest = entry.split() or [""]
    pairs = [word.partition("=") for word in rest]
    if not all(separator for _, separator, _ in pairs):
        # not shown: it may be a key
        raise ConfigError(f"{given.source}: {path}: after an address come settings of the node, each as name=value")
    return {"url": address, **{name: value for name, _, value in pairs}}


def _node(path: str, table: object, given: _Given, sources: dict[str, str]) -> NodeSettings:
    if not isinstance(table, dict):
        raise ConfigError(f"{given.source}: {path}: expected a table or an address, got {shown(table)}")
    values: dict[str, Any] = {}
    for name, value in table.items():
        one = _Given(f"{path}.{name}", value, given.source, lax=given.lax)
        values[name] = _leaf(one, NodeSettings, name)
        sources[one.path] = given.source
    if "url" not in values:
        raise ConfigError(
            f'{given.source}: {path}: url is missing; every node needs one, as in url = "http://192.168.1.20:11434"'
        )
    try:
        parse_endpoint(values["url"])
    except ConfigError as error:
        raise ConfigError(f"{given.source}: {path}.url: {error}") from None
    if values.get("kind") in NOT_IN_FILES:
        raise ConfigError(f"{given.source}: {path}.kind: another SOLLOL is not taken for a node")
    return NodeSettings(**values)


def _check_networks(networks: Any, given: _Given) -> None:
    try:
        parse_networks(networks)
    except ConfigError as error:
        raise ConfigError(f"{given.source}: {given.path}: {error}") from None


def _check_keys(keys: Any, given: _Given) -> None:
    several = {given.path: keys} if isinstance(keys, str) else {f"{given.path}[{index}]": key for index, key in enumerate(keys)}
    for path, key in several.items():
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ConfigError(f"{given.source}: {path}: a key is one or more printable ASCII characters without spaces")


def _build(values: Mapping[str, Any]) -> Config:
    made: dict[str, Any] = {}
    for name, value in values.items():
        if name in _WHOLE:
            made[name] = tuple(value) if name == "nodes" else value
        else:
            made[name] = _SECTIONS[name](**value)
    return Config(**made)


def _did_you_mean(name: str, known: Any) -> str:
    close = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""
