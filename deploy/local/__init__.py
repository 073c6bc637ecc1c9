"""How Bootferry starts on a fresh machine: nothing but Python and make, then everything else from here."""

import sys

# Here, before any module with newer syntax is read.
if sys.version_info < (3, 11):  # noqa: UP036
    sys.exit("bootferry: Python 3.11 or newer is needed: name one, as in `make PYTHON=/usr/bin/python3.11`.")
