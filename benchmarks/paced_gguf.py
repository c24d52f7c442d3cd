"""A pair of GGUF files that really write a schedule at a real pace: weights of real size that say what is wanted.

The next token follows from the last one alone. Each place of the schedule has a token of its own (" w00042", the last
of a step " w00043.\\n\\n"), so that its text is read back as the same tokens. Embeddings are random directions; the
row of the output matrix that belongs to a token points where its predecessor does. Before a pivot five others are
nearly as likely as the token wanted, which stays the best one. The layers between are random numbers that cost their
full reading and add nothing: what leaves them passes a matrix of zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.schedule import ScheduledStep, schedule
from tests.engines.bigram_gguf import (
    BYTES_AS_TEXT,
    CHAT_TEMPLATE,
    CONTROL,
    CONTROL_TYPE,
    MERGED,
    MERGES,
    NORMAL,
    SHOWN,
    UNUSED,
    USER_DEFINED,
)
from tests.engines.gguf_writer import Field, Values, write_gguf

WIDTH = 1024
HEADS, KV_HEADS = 16, 2
CERTAIN_LOGIT = 40.0
NEARLY = 0.05
"""How much less the alternatives of a pivot weigh, in logits."""

ALTERNATIVES = 5
ANSWER = (" The", " answer", " is", " 42.")


@dataclass(frozen=True, slots=True)
class Size:
    """What a model costs to read: `layers` of feed-forward matrices of WIDTH x `hidden`, three each."""

    layers: int
    hidden: int


SMALL, LARGE = Size(2, 4096), Size(9, 4096)


@dataclass(frozen=True, slots=True)
class Script:
    """The vocabulary and which token follows which."""

    words: list[str]
    types: list[int]
    follows: dict[int, int]
    alternatives: dict[int, list[int]]
    end: int


def script_of(steps: list[ScheduledStep]) -> Script:
    plain = [bytes([byte]) for byte in range(256)] + MERGED
    words = ["".join(BYTES_AS_TEXT[byte] for byte in piece) for piece in plain] + CONTROL + SHOWN
    types = [NORMAL] * len(plain) + [CONTROL_TYPE] * len(CONTROL) + [USER_DEFINED] * len(SHOWN)
    end, close = words.index("<|im_end|>"), words.index("</think>")
    newline, blank = plain.index(b"\n"), words.index(BYTES_AS_TEXT[10] * 2)
    follows: dict[int, int] = {}
    alternatives: dict[int, list[int]] = {}

    def add(text: str) -> int:
        words.append(text)
        types.append(USER_DEFINED)
        return len(words) - 1

    last = newline
    for place, (text, pivot) in enumerate(_texts(steps)):
        following = add(text)
        follows[last] = following
        if pivot:
            alternatives[last] = [add(f" x{place:05d}{n}") for n in range(ALTERNATIVES)]
        last = following
    follows[last] = close
    follows[close] = last = blank
    for text in ANSWER:
        follows[last] = add(f"{text}")
        last = follows[last]
    follows[last] = end
    padding = -len(words) % 32
    return Script(words + [f"[PAD{n}]" for n in range(padding)], types + [UNUSED] * padding, follows, alternatives, end)


def _texts(steps: list[ScheduledStep]) -> Iterator[tuple[str, bool]]:
    """Each token's text, and whether it is the first of a pivot."""
    place = 0
    for step in steps:
        for number in range(step.tokens):
            yield f" w{place:05d}" + (".\n\n" if number == step.tokens - 1 else ""), step.pivot and number == 0
            place += 1


def write_paced_pair(
    folder: Path, *, thought_tokens: int = 800, seed: int = 0, small: Size = SMALL, large: Size = LARGE
) -> tuple[Path, Path, list[ScheduledStep]]:
    """Write both models; they share vocabulary and schedule and differ in what they cost."""
    steps = schedule(thought_tokens, seed=seed)
    script = script_of(steps)
    context_tokens = 2 * thought_tokens + 512
    paths = []
    for name, size in (("paced-small", small), ("paced-large", large)):
        paths.append(write_gguf(folder / f"{name}.gguf", _fields(script, size, context_tokens), _tensors(script, size)))
    return paths[0], paths[1], steps


def _fields(script: Script, size: Size, context_tokens: int) -> dict[str, Field]:
    merges = [" ".join("".join(BYTES_AS_TEXT[b] for b in side) for side in merge.split(b" ")) for merge in MERGES]
    return {
        "general.architecture": "llama",
        "llama.block_count": size.layers,
        "llama.context_length": context_tokens,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": size.hidden,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": script.words,
        "tokenizer.ggml.token_type": script.types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": script.end,
        "tokenizer.ggml.bos_token_id": script.words.index("<bos>"),
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def _tensors(script: Script, size: Size) -> dict[str, tuple[list[int], Values]]:
    rng = np.random.default_rng(1)
    count = len(script.words)
    directions = rng.standard_normal((count, WIDTH)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    output = np.zeros((count, WIDTH), np.float32)
    weight = CERTAIN_LOGIT / np.sqrt(WIDTH)  # the norm before it makes sqrt(WIDTH) of each direction
    for last, following in script.follows.items():
        output[following] += weight * directions[last]
    for last, others in script.alternatives.items():
        output[others] += weight * (1 - NEARLY / CERTAIN_LOGIT) * directions[last]
    head = WIDTH // HEADS

    def noise(rows: int, columns: int) -> NDArray[np.float32]:
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)

    tensors: dict[str, tuple[list[int], Values]] = {
        "token_embd.weight": ([WIDTH, count], directions),
        "output_norm.weight": ([WIDTH], np.ones(WIDTH, np.float32)),
        "output.weight": ([WIDTH, count], output),
    }
    for layer in range(size.layers):
        tensors |= {
            f"blk.{layer}.attn_norm.weight": ([WIDTH], np.ones(WIDTH, np.float32)),
            f"blk.{layer}.attn_q.weight": ([WIDTH, WIDTH], noise(WIDTH, WIDTH)),
            f"blk.{layer}.attn_k.weight": ([WIDTH, head * KV_HEADS], noise(head * KV_HEADS, WIDTH)),
            f"blk.{layer}.attn_v.weight": ([WIDTH, head * KV_HEADS], noise(head * KV_HEADS, WIDTH)),
            f"blk.{layer}.attn_output.weight": ([WIDTH, WIDTH], np.zeros((WIDTH, WIDTH), np.float32)),
            f"blk.{layer}.ffn_norm.weight": ([WIDTH], np.ones(WIDTH, np.float32)),
            f"blk.{layer}.ffn_gate.weight": ([WIDTH, size.hidden], noise(size.hidden, WIDTH)),
            f"blk.{layer}.ffn_up.weight": ([WIDTH, size.hidden], noise(size.hidden, WIDTH)),
            f"blk.{layer}.ffn_down.weight": ([size.hidden, WIDTH], np.zeros((WIDTH, size.hidden), np.float32)),
        }
    return tensors
