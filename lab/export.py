"""From a trained checkpoint to the files that ship: GGUF for llama.cpp, a Hugging Face folder for everything else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from lab.model import CONTEXT_TOKENS, RECIPES, RMS_EPSILON, ROPE_THETA, Shape, build
from lab.tokenizer import CHAT_TEMPLATE, CONTROL, TAGS, id_of

_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{_LAYER_NAMES[rest.removesuffix('.weight')]}.weight"


def write_gguf(path: Path, state: dict[str, Any], shape: Shape, tokenizer: Tokenizer, *, name: str, half: bool) -> None:
    """`half`: matrices in half precision, norms in full. `state` is a Qwen3ForCausalLM's, with tied embeddings."""
    import gguf

    writer = gguf.GGUFWriter(str(path), "qwen3")
    writer.add_name(name)
    writer.add_license("apache-2.0")
    writer.add_context_length(CONTEXT_TOKENS)
    writer.add_embedding_length(shape.hidden)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(RMS_EPSILON)
    writer.add_rope_freq_base(ROPE_THETA)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if half else gguf.LlamaFileType.ALL_F32)

    size = tokenizer.get_vocab_size()
    tokens = [tokenizer.id_to_token(index) for index in range(size)]
    kinds = [
        gguf.TokenType.CONTROL if t in CONTROL else gguf.TokenType.USER_DEFINED if t in TAGS else gguf.TokenType.NORMAL
        for t in tokens
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]])
    writer.add_eos_token_id(id_of(tokenizer, "<|im_end|>"))
    writer.add_pad_token_id(id_of(tokenizer, "<|endoftext|>"))
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)

    for key, tensor in state.items():
        if key == "lm_head.weight":
            continue
        array = tensor.float().cpu().numpy()
        writer.add_tensor(_gguf_name(key), array.astype(np.float16 if half and array.ndim == 2 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_transformers(folder: Path, model: Any, tokenizer: Tokenizer) -> None:
    """A folder that transformers and vLLM load: safetensors in half precision, config, tokenizer, template."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    half = type(model)(model.config)
    half.load_state_dict(model.state_dict())
    half.to(torch.float16).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": CONTEXT_TOKENS,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")


def export_pair(checkpoints: Path, target: Path, tokenizer: Tokenizer) -> None:
    """GGUF files and Hugging Face folders of the pair and of the small model's early checkpoint."""
    import torch

    for name, recipe_name, shipped in (
        ("small", "small", "tiny-small"),
        ("small-early", "small", "tiny-weak"),
        ("large", "large", "tiny-large"),
    ):
        shape = RECIPES[recipe_name].shape
        model = build(shape, tokenizer.get_vocab_size(), id_of(tokenizer, "<|im_end|>"))
        saved = torch.load(checkpoints / f"{name}.pt", weights_only=True, map_location="cpu")
        model.load_state_dict(saved["model"])
        # llama.cpp reads both forms of the large one at the same speed and writes the half one a third faster, which
        # leaves it too little slower than the small one to stand for a real pair.
        half = name != "large"
        write_gguf(target / f"{shipped}.gguf", model.state_dict(), shape, tokenizer, name=shipped, half=half)
        write_transformers(target / shipped, model, tokenizer)
