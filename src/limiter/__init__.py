"""Decides, exactly and durably, whether a message may go to a contact now, and if not, when."""

from __future__ import annotations

__version__ = "0.1.0"
