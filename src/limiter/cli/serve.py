"""The command that runs the server."""

from __future__ import annotations


def serve() -> None:
    """Run the server."""
    raise NotImplementedError
