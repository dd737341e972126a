"""What all plots share. matplotlib comes with the extra `plot`, and is loaded when it is used."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from limiter.cli.errors import CommandError
from limiter.cli.exit_codes import ExitCode

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Inches and dots an inch of a plot.
_WIDTH_INCHES = 10.0
_DPI = 100


def require_matplotlib() -> None:
    """Raises CommandError, with the way out, where plots cannot be drawn."""
    if importlib.util.find_spec("matplotlib") is None:
        raise CommandError(
            ExitCode.USAGE,
            "--plot needs matplotlib, which is not installed",
            "Install it with the extra `plot`: pip install 'limiter[plot]'",
        )


def figure(height_inches: float) -> Figure:
    """An empty figure."""
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH_INCHES, height_inches), dpi=_DPI, layout="constrained")


def save(drawn: Figure, path: Path) -> None:
    """Writes the figure in the format that the path's suffix names. Raises CommandError."""
    try:
        drawn.savefig(path)
    except (OSError, ValueError) as error:
        raise CommandError(ExitCode.USAGE, f"cannot write the plot {path}: {error}") from error
