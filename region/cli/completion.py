"""`completion`: the script that lets a shell complete `bootferry`."""

from enum import StrEnum
from typing import Annotated

import typer

PROGRAM = "bootferry"
VARIABLE = "_BOOTFERRY_COMPLETE"
"""A shell that completes a word runs the program with this variable set."""


class Shell(StrEnum):
    """The shells there is a script for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="bash|zsh|fish", help="The shell to complete in.")],
) -> None:
    """Print the script that completes commands, options, and the names of images, racks and sources.

    \b
    bash:  bootferry completion bash > ~/.local/share/bash-completion/completions/bootferry
    zsh:   bootferry completion zsh > "${fpath[1]}/_bootferry"
    fish:  bootferry completion fish > ~/.config/fish/completions/bootferry.fish
    """
    from typer._completion_shared import get_completion_script

    print(get_completion_script(prog_name=PROGRAM, complete_var=VARIABLE, shell=shell.value))
