"""glimprouter: a small and a large reasoning model write one answer, step by step. Start reading at `router.py`."""

from __future__ import annotations

from glimprouter.config import __version__

__all__ = ["__version__"]
