"""The price of the open stream: what a vLLM server gives up for log-probabilities on every streamed token.

    python -m benchmarks.logprobs [--rounds 5] [--batches 1,16,64] [--tokens 96] [--width 64]

A probe costs no request because the small model's stream carries its k most likely tokens all the time. Here the same
streams are read with 0, 5 and 20 of them, in turn, from one server whose model has the vocabulary of Qwen3 (151,936)
and random weights. The bodies are those that the router sends; replies are read and thrown away, since what reading
costs is in `overhead.py`. The model is as narrow as a model can be, so nearly all of its time is the vocabulary's: the
ratios are the worst case, and the milliseconds a step, which hardly hang on the width, are what a real model adds.

Needs the environment that `make test-vllm` makes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import statistics
import string
import struct
import sys
import time
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import numpy
import orjson
import uvloop

from benchmarks.report import key_values, save, table
from glimprouter.config import Sampling
from glimprouter.engines.dialects import Draw
from glimprouter.engines.dialects.vllm import vllm
from glimprouter.pair import TINY_SMALL
from tests.vllm.job import vllm_python
from tests.vllm.server import VllmServer

VOCABULARY = 151_936
TOPS = (0, 5, 20)
PROMPT_TOKENS = 32
CONTEXT_TOKENS = 1024
NAME = "wide-vocabulary"
HEAD = 32
FREE = Sampling(temperature=1.0, top_p=1.0)
SEED = 20260
IN_A_PROCESS_OF_ITS_OWN = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
"""vLLM's default: the engine computes on while the server writes JSON."""


# The model -----------------------------------------------------------------------------------------------------------


def write_model(folder: Path, width: int) -> Path:
    """One layer of Qwen3's architecture with random weights; its tokenizer is the tiny pair's, padded with words."""
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": HEAD,
        "max_position_embeddings": CONTEXT_TOKENS,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
        "tie_word_embeddings": True,
        "vocab_size": VOCABULARY,
        "eos_token_id": 637,
        "dtype": "float32",
    }
    shipped = files("glimprouter.models") / TINY_SMALL
    tokenizer = json.loads((shipped / "tokenizer.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / "tokenizer.json").write_text(json.dumps(padded(tokenizer)), encoding="utf-8")
    settings = (shipped / "tokenizer_config.json").read_text(encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(settings, encoding="utf-8")
    write_weights(folder / "model.safetensors", shapes(width))
    return folder


def padded(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """With words of four letters up to the vocabulary's size, which no merge makes but any id decodes to."""
    words: dict[str, int] = tokenizer["model"]["vocab"]
    taken = {*words.values(), *(token["id"] for token in tokenizer["added_tokens"])}
    free = (id_ for id_ in range(VOCABULARY) if id_ not in taken)
    made = ("".join(letters) for letters in itertools.product(string.ascii_lowercase, repeat=4))
    fresh = (word for word in (f"\u0120{letters}" for letters in made) if word not in words)  # byte-level BPE's space
    words |= dict(zip(list(fresh), free, strict=False))
    return tokenizer


def shapes(width: int) -> dict[str, tuple[int, ...]]:
    layer = "model.layers.0."
    return {
        "model.embed_tokens.weight": (VOCABULARY, width),
        f"{layer}input_layernorm.weight": (width,),
        f"{layer}self_attn.q_proj.weight": (2 * HEAD, width),
        f"{layer}self_attn.k_proj.weight": (HEAD, width),
        f"{layer}self_attn.v_proj.weight": (HEAD, width),
        f"{layer}self_attn.o_proj.weight": (width, 2 * HEAD),
        f"{layer}self_attn.q_norm.weight": (HEAD,),
        f"{layer}self_attn.k_norm.weight": (HEAD,),
        f"{layer}post_attention_layernorm.weight": (width,),
        f"{layer}mlp.gate_proj.weight": (2 * width, width),
        f"{layer}mlp.up_proj.weight": (2 * width, width),
        f"{layer}mlp.down_proj.weight": (width, 2 * width),
        "model.norm.weight": (width,),
    }


def write_weights(path: Path, tensors: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of random values: norms are ones, the rest small enough that tokens are drawn far and wide."""
    header, end = {}, 0
    for name, shape in tensors.items():
        start, end = end, end + 4 * int(numpy.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    rng = numpy.random.default_rng(SEED)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        for name, shape in tensors.items():
            values = numpy.ones(shape) if "norm" in name else rng.normal(0, 0.3, shape)
            file.write(values.astype("<f4").tobytes())


# The streams ---------------------------------------------------------------------------------------------------------


def body(top: int, tokens: int, rng: random.Random) -> bytes:
    """What the router sends for an open stream; each has a prompt of its own, and no chance end token ends it."""
    ids = [rng.randrange(VOCABULARY) for _ in range(PROMPT_TOKENS)]
    dialect = vllm(NAME, CONTEXT_TOKENS, priorities=False)
    asked = dialect.generate.body(Draw(ids, FREE, tokens, top))
    return orjson.dumps({**(asked or {}), "ignore_eos": True})


async def read(session: aiohttp.ClientSession, url: str, data: bytes) -> int:
    """Read a stream to its end and give its size in bytes."""
    size = 0
    last = b""
    async with session.post(f"{url}/v1/completions", data=data) as response:
        response.raise_for_status()
        async for chunk in response.content.iter_any():
            size += len(chunk)
            last = (last + chunk)[-64:]
    if not last.rstrip().endswith(b"data: [DONE]") or b'"error"' in last:
        raise RuntimeError(f"a stream did not end as it should: {last!r}")
    return size


async def timed(session: aiohttp.ClientSession, url: str, *, batch: int, top: int, tokens: int) -> tuple[float, float]:
    """Tokens a second of `batch` streams at once, and bytes a token."""
    rng = random.Random(f"{batch} {top} {time.perf_counter_ns()}")
    bodies = [body(top, tokens, rng) for _ in range(batch)]
    begun = time.perf_counter()
    sizes = await asyncio.gather(*(read(session, url, data) for data in bodies))
    return batch * tokens / (time.perf_counter() - begun), sum(sizes) / (batch * tokens)


async def measure(url: str, *, batches: list[int], rounds: int, tokens: int) -> list[dict[str, Any]]:
    """Per batch and number of log-probabilities: tokens a second of every round, the three numbers in turn."""
    speeds: dict[tuple[int, int], list[float]] = {(batch, top): [] for batch in batches for top in TOPS}
    sizes: dict[tuple[int, int], float] = {}
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), headers=headers) as session:
        for number in range(rounds + 1):  # the first warms up
            for batch in batches:
                turn = number % len(TOPS)
                for top in TOPS[turn:] + TOPS[:turn]:
                    speed, sizes[batch, top] = await timed(session, url, batch=batch, top=top, tokens=tokens)
                    if number:
                        speeds[batch, top].append(speed)
    return [figures(batch, top, speeds, sizes) for batch in batches for top in TOPS]


def figures(
    batch: int, top: int, speeds: dict[tuple[int, int], list[float]], sizes: dict[tuple[int, int], float]
) -> dict[str, Any]:
    """Ratios are of rounds side by side, so that what slows a whole round cancels out."""
    ratios = [with_them / without for with_them, without in zip(speeds[batch, top], speeds[batch, 0], strict=True)]
    speed = statistics.median(speeds[batch, top])
    return {
        "batch": batch,
        "top": top,
        "tokens_per_s": speed,
        "tokens_per_s_rounds": speeds[batch, top],
        "step_ms": 1000 * batch / speed,
        "bytes_per_token": sizes[batch, top],
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "ratio_highest": max(ratios),
    }


async def server_version(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/version") as response:
        return str((await response.json())["version"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", default="1,16,64", help="numbers of streams at once, with commas")
    parser.add_argument("--tokens", type=int, default=96, help="that each stream writes")
    parser.add_argument("--width", type=int, default=64, help="of the model's hidden state")
    options = parser.parse_args()
    python = vllm_python()
    if python is None:
        sys.exit("vLLM is not there: `make test-vllm` sets it up")
    batches = [int(batch) for batch in options.batches.split(",")]
    with TemporaryDirectory() as folder:
        server = VllmServer(
            write_model(Path(folder), options.width),
            name=NAME,
            context_tokens=CONTEXT_TOKENS,
            python=str(python),
            environment=IN_A_PROCESS_OF_ITS_OWN,
        )
        try:
            server.wait()
            rows = uvloop.run(measure(server.url, batches=batches, rounds=options.rounds, tokens=options.tokens))
            version = uvloop.run(server_version(server.url))
        finally:
            server.stop()
    settings = {"vllm": version, "vocabulary": VOCABULARY, "width": options.width, "tokens": options.tokens}
    save("logprobs", settings | {"rounds": options.rounds, "rows": rows})
    header = ["streams", "logprobs", "tokens/s", "ms a step", "bytes a token", "ratio", "lowest", "highest"]
    columns = ("batch", "top", "tokens_per_s", "step_ms", "bytes_per_token", "ratio", "ratio_lowest", "ratio_highest")
    print(table(header, [[row[column] for column in columns] for row in rows]))
    ratios = {f"ratio{row['top']}_batch{row['batch']}": row["ratio"] for row in rows if row["top"]}
    print(key_values(vocabulary=VOCABULARY, rounds=options.rounds, **ratios))


if __name__ == "__main__":
    main()
