"""The three commands, and the one name that an installed Bootferry takes in an environment.

- The wheel carries `region`, `rack`, `shared` and `migrations` inside this package: at the top of an environment a name
  like `shared` could be anybody's. In a checkout they lie beside it.
- A command looks for modules here first, so that these names mean ours, whatever else is installed.
- Each command needs the libraries of its extra: `bootferry[cli]`, `bootferry[region]`, `bootferry[rack]`.
"""

import importlib
import sys
from pathlib import Path


def operator_command() -> None:
    """`bootferry`, the operator's command line."""
    _start("bootferry", "cli", "region.cli.main")


def region_command() -> None:
    """`bootferry-region`, the region's service."""
    _start("bootferry-region", "region", "region.__main__")


def rack_command() -> None:
    """`bootferry-rack`, the rack's service."""
    _start("bootferry-rack", "rack", "rack.__main__")


def _start(program: str, extra: str, module: str) -> None:
    """Run `main` of `module`; without the libraries it needs, end with status 1 and say which extra brings them."""
    inside = Path(__file__).parent
    if (inside / "shared").is_dir():
        sys.path.insert(0, str(inside))
    try:
        main = importlib.import_module(module).main
    except ModuleNotFoundError as error:
        sys.exit(f"{program} lacks {error.name}: install bootferry[{extra}].")
    main()
