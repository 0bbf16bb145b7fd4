"""Addresses of nodes, in every form in which people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from typing import Final

from msgspec import Struct

from sollol.core.types import Endpoint
from sollol.errors import ConfigError

OLLAMA_PORT: Final = 11434
_SCHEME_PORTS: Final = {"http": 80, "https": 443}
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_PATH: Final = re.compile(r"(/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*")
_ZONE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FORMS: Final = 'write it as "host", "host:port", "[ipv6]:port" or "http://host:port"'
_KEYS: Final = frozenset({"host", "port", "priority", "name", "url"})


class Address(Struct, frozen=True):
    """One address as it was given, with what was said beside it; None where nothing was said."""

    endpoint: Endpoint
    priority: int | None = None
    name: str = ""


def parse_endpoint(text: str) -> Endpoint:
    """Read "host", "host:port", "[ipv6]:port" or "http(s)://host:port/base".

    Without a port it is 11434, but 80 or 443 when a scheme was given, as Ollama has it. An address to bind to (0.0.0.0,
    [::], an empty host before a port) means this machine. Raises `ConfigError` with the text and what is wrong with it.
    """
    given = text.strip()
    if not given:
        raise ConfigError(f"an empty node address: {_FORMS}")
    scheme, rest = _scheme(given)
    authority, slash, path = rest.partition("/")
    host, port = _split(given, authority)
    number = _port(given, port) if port else _SCHEME_PORTS.get(scheme, OLLAMA_PORT)
    return Endpoint(_this_machine(_host(given, host)), number, scheme == "https", _base(given, slash + path))


def parse_address(value: str | Mapping[str, object] | Endpoint) -> Address:
    """Read a node given as text, as an `Endpoint`, or as a mapping with host (or url), port, priority and name.

    ``port`` may be an int or digits, 1 to 65535; ``priority`` an int from 1 to 10. Raises `ConfigError`.
    """
    if isinstance(value, Endpoint):
        return Address(value)
    if isinstance(value, str):
        return Address(parse_endpoint(value))
    if not isinstance(value, Mapping):
        raise ConfigError(f"a node address has to be text or a mapping, not {type(value).__name__}: {_FORMS}")
    unknown = sorted(str(key) for key in value if key not in _KEYS)
    if unknown:
        raise ConfigError(f"a node has no {unknown[0]!r}: it takes {', '.join(sorted(_KEYS))}")
    return Address(_mapped(value), _priority(value.get("priority")), _text(value, "name"))


def parse_ollama_host(text: str) -> Endpoint | None:
    """Read the value of OLLAMA_HOST as Ollama itself does; None when it is empty.

    Quotes and spaces around it go, an empty host is this machine, and a port that cannot be read is the default one.
    Raises `ConfigError` for port 0 (any free port: nobody can know which) and for a host that is none.
    """
    given = text.strip().strip("\"'").strip()
    if not given:
        return None
    scheme, rest = _scheme(given)
    authority, slash, path = rest.partition("/")
    if not authority:
        authority = "127.0.0.1"
    host, port = _split(given, authority)
    default = _SCHEME_PORTS.get(scheme, OLLAMA_PORT)
    readable = port.isascii() and port.isdigit() and int(port[:9]) <= 65535
    number = _port(given, port) if readable else default
    return Endpoint(_this_machine(_host(given, host)), number, scheme == "https", _base(given, slash + path))


def _scheme(given: str) -> tuple[str, str]:
    scheme, separator, rest = given.partition("://")
    if not separator:
        return "", given
    if scheme.lower() not in _SCHEME_PORTS:
        raise ConfigError(f"{given!r}: a node is reached by http or https, not by {scheme!r}")
    return scheme.lower(), rest


def _split(given: str, authority: str) -> tuple[str, str]:
    """Host (without brackets) and port as written, "" if there is none."""
    if "@" in authority:
        raise ConfigError("a node address takes no user or password before an @; a key goes into the node's api_key")
    if authority.startswith("["):
        host, bracket, rest = authority[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ConfigError(f"{given!r} is no node address: {_FORMS}")
        if not host or ":" not in host:
            raise ConfigError(f"{given!r}: only an IPv6 address stands in brackets")
        return host, rest[1:]
    if authority.count(":") > 1:
        return authority, ""
    host, _, port = authority.partition(":")
    return host, port


def _port(given: str, port: str) -> int:
    number = int(port) if port.isascii() and port.isdigit() and len(port) <= 5 else 0
    if not 1 <= number <= 65535:
        raise ConfigError(f"{given!r}: the port has to be a number from 1 to 65535")
    return number


def _host(given: str, host: str) -> str:
    """The host in its plain form: an IP address shortened, a name in lower case."""
    if ":" in host:
        return _ipv6(given, host)
    name = host.lower().removesuffix(".")
    if not name:
        return ""
    labels = name.split(".")
    if labels[-1].isdigit() or labels[-1].startswith("0x"):
        # Resolvers read "127.1" or "0x7f000001" as addresses; one plain form keeps "the same node" and the limits sound.
        try:
            return str(ip_address(name))
        except ValueError:
            raise ConfigError(f"{given!r}: {host!r} is no IPv4 address") from None
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        hint = " (international names have to be given in their xn-- form)" if not name.isascii() else ""
        raise ConfigError(f"{given!r}: {host!r} is no host name{hint}; {_FORMS}")
    return name


def _ipv6(given: str, host: str) -> str:
    address, mark, zone = host.replace("%25", "%", 1).partition("%")
    if mark and not _ZONE.fullmatch(zone):
        raise ConfigError(f"{given!r}: {zone!r} is no name of an interface")
    try:
        plain = IPv6Address(address)
    except ValueError:
        raise ConfigError(f"{given!r}: {host!r} is no IPv6 address; {_FORMS}") from None
    if plain.ipv4_mapped is not None:
        return str(plain.ipv4_mapped)
    return f"{plain}{mark}{zone}"


def _this_machine(host: str) -> str:
    return {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)


def _base(given: str, path: str) -> str:
    base = path.rstrip("/")
    if not _PATH.fullmatch(base):
        raise ConfigError(f"{given!r}: the path may not have a query, a fragment, spaces or other than plain characters")
    if any(part in {".", ".."} for part in base.split("/")):
        raise ConfigError(f"{given!r}: the path may not have '.' or '..' in it")
    return base


def _mapped(value: Mapping[str, object]) -> Endpoint:
    where = _text(value, "url") or _text(value, "host")
    if not where:
        raise ConfigError('a node needs a "host"')
    endpoint = parse_endpoint(f"[{where}]" if where.count(":") > 1 and where[0] != "[" and "://" not in where else where)
    port = value.get("port")
    if port is None:
        return endpoint
    if isinstance(port, bool) or not isinstance(port, int | str):
        raise ConfigError(f"the port of node {where!r} has to be a number from 1 to 65535, not {port!r}")
    return Endpoint(endpoint.host, _port(where, str(port).strip()), endpoint.tls, endpoint.base)


def _text(value: Mapping[str, object], key: str) -> str:
    text = value.get(key, "")
    if text is None:
        return ""
    if not isinstance(text, str):
        raise ConfigError(f"the {key} of a node has to be text, not {text!r}")
    return text.strip()


def _priority(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10:
        raise ConfigError(f"the priority of a node has to be a whole number from 1 to 10, not {value!r}")
    return value
