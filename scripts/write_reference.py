"""Writes the pages in docs/reference that come from the code: `python scripts/write_reference.py`.

A test fails when they are out of date. Words for settings stand here; types, ranges and defaults come from `sollol.config`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
from click.testing import CliRunner
from msgspec import Struct
from msgspec.inspect import type_info

from sollol.cli.main import COMMANDS, cli
from sollol.config import Config, NodeSettings
from sollol.config_sources import SHORT_NAMES, environment_name
from sollol.config_sources import TABLES as OWN_KEYS
from sollol.config_values import expected, field_types
from sollol.wire.fates import OPTIONS, TABLES

sys.path.insert(0, str(Path(__file__).resolve().parent))
import python_reference

FOLDER: Final = Path(__file__).resolve().parents[1] / "docs" / "reference"

SECTIONS: Final = {
    "gateway": "Where clients connect.",
    "discovery": "How nodes are looked for.",
    "queue": "The line of requests that wait.",
    "health": "Looks at nodes.",
    "routing": "The decision.",
    "models": "What names of models mean; see [models and their names](../howto/models.md).",
    "cache": "Answers that are given again; see [answers from the cache](../howto/cache.md).",
    "auth": "Keys; see [keys and browsers](../howto/keys.md).",
    "limits": "What one client may do.",
    "log": "What is written to standard error.",
}
WORDS: Final = {
    "data_dir": "the only folder that SOLLOL writes to",
    "gateway.host": "address to listen on; 0.0.0.0 for every network",
    "gateway.port": "port to listen on; 0: any free one",
    "gateway.metrics_port": "a port of its own for /metrics; 0: only the gateway's",
    "gateway.allowed_origins": 'origins of web pages that may call, with "*" for any run of characters',
    "gateway.uvloop": "use uvloop; auto: where it is installed",
    "gateway.shutdown_seconds": "how long running answers may finish when it stops",
    "nodes.url": 'where it is: "host", "host:port" or a URL. Required',
    "nodes.name": "what to call it",
    "nodes.priority": "higher is preferred; 1 is the last resort",
    "nodes.slots": "requests it works on at a time; not set: learned",
    "nodes.memory_gb": "memory for models, in GB; not set: learned",
    "nodes.api_key": "the key that the node wants",
    "nodes.kind": "what it is until it says so itself",
    "nodes.draining": "send it nothing new",
    "discovery.enabled": "look for nodes at all",
    "discovery.networks": "search only these private networks (`192.168.1.0/24`); empty: those of this machine's interfaces",
    "discovery.ports": "ports that are looked at",
    "discovery.interval_seconds": "time between two searches; 5 s while no node is known",
    "discovery.this_machine": "look at this machine",
    "discovery.docker": "ask Docker for containers",
    "discovery.docker_host": "where Docker's socket is (`unix:///run/docker.sock`), and nowhere else; empty: the usual places",
    "discovery.mdns": "listen for mDNS, where `sollol[mdns]` is installed",
    "discovery.demo_if_empty": "start emulated nodes when none is found",
    "queue.limit": "requests that may wait",
    "queue.body_bytes": "size of all waiting bodies together",
    "queue.priority_step_seconds": "what one level of priority is worth, in seconds of work",
    "queue.no_node_seconds": "how long a request waits when every node that has its model is down",
    "health.connect_seconds": "time for a connection to a node",
    "health.probe_seconds": "time for a whole look at a node",
    "routing.mode": "mode of requests that name none; see [how it decides](../how-it-decides.md#cost)",
    "routing.hedging": "small requests may run on a second, idle node; the first answer wins",
    "nodes.names": "what the node calls a model, and what it is called here",
    "models.digests": "one name for different models on several nodes: taken for the same, only the newest, or none",
    "aliases": "a name of your own, and the model that it stands for",
    "names": "what nodes call a model, and what it is called here",
    "fallbacks": "a model, and the one, or the list of those, that may answer in its place",
    "cache.enabled": "keep answers and give them again to identical requests",
    "cache.coalesce": "let identical requests that are under way at the same time share one answer",
    "cache.ttl_seconds": "how long an answer is kept",
    "cache.entries": "answers that are kept",
    "cache.size_bytes": "size of all answers that are kept",
    "auth.keys": "who has one of these may use the cluster",
    "auth.admin_keys": "who has one of these may change it too",
    "limits.json_body_bytes": "largest JSON body; blobs have no limit",
    "limits.header_bytes": "largest head of a request",
    "limits.connections": "connections at a time",
    "limits.header_seconds": "time for the headers of a request",
    "limits.body_seconds": "longest pause within a body",
    "limits.idle_seconds": "how long an idle connection is kept",
    "log.level": "what is logged; requests at info",
    "log.format": "text, or one JSON object a line",
    "log.requests": "a line for each request; auto: not on a terminal",
}
HEAD: Final = """# Configuration

Defaults, then a file, then the environment, then options of `sollol up`: each goes over the one before.

The file is the one of `--config`, else of `SOLLOL_CONFIG`, else `./sollol.toml`, else the user's own
(`~/.config/sollol/sollol.toml` on Linux, `~/Library/Application Support/sollol/sollol.toml` on macOS,
`%APPDATA%\\sollol\\sollol.toml` on Windows). An unknown setting, a wrong type or a value out of range is one line that names
it, and exit code 2.

```sh
sollol config show
```

prints every setting and where it came from. What it prints is a valid file. Keys are not shown.

In the environment lists are separated by commas, and so are the pairs of a table (`name=model,name=model`); true and false may
be written as 1 and 0, yes and no, on and off.
"""
TAIL: Final = """
## Other variables

| variable | meaning |
|---|---|
| `SOLLOL_CONFIG` | the file to read |
| `OLLAMA_HOST` | names one node more, in every form that Ollama takes, unless it is this gateway or `--node` is given |
| `SOLLOL_URL` | the gateway that the commands talk to |
| `SOLLOL_ADMIN_KEY`, `SOLLOL_API_KEY` | the key that the commands send |
"""


def configuration() -> str:
    """The page about settings."""
    parts = [HEAD, _table("data_dir", [("data_dir", field_types(Config)["data_dir"], "the user's data folder")])]
    for section, words in SECTIONS.items():
        owner = field_types(Config)[section]
        rows = [(f"{section}.{name}", kind, _shown(getattr(owner(), name))) for name, kind in field_types(owner).items()]
        parts.append(_table(f"[{section}]", rows, words))
        if section == "gateway":
            parts.append(_nodes())
        if section == "models":
            parts += [_table(f"[{name}]", [(name, field_types(Config)[name], "`{}`")]) for name in sorted(OWN_KEYS)]
    return "".join(parts) + TAIL


def _nodes() -> str:
    made = NodeSettings("x")
    kinds = field_types(NodeSettings)
    rows = [(f"nodes.{name}", kind, "" if name == "url" else _shown(getattr(made, name))) for name, kind in kinds.items()]
    words = (
        "Nodes that are known beforehand, a table for each. In the environment: `SOLLOL_NODES`, addresses with commas, each\n"
        'with settings of the node behind it if there are any: `SOLLOL_NODES="gpu1, gpu2:8000 api_key=secret"`.'
    )
    return _table("[[nodes]]", rows, words, environment=False)


def _table(title: str, rows: list[tuple[str, object, str]], words: str = "", *, environment: bool = True) -> str:
    lines = [f"\n## {title}\n"]
    if words:
        lines.append(words + "\n")
    lines.append("| setting | default | allowed | meaning |" + (" environment |" if environment else ""))
    lines.append("|---|---|---|---|" + ("---|" if environment else ""))
    for path, kind, default in rows:
        cells = [f"`{path.rpartition('.')[2]}`", default, expected(type_info(kind)), WORDS[path]]
        if path == "data_dir":
            cells[2] = "a folder"
        if environment:
            cells.append(", ".join(f"`{name}`" for name in _variables(path)))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _variables(path: str) -> Iterator[str]:
    yield from dict.fromkeys([*(short for short, setting in SHORT_NAMES.items() if setting == path), environment_name(path)])


def _shown(value: object) -> str:
    if value is None:
        return "not set"
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value)}`"


def commands() -> str:
    """The page about commands: what ``--help`` says, for each of them."""
    parts = [
        "# Commands\n\nWhat `--help` says. Every command that prints data takes `--json`.\n"
        "Exit codes: [errors](errors.md#of-the-commands).\n"
        "`python -m sollol` is the same as `sollol`; `python -m sollol.serve` as `sollol up`.\n",
        _help(),
    ]
    for name in COMMANDS:
        command = cli.get_command(click.Context(cli), name)
        parts.append(_help(name))
        if isinstance(command, click.Group):
            parts += [_help(name, inner) for inner in command.commands]
    return "\n".join(parts)


def _help(*words: str) -> str:
    ran = CliRunner().invoke(cli, [*words, "--help"], prog_name="sollol", terminal_width=100, max_content_width=100)
    if ran.exit_code:
        raise RuntimeError(ran.output)
    title = " ".join(("sollol", *words))
    return f"## {title}\n\n```text\n{ran.output.rstrip()}\n```\n"


TRANSLATION: Final = """# Translation between dialects

A request goes untouched to a node that speaks the client's dialect. To another node it is translated, and the reply back,
streamed or not. This page says what becomes of every field; it is written from the tables that the gateway works with.

Two requests are translated although the node has their path, because it passes over a part of them: `/v1/responses` at
llama.cpp (its events lack the places by which clients put an answer together, and a schema is not kept to), and `/v1/messages`
with a schema in `output_config`. A third goes to another path of the node: `/v1/completions` with a `suffix`, which llama.cpp
passes over there; it is asked on `/infill`, as `/api/generate` with a `suffix` is. A model without that gives a 400.

llama.cpp was tried as it is, Ollama by recordings of it. vLLM, LM Studio and other engines were not: what they get and what
they say was written from their documentation, and tried on emulated ones.

Which of the newer paths a node has (`/v1/messages`, `/v1/responses`, `/v1/rerank`, ...) is asked with an empty request, which
costs it nothing: once for each of its versions, and again when it comes back after it was gone.

*Carried*: the node gets it, under its own name. *Dropped*: left out, since it does not change the answer. *Refused*: it would
change the answer, so the request goes to another node; without one the client gets a 400 that names the field. A field that
is not listed is ignored. Where nothing stands, such a node gets the request untouched.

Messages are carried with their roles, pictures (base64 or data URLs), thoughts, calls of tools and what the tools answered.
Calls without an id get one. Pictures are not fetched from an address. Thoughts that only their maker can read
(`redacted_thinking`, `encrypted_content`) are left out, signatures are not made. vLLM is told to continue a last message of the
model; elsewhere that is up to the engine and the model's template.

A stream is complete only with the end of its dialect: `"done": true`, `finish_reason` and `[DONE]`, `message_stop`, or
`response.completed`. Another ending is a failure and is told as an error in the client's dialect. Responses are not stored.

How long the prompt was is known only at the end of a translated stream: `message_start` says 0 `input_tokens`, `message_delta`
the true number.
"""


def translation() -> str:
    """The page about translation: the tables of `sollol.wire.fates`."""
    parts = [TRANSLATION]
    for path, table in TABLES.items():
        parts.append(f"\n## {path}\n\n| field | at OpenAI's nodes | at Ollama's nodes | |\n|---|---|---|---|\n")
        for name, row in table.items():
            fates = [fate.value if fate is not None else "" for fate in (row.openai, row.ollama)]
            parts.append(f"| `{name}` | {fates[0]} | {fates[1]} | {row.note} |\n")
    parts.append("\n## Ollama's options\n\nAn option without a name is left out.\n\n")
    parts.append("| option | llama.cpp and others | vLLM |\n|---|---|---|\n")
    for name, option in OPTIONS.items():
        theirs = [f"`{one}`" if one else "" for one in (option.name, option.vllm)]
        parts.append(f"| `{name}` | {theirs[0]} | {theirs[1]} |\n")
    return "".join(parts)


PYTHON: Final = """## Short examples

A gateway in your own process:

```python
from sollol import SOLLOL, SOLLOLConfig

config = SOLLOLConfig(hosts=["127.0.0.1:8000"], gateway_port=0)  # port 0: any free one
with SOLLOL(config) as gateway:
    print(gateway.address)
```

`SOLLOL(config).start()` blocks until Ctrl-C, `SIGTERM` or `stop()`. `start(blocking=False)` returns once the port answers, and
runs the gateway on a thread of its own. It raises `PortTaken` when the port is in use. `SOLLOL(port=8000, hosts=[...])` is a
short form.

Finding nodes:

```python
from sollol import discover_ollama_nodes
from sollol.discovery import count_unique_physical_hosts

nodes = discover_ollama_nodes(timeout=0.5, discover_all_nodes=False)
print([f"{node['host']}:{node['port']}" for node in nodes], count_unique_physical_hosts(nodes))
```

Each machine is given once. Without `discover_all_nodes` the networks around are searched only if nothing is found on this
machine.
"""


def python() -> str:
    """The page about the Python library: signatures and docstrings."""
    return python_reference.page(PYTHON)


PAGES: Final = {
    "configuration.md": configuration,
    "commands.md": commands,
    "python.md": python,
    "translation.md": translation,
}


def described() -> set[str]:
    """Every setting that exists, by path."""
    found = {"data_dir", *OWN_KEYS, *(f"nodes.{name}" for name in field_types(NodeSettings))}
    for section, owner in field_types(Config).items():
        if isinstance(owner, type) and issubclass(owner, Struct):
            found |= {f"{section}.{name}" for name in field_types(owner)}
    return found


if __name__ == "__main__":
    for page, made in PAGES.items():
        (FOLDER / page).write_text(made(), encoding="utf-8")
    sys.exit(0)
