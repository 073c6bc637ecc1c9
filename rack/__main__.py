"""`bootferry-rack`. What parses a command line is loaded only when there is one to parse: `run` starts fast."""

import sys

from rack.program import run, told


def main() -> None:
    """The console script.

    Exit status: 0, 1 for a refusal, 2 for a wrong command line, 75 beside a rack in the same directory, 78 for unusable
    settings.
    """
    arguments = sys.argv[1:]
    if arguments == ["run"]:
        sys.exit(told(run))
    from rack.cli import command_line

    sys.exit(command_line(arguments))


if __name__ == "__main__":
    main()
