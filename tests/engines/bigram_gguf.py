"""GGUF files of models whose every probability is known: the next token depends on the last one, by a table.

Embeddings are unit vectors, the one layer adds nothing, the output matrix is the table of log-probabilities. Written
without a library, so that damaged and odd files can be made too.
"""

from __future__ import annotations

import math
import struct
from array import array
from itertools import pairwise
from pathlib import Path

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
U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9

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
    pairs = [
        _string("general.architecture", "llama"),
        _number("llama.block_count", 1),
        _number("llama.context_length", context_tokens),
        _number("llama.embedding_length", VOCABULARY_SIZE),
        _number("llama.feed_forward_length", 32),
        _number("llama.attention.head_count", 9),
        _number("llama.attention.head_count_kv", 1),
        _key("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", F32, 1e-12),
        _string("tokenizer.ggml.model", "gpt2"),
        _string("tokenizer.ggml.pre", "qwen2"),
        _key("tokenizer.ggml.tokens") + struct.pack("<IIQ", ARRAY, STRING, len(words)) + b"".join(map(_text, words)),
        _key("tokenizer.ggml.token_type") + struct.pack(f"<IIQ{len(types)}i", ARRAY, 5, len(types), *types),
        _key("tokenizer.ggml.merges") + struct.pack("<IIQ", ARRAY, STRING, len(merges)) + b"".join(map(_text, merges)),
        _number("tokenizer.ggml.eos_token_id", END),
        _number("tokenizer.ggml.bos_token_id", PIECES.index(b"<bos>")),
        _key("tokenizer.ggml.add_bos_token") + struct.pack("<I?", BOOL, bos),
    ]
    if chat_template is not None:
        pairs.append(_string("tokenizer.chat_template", chat_template))
    tensors = tensors_of(table)
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs)) + b"".join(pairs)
    offset = 0
    for name, (shape, values) in tensors.items():
        head += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, offset)
        offset += len(values) * 4
    head += bytes(-len(head) % 32)
    path.write_bytes(head + b"".join(values.tobytes() for _, values in tensors.values()))
    return path


def tensors_of(table: Table) -> dict[str, tuple[list[int], array[float]]]:
    """Shapes as GGUF has them (fastest first) and values; every length is a multiple of 32 bytes."""
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


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


_key = _text


def _string(key: str, value: str) -> bytes:
    return _key(key) + struct.pack("<I", STRING) + _text(value)


def _number(key: str, value: int) -> bytes:
    return _key(key) + struct.pack("<II", U32, value)
