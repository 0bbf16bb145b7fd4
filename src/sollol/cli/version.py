"""`sollol version`."""

from __future__ import annotations

import platform

import click

from sollol import __version__
from sollol.cli.options import json_option, print_json


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version of SOLLOL."""
    if as_json:
        print_json({"version": __version__, "python": platform.python_version(), "platform": platform.system()})
    else:
        click.echo(__version__)
