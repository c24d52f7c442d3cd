"""A causal language model of transformers, and the caches it reads with. Everything here runs in the engine's thread.

On a CPU the cache grows with what is read. On a GPU it has the length of the context from the start, and the pass that
reads a single token is compiled; the tests run that cache on a CPU, not compiled.
"""

from __future__ import annotations

import inspect
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

TINY_PARAMETERS = 32 * 10**6
"""Below this a second thread costs more than it does."""

WORTH_KEEPING_TOKENS = 64
"""What is read beyond a common prefix is given up for another prefix where it is less than this."""

_loading = threading.Lock()
"""Both models of a pair load at once, and the modules of transformers cannot be imported by two threads at a time."""


class Network:
    """The loaded model. `static`: caches have their full length from the start."""

    def __init__(self, model: Any, *, context_tokens: int, static: bool, compiled: bool = False) -> None:
        import torch

        self.model = model
        self.device: Any = model.device
        self.context_tokens = context_tokens
        self.static = static and not _odd_layers(model)
        self.can_crop = not _odd_layers(model)
        self.vocabulary_size: int = model.config.get_text_config().vocab_size
        self._decode = torch.compile(model, mode="reduce-overhead") if compiled and self.static else None
        # Renamed in transformers 5.24.
        parameters = inspect.signature(model.forward).parameters
        self._cache_argument = "cache" if "cache" in parameters else "past_key_values"

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        context_tokens: int,
        device: str = "auto",
        dtype: str = "auto",
        static: bool | None = None,
        threads: int | None = None,
    ) -> Network:
        """Read a folder. `auto`: the GPU where there is one, in bfloat16; else the CPU, in float32. `threads` are those
        of the calling thread: one for a tiny model, else half of what this process may use."""
        with _loading:
            import torch
            from transformers import AutoModelForCausalLM
            from transformers.utils import logging

        logging.disable_progress_bar()
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        on_gpu = not device.startswith("cpu")
        if dtype == "auto":
            dtype = "bfloat16" if on_gpu else "float32"
        with _loading:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=getattr(torch, dtype), local_files_only=True, trust_remote_code=False
            )
        model = model.to(device).eval()
        tiny = model.num_parameters() < TINY_PARAMETERS
        torch.set_num_threads(threads or (1 if tiny else max(1, _processors() // 2)))
        trained = getattr(model.config.get_text_config(), "max_position_embeddings", 0)
        return cls(
            model,
            context_tokens=min(context_tokens, trained or context_tokens),
            static=on_gpu if static is None else static,
            compiled=on_gpu,
        )

    @property
    def end_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""
        for config in (self.model.generation_config, self.model.config.get_text_config()):
            ids = getattr(config, "eos_token_id", None)
            if ids is not None:
                return frozenset([ids] if isinstance(ids, int) else ids)
        return frozenset()

    def new_cache(self) -> Any:
        from transformers import DynamicCache, StaticCache

        if self.static:
            return StaticCache(config=self.model.config, max_cache_len=self.context_tokens)
        # Without a config every layer keeps all it has read, also where it looks at a window only, and can be cropped.
        return DynamicCache() if self.can_crop else DynamicCache(config=self.model.config)

    def logits(self, ids: Sequence[int], cache: Any, last: int) -> torch.Tensor:
        """Read ids after what the cache holds: float32 logits of the last of them, one row each."""
        import torch

        forward = self._decode if self._decode is not None and len(ids) == 1 else self.model
        given = torch.tensor([list(ids)], device=self.device)
        out = forward(input_ids=given, use_cache=True, logits_to_keep=last, **{self._cache_argument: cache})
        # A copy: a compiled pass overwrites what it gave before.
        logits: torch.Tensor = out.logits[0, -last:].to(torch.float32, copy=True)
        return logits


class Reading:
    """A cache and the ids that it holds."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.ids: list[int] = []
        self._cache: Any = None

    def common_tokens(self, ids: Sequence[int]) -> int:
        """How much of a prefix is read already."""
        most = min(len(ids), len(self.ids))
        if list(ids[:most]) == self.ids[:most]:
            return most
        return next(place for place, (one, other) in enumerate(zip(ids, self.ids, strict=False)) if one != other)

    def keep(self, tokens: int) -> None:
        """Forget what was read after so many tokens."""
        surplus = len(self.ids) - tokens
        if surplus <= 0:
            return
        if self.network.can_crop:
            self._cache.crop(-surplus)
            del self.ids[tokens:]
        else:  # layers with a running state cannot go back
            self.forget()

    def forget(self) -> None:
        self.ids.clear()
        self._cache = None

    def read(self, ids: Sequence[int], last: int = 1) -> torch.Tensor:
        """Read on; see `Network.logits`."""
        if self._cache is None:
            self._cache = self.network.new_cache()
        try:
            logits = self.network.logits(ids, self._cache, last)
        except BaseException:
            self.forget()  # layers may hold it in part
            raise
        self.ids += ids
        return logits


@dataclass(slots=True)
class Place:
    """What one call reads with: a cache of the model, and one of its draft model where it has one."""

    reading: Reading
    draft: Reading | None


class Shelf:
    """Places kept between calls, at most so many; the one least recently used is given up for another prefix."""

    def __init__(self, network: Network, draft: Network | None, *, most_places: int) -> None:
        self.network, self.draft = network, draft
        self._most_places = most_places
        self._made = 0
        self._idle: list[Place] = []

    def take(self, ids: Sequence[int]) -> Place:
        """A place that holds as much of a prefix as can be had without giving up much else; it is taken by nobody else
        until it is put back. No more may be taken at once than there are."""
        best = max(self._idle, key=lambda place: place.reading.common_tokens(ids), default=None)
        if best is not None:
            kept, held = best.reading.common_tokens(ids), len(best.reading.ids)
            if kept < held / 2 and held - kept > WORTH_KEEPING_TOKENS:
                best = self._idle[0] if self._made >= self._most_places else None
        if best is None:
            self._made += 1
            return Place(Reading(self.network), Reading(self.draft) if self.draft is not None else None)
        self._idle.remove(best)
        return best

    def put_back(self, place: Place) -> None:
        self._idle.append(place)


def _odd_layers(model: Any) -> bool:
    """Whether some layers keep anything but keys and values of all tokens: a running state, compressed keys."""
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or []
    return not set(kinds) <= {"full_attention", "sliding_attention"}


def _processors() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
