"""The models of `bigram_gguf.py` as Hugging Face folders: the same tables, the same ids. Written without a library."""

from __future__ import annotations

import json
import struct
from importlib.resources import files
from itertools import accumulate
from pathlib import Path
from typing import Any

from tests.engines.bigram_gguf import (
    BYTES_AS_TEXT,
    CHAT_TEMPLATE,
    CONTROL,
    END,
    MERGED,
    MERGES,
    PIECES,
    SHOWN,
    VOCABULARY_SIZE,
    Table,
    tensors_of,
)

_NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "blk.0.attn_norm.weight": "model.layers.0.input_layernorm.weight",
    "blk.0.attn_q.weight": "model.layers.0.self_attn.q_proj.weight",
    "blk.0.attn_k.weight": "model.layers.0.self_attn.k_proj.weight",
    "blk.0.attn_v.weight": "model.layers.0.self_attn.v_proj.weight",
    "blk.0.attn_output.weight": "model.layers.0.self_attn.o_proj.weight",
    "blk.0.ffn_norm.weight": "model.layers.0.post_attention_layernorm.weight",
    "blk.0.ffn_gate.weight": "model.layers.0.mlp.gate_proj.weight",
    "blk.0.ffn_up.weight": "model.layers.0.mlp.up_proj.weight",
    "blk.0.ffn_down.weight": "model.layers.0.mlp.down_proj.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}


def write_bigram_hf(
    folder: Path, table: Table, *, chat_template: str | None = CHAT_TEMPLATE, context_tokens: int = 512
) -> Path:
    """Write a model that follows `table`."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": VOCABULARY_SIZE,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 9,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": context_tokens,
        "rms_norm_eps": 1e-12,
        "tie_word_embeddings": False,
        "vocab_size": VOCABULARY_SIZE,
        "bos_token_id": None,
        "eos_token_id": END,
        "dtype": "float32",
    }
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", {"eos_token_id": [END]})
    _write(folder / "tokenizer.json", _tokenizer())
    template = {} if chat_template is None else {"chat_template": chat_template}
    _write(folder / "tokenizer_config.json", {"eos_token": "<|im_end|>"} | template)
    (folder / "model.safetensors").write_bytes(_safetensors(table))
    return folder


def _write(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def _tokenizer() -> dict[str, Any]:
    """Byte-level BPE that splits text as the shipped models do."""
    shipped = json.loads((files("glimprouter.models") / "tiny-small/tokenizer.json").read_text(encoding="utf-8"))
    plain = PIECES[: 256 + len(MERGED)]
    words = {"".join(BYTES_AS_TEXT[byte] for byte in piece): id_ for id_, piece in enumerate(plain)}
    merges = [["".join(BYTES_AS_TEXT[byte] for byte in side) for side in merge.split(b" ")] for merge in MERGES]
    added = [
        {"id": len(plain) + place, "content": text, "special": text in CONTROL}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for place, text in enumerate(CONTROL + SHOWN)
    ]
    model = shipped["model"] | {"vocab": words, "merges": merges}
    return {**shipped, "model": model, "added_tokens": added, "post_processor": None}


def _safetensors(table: Table) -> bytes:
    """A JSON header with shapes (slowest first) and places, then the values."""
    tensors = {_NAMES[name]: tensor for name, tensor in tensors_of(table).items()}
    ends = list(accumulate(len(values) * 4 for _, values in tensors.values()))
    header = {
        name: {"dtype": "F32", "shape": shape[::-1], "data_offsets": [end - len(values) * 4, end]}
        for (name, (shape, values)), end in zip(tensors.items(), ends, strict=True)
    }
    head = json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + b"".join(values.tobytes() for _, values in tensors.values())
