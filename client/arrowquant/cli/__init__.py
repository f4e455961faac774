"""The `arrowquant` command."""

from __future__ import annotations


def main() -> None:
    """Run the command line."""
    from arrowquant.cli.app import app

    app(prog_name="arrowquant")
