"""The `arrowquant` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line."""
    try:
        from arrowquant.cli.app import app

        app(prog_name="arrowquant")
    except KeyboardInterrupt:
        # While it was still loading, or ending: the commands themselves have said more.
        sys.stderr.write("interrupted\n")
        sys.exit(130)
