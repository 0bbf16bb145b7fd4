"""The core compiled: it builds, says that it is compiled, and passes the tests of the core. Needs a C compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from tests.support.need import require

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.timeout(400)  # a minute of compiling, more on a busy machine
def test_the_compiled_core_passes_the_tests_of_the_core(tmp_path: Path) -> None:
    require(shutil.which("cc"), "a C compiler: apt-get install gcc libc6-dev")
    require(Path(sysconfig.get_path("include"), "Python.h").exists(), "the headers of this Python: apt-get install python3-dev")
    folder = tmp_path / "compiled"
    install = [ROOT / "scripts" / "install_compiled.sh", folder, "0"]  # what the C compiler makes faster is not tested here
    subprocess.run(install, check=True, env=os.environ | {"PYTHON": sys.executable})
    told = subprocess.run([folder / "bin" / "sollol", "version"], check=True, capture_output=True, text=True)
    assert "core compiled" in told.stdout
    packages = next((folder / "lib").glob("python3*/site-packages"))
    tests = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "--no-cov", "-p", "no:cacheprovider", "tests/unit/core"],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("PYTEST")} | {"PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert tests.returncode == 0, tests.stdout[-3000:]
    assert not list((ROOT / "src").rglob("*.so")), "compiled modules beside the sources would hide what is edited"
