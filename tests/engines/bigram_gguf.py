"""GGUF files of models whose every probability is known: the next token depends on the last one, by a table.

Embeddings are unit vectors, the one layer adds nothing, the output matrix is the table of log-probabilities. Written
without a library, so that damaged and odd files can be made too.
"""

from __future__ import annotations

import math
from array import array
from itertools import pairwise
from pathlib import Path

from tests.engines.gguf_writer import Field, write_gguf

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{# <think> </think> #}"
)
BYTES_AS_TEXT = {
    byte: chr(byte) if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255 else "" for byte in range(256)
}
for place, byte in enumerate(byte for byte, text in BYTES_AS_TEXT.items() if not text):
    BYTES_AS_TEXT[byte] = chr(256 + place)

MERGES = (b"\n \n", b"\xf0 \x9f", b"\xf0\x9f \x98", b". \n\n")
MERGED = [bytes(merge.replace(b" ", b"")) for merge in MERGES]
CONTROL = ["<|im_start|>", "<|im_end|>", "<bos>"]
SHOWN = ["<think>", "</think>"]
PIECES: list[bytes] = [bytes([byte]) for byte in range(256)] + MERGED + [text.encode() for text in CONTROL + SHOWN]
VOCABULARY_SIZE = 288
END = PIECES.index(b"<|im_end|>")
NEVER = -40.0

NORMAL, CONTROL_TYPE, USER_DEFINED, UNUSED = 1, 3, 4, 5

Table = dict[bytes, dict[bytes, float]]
"""For each last piece the probabilities of the next; what is not there is followed by the end token."""


def ids_of(*pieces: bytes) -> list[int]:
    return [PIECES.index(piece) for piece in pieces]


def chain(*pieces: bytes) -> Table:
    """Every piece is surely followed by the next one, the last by the end token. No piece may come twice."""
    return {piece: {following: 1.0} for piece, following in pairwise(pieces)}


def uniform(pieces: list[bytes]) -> Table:
    """Any of the pieces follows any other."""
    return {piece: dict.fromkeys(pieces, 1 / len(pieces)) for piece in pieces}


def write_bigram_gguf(
    path: Path,
    table: Table,
    *,
    chat_template: str | None = CHAT_TEMPLATE,
    context_tokens: int = 512,
    bos: bool = False,
    think_type: int = USER_DEFINED,
) -> Path:
    """Write a model that follows `table`. Options make it odd in one way each."""
    words = ["".join(BYTES_AS_TEXT[byte] for byte in piece) for piece in PIECES[: 256 + len(MERGED)]] + CONTROL + SHOWN
    types = [NORMAL] * (256 + len(MERGED)) + [CONTROL_TYPE] * len(CONTROL) + [think_type] * len(SHOWN)
    padding = VOCABULARY_SIZE - len(words)
    words += [f"[PAD{place}]" for place in range(padding)]
    types += [UNUSED] * padding
    merges = [" ".join("".join(BYTES_AS_TEXT[b] for b in side) for side in merge.split(b" ")) for merge in MERGES]
    fields: dict[str, Field] = {
        "general.architecture": "llama",
        "llama.block_count": 1,
        "llama.context_length": context_tokens,
        "llama.embedding_length": VOCABULARY_SIZE,
        "llama.feed_forward_length": 32,
        "llama.attention.head_count": 9,
        "llama.attention.head_count_kv": 1,
        "llama.attention.layer_norm_rms_epsilon": 1e-12,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": END,
        "tokenizer.ggml.bos_token_id": PIECES.index(b"<bos>"),
        "tokenizer.ggml.add_bos_token": bos,
    }
    if chat_template is not None:
        fields["tokenizer.chat_template"] = chat_template
    return write_gguf(path, fields, tensors_of(table))


def tensors_of(table: Table) -> dict[str, tuple[list[int], array[float]]]:
    """Shapes as GGUF has them (fastest first) and values."""
    n, head_size, hidden = VOCABULARY_SIZE, 32, 32

    def zeros(*shape: int) -> tuple[list[int], array[float]]:
        return list(shape), array("f", bytes(4 * math.prod(shape)))

    def ones(size: int) -> tuple[list[int], array[float]]:
        return [size], array("f", [1.0] * size)

    embeddings, output = zeros(n, n), zeros(n, n)
    for piece in range(n):
        embeddings[1][piece * n + piece] = 1.0
        row = table.get(PIECES[piece]) if piece < len(PIECES) else None
        wanted = {PIECES.index(b): p for b, p in row.items()} if row else {END: 1.0}
        for following in range(n):
            logit = math.log(wanted[following]) if following in wanted else NEVER
            output[1][following * n + piece] = logit / math.sqrt(n)  # the norm before it makes sqrt(n) of the 1
    return {
        "token_embd.weight": embeddings,
        "blk.0.attn_norm.weight": ones(n),
        "blk.0.attn_q.weight": zeros(n, n),
        "blk.0.attn_k.weight": zeros(n, head_size),
        "blk.0.attn_v.weight": zeros(n, head_size),
        "blk.0.attn_output.weight": zeros(n, n),
        "blk.0.ffn_norm.weight": ones(n),
        "blk.0.ffn_gate.weight": zeros(n, hidden),
        "blk.0.ffn_up.weight": zeros(n, hidden),
        "blk.0.ffn_down.weight": zeros(hidden, n),
        "output_norm.weight": ones(n),
        "output.weight": output,
    }
