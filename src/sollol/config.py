"""Every setting, as one frozen tree with its defaults and ranges. `sollol.config_sources.load` fills it in.

Times are seconds, sizes bytes. Keys are secrets: they show in no repr, no error and no listing.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from sollol.core.digests import Digests
from sollol.core.types import Mode, NodeKind

Port = Annotated[int, Meta(ge=1, le=65_535)]
PortOrNone = Annotated[int, Meta(ge=0, le=65_535)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
SecondsOrNone = Annotated[float, Meta(ge=0, le=86_400)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Slots = Annotated[int, Meta(ge=1, le=4_096)]
Bytes = Annotated[int, Meta(ge=1_024, le=1 << 50)]
NodePriority = Annotated[int, Meta(ge=1, le=10)]
Gigabytes = Annotated[float, Meta(gt=0, le=1_000_000)]
Text = Annotated[str, Meta(min_length=1)]
ModelNames = dict[str, Text]

SECRETS = frozenset({"keys", "admin_keys", "api_key"})
# Only a program may say so, which knows what it does: loops through gateways are easily made.
NOT_IN_FILES = frozenset({NodeKind.SOLLOL})


class Gateway(Struct, frozen=True, forbid_unknown_fields=True):
    """Where clients connect. ``metrics_port`` 0: /metrics only on the gateway's own port.

    ``allowed_origins`` are origins ("https://host") that browsers may call from; "*" allows all. ``port`` 0: any free one.
    """

    host: Text = "127.0.0.1"
    port: PortOrNone = 8_000
    metrics_port: PortOrNone = 0
    allowed_origins: tuple[str, ...] = ()
    uvloop: bool | Literal["auto"] = "auto"
    shutdown_seconds: SecondsOrNone = 10.0


class NodeSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """One node that is known beforehand. ``priority`` 1 is the last resort; ``slots`` and ``memory_gb`` None: learned.

    ``names``: what this node calls a model -> what it is called here.
    """

    url: Text
    name: str = ""
    priority: NodePriority = 5
    slots: Slots | None = None
    memory_gb: Gigabytes | None = None
    api_key: str | None = None
    kind: NodeKind | None = None
    draining: bool = False
    names: ModelNames = {}

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name in self.__struct_fields__ if name not in SECRETS)
        return f"NodeSettings({', '.join(shown)})"


class Discovery(Struct, frozen=True, forbid_unknown_fields=True):
    """How nodes are looked for. ``networks`` empty: the subnets of this machine's interfaces; else only these (private) ones.

    ``docker_host`` is Docker's own DOCKER_HOST; empty: the usual sockets. ``demo_if_empty`` starts emulated nodes when nothing
    is found.
    """

    enabled: bool = True
    networks: tuple[str, ...] = ()
    ports: tuple[Port, ...] = (11_434, 8_080, 8_000, 1_234)
    interval_seconds: Seconds = 60.0
    this_machine: bool = True
    docker: bool = True
    docker_host: str = ""
    mdns: bool = True
    demo_if_empty: bool = False


class Queue(Struct, frozen=True, forbid_unknown_fields=True):
    """The one line of waiting requests. ``limit`` requests and ``body_bytes`` in all; a level of priority is worth
    ``priority_step_seconds`` of waiting; with no usable node a request waits at most ``no_node_seconds``."""

    limit: Count = 1_000
    body_bytes: Bytes = 1 << 30
    priority_step_seconds: SecondsOrNone = 30.0
    no_node_seconds: SecondsOrNone = 10.0


class Health(Struct, frozen=True, forbid_unknown_fields=True):
    """How long a connection to a node, and a whole probe of it, may take."""

    connect_seconds: Seconds = 2.0
    probe_seconds: Seconds = 3.0


class Routing(Struct, frozen=True, forbid_unknown_fields=True):
    """``mode`` of requests that name none. ``hedging``: small ones may run on a second, idle node; the first answer wins."""

    mode: Mode = Mode.BALANCED
    hedging: bool = False


class Models(Struct, frozen=True, forbid_unknown_fields=True):
    """What one name means that stands for different models (digests) on several nodes.

    "one": they are taken for the same; "newest": only nodes with the newest are used; "refuse": none is.
    """

    digests: Digests = Digests.ONE


class Cache(Struct, frozen=True, forbid_unknown_fields=True):
    """Answers that are given again to identical requests: embeddings, and text at temperature 0 or with a seed.

    ``entries`` and ``size_bytes`` bound what is kept, ``ttl_seconds`` for how long. ``coalesce``: identical requests that are
    under way at the same time share one answer.
    """

    enabled: bool = True
    coalesce: bool = True
    ttl_seconds: Annotated[float, Meta(gt=0, le=31_536_000)] = 3_600.0
    entries: Count = 1_000
    size_bytes: Bytes = 64 << 20


class Auth(Struct, frozen=True, forbid_unknown_fields=True):
    """With ``keys`` every request needs one of them; with ``admin_keys`` what changes the cluster needs one of those."""

    keys: tuple[str, ...] = ()
    admin_keys: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Auth({len(self.keys)} keys, {len(self.admin_keys)} admin keys)"


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What one client may do. ``header_seconds`` and ``body_seconds`` bound how slowly a request may come in."""

    json_body_bytes: Bytes = 64 << 20
    header_bytes: Annotated[int, Meta(ge=1_024, le=16 << 20)] = 64 << 10
    connections: Count = 10_000
    header_seconds: Seconds = 30.0
    body_seconds: Seconds = 60.0
    idle_seconds: Seconds = 75.0


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """What the gateway writes to standard error. ``requests``: a line for each; "auto" is yes, but not on a terminal."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"
    requests: bool | Literal["auto"] = "auto"


def _data_dir() -> Path:
    return default_data_dir(os.environ)


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings. ``data_dir`` is the only folder that SOLLOL writes to.

    ``aliases``: a name of our own -> a model; ``names``: what nodes call a model -> what it is called here; ``fallbacks``: a
    model -> those that may answer in its place. `sollol.wire.catalogue` says what they may not be.
    """

    gateway: Gateway = Gateway()
    nodes: tuple[NodeSettings, ...] = ()
    discovery: Discovery = Discovery()
    queue: Queue = Queue()
    health: Health = Health()
    routing: Routing = Routing()
    models: Models = Models()
    aliases: ModelNames = {}
    names: ModelNames = {}
    fallbacks: dict[str, tuple[Text, ...]] = {}
    cache: Cache = Cache()
    auth: Auth = Auth()
    limits: Limits = Limits()
    log: Log = Log()
    data_dir: Path = field(default_factory=_data_dir)


def default_data_dir(environ: Mapping[str, str]) -> Path:
    """The user's data folder by the platform's convention."""
    return _user_folder(environ, windows="LOCALAPPDATA", xdg="XDG_DATA_HOME", home=(".local", "share"))


def default_config_file(environ: Mapping[str, str]) -> Path:
    """Where the user's own `sollol.toml` is looked for, by the platform's convention."""
    return _user_folder(environ, windows="APPDATA", xdg="XDG_CONFIG_HOME", home=(".config",)) / "sollol.toml"


def home_folder() -> Path:
    """The home of the user of this process; the root for one without a home, as many programs in containers run."""
    try:
        return Path.home()
    except RuntimeError:
        return Path("/")


def _user_folder(environ: Mapping[str, str], *, windows: str, xdg: str, home: tuple[str, ...]) -> Path:
    if sys.platform == "win32":
        return Path(environ.get(windows) or home_folder()) / "sollol"
    own = Path(environ.get("HOME") or home_folder())
    if sys.platform == "darwin":
        return own / "Library" / "Application Support" / "sollol"
    chosen = environ.get(xdg, "")
    # a relative path there is to be ignored, says the XDG specification
    return (Path(chosen) if chosen.startswith("/") else own.joinpath(*home)) / "sollol"
