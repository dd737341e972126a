"""The command line of limiter. `main` is what the `limiter` command runs."""

from __future__ import annotations


def main() -> None:
    """Runs the command line; leaves with one of `limiter.cli.exit_codes.ExitCode`."""
    from limiter.cli.app import app

    app(prog_name="limiter")
