"""glimprouter: a small and a large reasoning model write one answer, step by step. Start reading at `router.py`."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from glimprouter.config import Routing, Sampling, __version__

if TYPE_CHECKING:
    from glimprouter.flow.answer import Event, Finished, Started, StepFinished, StepStarted, Text
    from glimprouter.flow.request import Request, ask
    from glimprouter.flow.trace import Step, Trace
    from glimprouter.pair import Pair, open_pair
    from glimprouter.router import AnswerFailed, Router

__all__ = [
    "AnswerFailed",
    "Event",
    "Finished",
    "Pair",
    "Request",
    "Router",
    "Routing",
    "Sampling",
    "Started",
    "Step",
    "StepFinished",
    "StepStarted",
    "Text",
    "Trace",
    "__version__",
    "ask",
    "open_pair",
]

_HOMES = {
    "glimprouter.flow.answer": ("Event", "Finished", "Started", "StepFinished", "StepStarted", "Text"),
    "glimprouter.flow.request": ("Request", "ask"),
    "glimprouter.flow.trace": ("Step", "Trace"),
    "glimprouter.pair": ("Pair", "open_pair"),
    "glimprouter.router": ("AnswerFailed", "Router"),
}


def __getattr__(name: str) -> Any:
    """Import on first use: `import glimprouter` alone stays quick."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'glimprouter' has no attribute {name!r}")
