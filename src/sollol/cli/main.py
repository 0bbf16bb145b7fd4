"""The command `sollol`. Each subcommand lies in a file of its own, which is loaded only when it is used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final, NoReturn

import click

from sollol import __version__
from sollol.cli.failures import NothingRuns
from sollol.errors import ConfigError, SollolError

OK: Final = 0
FAILED: Final = 1
USAGE: Final = 2
NOTHING_RUNS: Final = 3

# Name: (where it lies, what it does in a few words). This order is the order of the help.
COMMANDS: Final = {
    "up": ("sollol.cli.up:up", "Run the gateway: find the nodes and answer through them."),
    "status": ("sollol.cli.status:status", "What runs, which nodes it has, and how they do."),
    "down": ("sollol.cli.down:down", "Stop the gateway that `sollol up` started."),
    "reload": ("sollol.cli.reload:reload", "Make the gateway read its settings again."),
    "nodes": ("sollol.cli.nodes:nodes", "List, add, remove, drain or change nodes."),
    "explain": ("sollol.cli.explain:explain", "Where a request would go, and why; sends nothing."),
    "demo": ("sollol.cli.demo:demo", "Try everything on emulated nodes; --failover: see one die."),
    "emulate": ("sollol.cli.emulate:emulate", "Run emulated nodes."),
    "bench": ("sollol.cli.bench:bench", "Measure a server with real requests."),
    "config": ("sollol.cli.config:config", "Show the settings and where each came from."),
    "version": ("sollol.cli.version:version", "Print the version."),
}


class LazyGroup(click.Group):
    """A group that knows the names of its commands and loads only the one that is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        # a shell that completes words (resilient parsing) is told nothing
        if args and args[0] not in COMMANDS and not args[0].startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"There is no command {args[0]!r}. The commands are: {', '.join(COMMANDS)}.")
        return super().resolve_command(ctx, args)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", message="%(version)s")
def cli() -> None:
    """SOLLOL: one front door for the machines that run your language models.

    `sollol up` starts it. Then point any Ollama or OpenAI client at http://127.0.0.1:8000.
    """


def main() -> NoReturn:
    """The console script."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong usage or settings, 3 no gateway runs.

    ``arguments`` default to those of the process. Raises `SystemExit` (1) when nobody reads standard output (`| head`).
    """
    try:
        result = cli.main(arguments, prog_name="sollol", standalone_mode=False)
        return result if isinstance(result, int) else OK
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except SollolError as error:
        click.echo(f"sollol: {error}", err=True)
        if isinstance(error, NothingRuns):
            return NOTHING_RUNS
        return USAGE if isinstance(error, ConfigError) else FAILED
