"""`python -m sollol.serve --port P` runs the gateway: another name for `sollol up`, with the same options."""

from __future__ import annotations

import sys

from sollol.cli.main import run

if __name__ == "__main__":
    sys.exit(run(["up", *sys.argv[1:]]))
