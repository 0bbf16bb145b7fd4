"""`sollol version`."""

from __future__ import annotations

import platform
from pathlib import Path

import click

from sollol import __version__
from sollol.cli.options import json_option, print_json
from sollol.core import routing


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version of SOLLOL, and whether its core is compiled."""
    compiled = Path(routing.__file__).suffix != ".py"
    if as_json:
        system = {"python": platform.python_version(), "platform": platform.system()}
        print_json({"version": __version__, "compiled": compiled} | system)
    else:
        click.echo(__version__ + (" (core compiled)" if compiled else ""))
