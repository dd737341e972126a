"""`python -m limiter.cli` is the same as `limiter`."""

from __future__ import annotations

from limiter.cli import main

if __name__ == "__main__":
    main()
