"""The environment `.venv`: every package of requirements.lock by hash, and Bootferry itself from the checkout.

Standard library only, and neither pip nor ensurepip: a fresh Debian has none of them. The lock pins uv; its wheel is
fetched from the package index and then installs the rest.
"""

import io
import os
import platform
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.local.failure import Failure
from deploy.local.index import ensure_certificates, fetch, index_address, pinned, this_machine


def make(checkout: Path, environ: Mapping[str, str]) -> None:
    """Return once `.venv` holds exactly what the lock says, and Bootferry from this checkout. Raises Failure.

    What an earlier call left half done is mended.
    """
    uv = uv_program(checkout, environ)
    environment = uv_environment(environ, checkout)
    python = checkout / ".venv" / "bin" / "python"
    say(f"Making .venv with Python {platform.python_version()}")
    if not (runs_this_python(python) and was_made_here(checkout)):
        shutil.rmtree(checkout / ".venv", ignore_errors=True)
        run_uv([uv, "venv", "--quiet", "--no-project", "--python", sys.executable, ".venv"], checkout, environment)
    target: list[str | Path] = ["--python", python]
    say("Installing the packages of requirements.lock")
    run_uv(
        [uv, "pip", "sync", "--quiet", "--compile-bytecode", *target, "--require-hashes", "requirements.lock"],
        checkout,
        environment,
    )
    link_checkout(checkout, python)
    print("Everything is installed.", flush=True)


def uv_program(checkout: Path, environ: Mapping[str, str]) -> Path:
    """The pinned uv, fetched unless it is there. Raises Failure."""
    pin = pinned((checkout / "requirements.lock").read_text(), "uv")
    program = checkout / ".cache" / f"uv-{pin.version}" / "uv"
    if program.exists():
        return program
    ensure_certificates(environ)
    say(f"Fetching uv {pin.version}")
    wheel = fetch(pin, this_machine(), environ)
    program.parent.mkdir(parents=True, exist_ok=True)
    unfinished = program.with_suffix(".new")
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        unfinished.write_bytes(archive.read(f"uv-{pin.version}.data/scripts/uv"))
    unfinished.chmod(0o755)
    unfinished.rename(program)
    return program


def uv_environment(environ: Mapping[str, str], checkout: Path) -> dict[str, str]:
    """What uv gets to see: the caller's settings, the index we chose, and never another Python."""
    ours = {
        "UV_PYTHON_DOWNLOADS": "never",
        "UV_SYSTEM_CERTS": "true",
        "UV_DEFAULT_INDEX": index_address(environ),
        "UV_NO_CONFIG": "1",
    }
    if (bundle := environ.get("PIP_CERT")) and not environ.get("SSL_CERT_FILE"):
        ours["SSL_CERT_FILE"] = bundle
    if "UV_CACHE_DIR" not in environ and not os.access(Path("~").expanduser(), os.W_OK):
        ours["UV_CACHE_DIR"] = str(checkout / ".cache" / "uv")
    dropped = {"UV_INDEX_URL", "VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH"}
    return {name: value for name, value in environ.items() if name not in dropped} | ours


SCRIPT = """\
#!/bin/sh
'''exec' {python} "$0" "$@"
' '''
import sys

from {module} import {function}

sys.exit({function}())
"""
"""A console script that starts from any path: a shebang line takes neither spaces nor much length."""


def link_checkout(checkout: Path, python: Path) -> None:
    """Make this checkout importable in the environment, and its console scripts, without building anything."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    site_packages = python.parents[1] / "lib" / version / "site-packages"
    (site_packages / "bootferry.pth").write_text(f"{checkout}\n")
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    for name, target in project["scripts"].items():
        module, _, function = target.partition(":")
        script = python.with_name(name)
        quoted = f'"{python}"'  # at the same time a word of sh and the middle of a string of Python
        script.write_text(SCRIPT.format(python=quoted, module=module, function=function))
        script.chmod(0o755)


def runs_this_python(python: Path) -> bool:
    """Whether the environment's interpreter starts and is the version we are."""
    try:
        said = subprocess.run([python, "-I", "-c", "import sys; print(sys.version)"], capture_output=True, check=False)
    except OSError:
        return False
    return said.stdout.decode().strip() == sys.version


def was_made_here(checkout: Path) -> bool:
    """Whether the environment was made at this path, which its scripts and activation carry."""
    activate = checkout / ".venv" / "bin" / "activate"
    return activate.exists() and f"VIRTUAL_ENV='{checkout / '.venv'}'" in activate.read_text()


def run_uv(argv: Sequence[str | Path], checkout: Path, environment: dict[str, str]) -> None:
    """Run uv, which says what goes wrong itself. Raises Failure."""
    if subprocess.run(argv, cwd=checkout, env=environment, stdin=subprocess.DEVNULL, check=False).returncode != 0:
        raise Failure("the packages could not be installed (see above): once that is mended, run this again.")


def say(sentence: str) -> None:
    """One short line of progress."""
    print(f"{sentence} …", flush=True)
