"""GGUF files that write a scheduled thought at a real model's pace: the decisions are known, the work is not a fake.

    small, large, schedule = write_paced_pair(folder)        # about 5 and 25 ms a token on one thread
    python benchmarks/paced_gguf.py FOLDER                   # writes them there and says how fast they are

Each place of the thought has a token of its own and the next token depends on the last one alone: embeddings are random
unit vectors, and a token's output row points at its predecessor's embedding. The layers add nothing (attention output
and ffn down are zero) and cost all the same, for llama.cpp reads and multiplies zeros like anything else. At the first
token of a step other tokens come as close as the scheduled entropy wants. Both models share vocabulary and schedule,
and at temperature 0 both write the same text, whoever writes which step.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.schedule import STEP_END, Schedule, make_schedule
from glimprouter.config import Sampling
from glimprouter.engines.local_gguf import LocalGguf
from glimprouter.engines.scripted import distribution
from glimprouter.flow.engine import Usage

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}{# <think> </think> #}"
)
THOUGHT_TOKENS = 880
ANSWER_TOKENS = 8
CERTAIN_LOGIT = 30.0
"""Of the next token; all others lie around 0 with a deviation of 1, for random vectors are not quite orthogonal."""

RIVALS = 7
"""Tokens that share the uncertainty of a step's first one; with it they reach ln 8 = 2.08 nats."""

NORMAL, CONTROL_TYPE, USER_DEFINED = 1, 3, 4
U32, F32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
HEAD_SIZE = 64
FLOATS: dict[str, tuple[int, npt.DTypeLike]] = {"f32": (0, np.float32), "f16": (1, np.float16)}


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model costs, in 4 (f32) or 2 (f16) bytes a weight.

    The feed-forward units of every layer but the last cost both when a token is read and when one is written. Those of
    the last cost only when one is written, for llama.cpp leaves them out for tokens whose successor nobody asks for.
    A CPU reads a prompt hardly faster than it writes; so weighted, reading is about 30 times faster, as it is on a GPU.
    """

    hidden: tuple[int, ...]
    width: int = 1024
    floats: str = "f32"


SMALL_SHAPE = Shape(hidden=(5_600,))
LARGE_SHAPE = Shape(hidden=(1_536, 31_000))


def write_paced_pair(
    folder: Path,
    *,
    thought_tokens: int = THOUGHT_TOKENS,
    answer_tokens: int = ANSWER_TOKENS,
    seed: int = 0,
    small: Shape = SMALL_SHAPE,
    large: Shape = LARGE_SHAPE,
) -> tuple[Path, Path, Schedule]:
    """Write both models of a pair; `thought_tokens` up to 6,000. The files are sparse: most of them is zeros."""
    schedule = make_schedule(thought_tokens, seed=seed)
    tokens = PacedTokens(schedule, answer_tokens)
    paths = (folder / "paced-small.gguf", folder / "paced-large.gguf")
    for path, shape in zip(paths, (small, large), strict=True):
        _write(path, tokens, shape)
    return *paths, schedule


@dataclass(slots=True)
class PacedTokens:
    """The vocabulary of a schedule, and the one order in which its tokens follow each other."""

    schedule: Schedule
    answer_tokens: int
    words: list[str] = field(default_factory=list)
    """As GGUF writes them: bytes as characters, special tokens as they are."""
    types: list[int] = field(default_factory=list)
    merges: list[str] = field(default_factory=list)
    order: list[int] = field(default_factory=list)
    """From the newline after the opening tag to the end token."""
    step_starts: list[tuple[int, float]] = field(default_factory=list)
    """For each step its first token's place in `order` and entropy (nats)."""

    def __post_init__(self) -> None:
        self.words += _byte_characters()
        newline = self._characters(b"\n")
        self._merge(newline, newline)
        syllables = ["".join(pair) for pair in itertools.product("bdfghjklmnprstvz", "aeiou")]
        for syllable in syllables:
            self._merge(*syllable)
        for syllable in syllables:
            self._merge(self._characters(b" "), syllable)
        self.types += [NORMAL] * len(self.words)
        for special, kind in (("<|im_start|>", 3), ("<|im_end|>", 3), ("<think>", 4), ("</think>", 4)):
            self._special(special, kind)
        self._lay_out(itertools.product(syllables, syllables))

    @property
    def end_id(self) -> int:
        return self.words.index("<|im_end|>")

    def _lay_out(self, pairs: Iterator[tuple[str, str]]) -> None:
        self.order.append(self.words.index(self._characters(b"\n")))
        for step in self.schedule.steps:
            self.step_starts.append((len(self.order), step.entropy_nats))
            self.order += [self._word(*next(pairs)) for _ in range(step.tokens - 1)]
            self.order.append(self._special(" " + "".join(next(pairs)) + STEP_END, USER_DEFINED))
        self.order += [self.words.index("</think>"), self.words.index(self._characters(b"\n\n"))]
        self.order += [self._word(*next(pairs)) for _ in range(self.answer_tokens)]
        self.order.append(self.end_id)

    def _characters(self, text: bytes) -> str:
        return "".join(self.words[byte] for byte in text)

    def _merge(self, left: str, right: str) -> None:
        self.merges.append(f"{left} {right}")
        self.words.append(left + right)

    def _word(self, first: str, second: str) -> int:
        self._merge(self._characters(b" ") + first, second)
        self.types.append(NORMAL)
        return len(self.words) - 1

    def _special(self, text: str, kind: int) -> int:
        self.words.append(text)
        self.types.append(kind)
        return len(self.words) - 1


def _byte_characters() -> list[str]:
    """GPT-2's way to show each byte as one visible character."""
    shown = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = itertools.count(256)
    return [chr(byte) if byte in shown else chr(next(hidden)) for byte in range(256)]


Matrix = npt.NDArray[np.float32]


def _matrices(tokens: PacedTokens, width: int) -> tuple[Matrix, Matrix]:
    """Embeddings and output rows. After the norm an embedding is sqrt(width) long, which the rows make up for."""
    embeddings = np.random.default_rng(1).standard_normal((len(tokens.words), width), dtype=np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    output = np.zeros_like(embeddings)
    for last, following in itertools.pairwise(tokens.order):
        output[following] += CERTAIN_LOGIT * embeddings[last]
    wanted = list(_step_start_logits(tokens))
    for _ in range(4):  # each correction disturbs the others a little
        for last, token, logit in wanted:
            output[token] += (logit - output[token] @ embeddings[last]) * embeddings[last]
    return embeddings, output / np.float32(math.sqrt(width))


def _step_start_logits(tokens: PacedTokens) -> Iterator[tuple[int, int, float]]:
    """What must follow what with which logit: a step's first token and its rivals, words from elsewhere."""
    places = [place for place, id_ in enumerate(tokens.order) if tokens.types[id_] == NORMAL and place > 1]
    rivals = itertools.cycle(tokens.order[place] for place in places[:: max(1, len(places) // 211)])
    for place, entropy_nats in tokens.step_starts:
        last, first = tokens.order[place - 1], tokens.order[place]
        near = {last, first, *tokens.order[place + 1 : place + 3]}
        (_, best), (_, other), *_ = distribution(-1, entropy_nats, RIVALS + 1)
        yield last, first, CERTAIN_LOGIT
        for rival in itertools.islice((one for one in rivals if one not in near), RIVALS):
            yield last, rival, CERTAIN_LOGIT + other - best


def _write(path: Path, tokens: PacedTokens, shape: Shape) -> None:
    pairs = _metadata(tokens, shape)
    embeddings, output = _matrices(tokens, shape.width)
    tensors = dict(_tensors(shape, embeddings, output))
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(pairs)) + b"".join(pairs)
    offset = 0
    for name, tensor in tensors.items():
        shape_text = struct.pack(f"<I{len(tensor.shape)}Q", len(tensor.shape), *tensor.shape)
        head += _text(name) + shape_text + struct.pack("<IQ", tensor.kind, offset)
        offset += tensor.size_bytes
    with path.open("wb") as file:
        file.write(head + bytes(-len(head) % 32))
        for tensor in tensors.values():
            if tensor.values is None:
                file.seek(tensor.size_bytes, 1)  # a hole: zeros that take no place on the disk
            else:
                file.write(tensor.values)
        file.truncate()


@dataclass(frozen=True, slots=True)
class _Tensor:
    """`shape` as GGUF has it, fastest first; `values` None means zeros."""

    shape: tuple[int, ...]
    kind: int
    size_bytes: int
    values: bytes | None = None


def _tensors(shape: Shape, embeddings: Matrix, output: Matrix) -> Iterator[tuple[str, _Tensor]]:
    kind, floats = FLOATS[shape.floats]
    itemsize = np.dtype(floats).itemsize

    def zeros(*sizes: int) -> _Tensor:
        return _Tensor(sizes, kind, math.prod(sizes) * itemsize)

    def full(matrix: Matrix) -> _Tensor:
        values = matrix.astype(floats).tobytes()
        return _Tensor(matrix.shape[::-1], kind, len(values), values)

    width, ones = shape.width, np.ones(shape.width, dtype=np.float32).tobytes()
    norm = _Tensor((width,), FLOATS["f32"][0], len(ones), ones)
    yield "token_embd.weight", full(embeddings)
    for layer, hidden in enumerate(shape.hidden):
        block = f"blk.{layer}"
        yield f"{block}.attn_norm.weight", norm
        yield f"{block}.attn_q.weight", zeros(width, width)
        yield f"{block}.attn_k.weight", zeros(width, 2 * HEAD_SIZE)
        yield f"{block}.attn_v.weight", zeros(width, 2 * HEAD_SIZE)
        yield f"{block}.attn_output.weight", zeros(width, width)
        yield f"{block}.ffn_norm.weight", norm
        yield f"{block}.ffn_gate.weight", zeros(width, hidden)
        yield f"{block}.ffn_up.weight", zeros(width, hidden)
        yield f"{block}.ffn_down.weight", zeros(hidden, width)
    yield "output_norm.weight", norm
    yield "output.weight", full(output)


def _metadata(tokens: PacedTokens, shape: Shape) -> list[bytes]:
    words, merges, types = tokens.words, tokens.merges, tokens.types
    return [
        _string("general.architecture", "deci"),
        _number("deci.block_count", len(shape.hidden)),
        _number("deci.context_length", max(2048, 2 * len(tokens.order))),
        _number("deci.embedding_length", shape.width),
        _text("deci.feed_forward_length")
        + struct.pack(f"<IIQ{len(shape.hidden)}I", ARRAY, U32, len(shape.hidden), *shape.hidden),
        _number("deci.attention.head_count", shape.width // HEAD_SIZE),
        _number("deci.attention.head_count_kv", 2),
        _text("deci.attention.layer_norm_rms_epsilon") + struct.pack("<If", F32, 1e-12),
        _string("tokenizer.ggml.model", "gpt2"),
        _string("tokenizer.ggml.pre", "qwen2"),
        _text("tokenizer.ggml.tokens") + struct.pack("<IIQ", ARRAY, STRING, len(words)) + b"".join(map(_text, words)),
        _text("tokenizer.ggml.token_type") + struct.pack(f"<IIQ{len(types)}i", ARRAY, 5, len(types), *types),
        _text("tokenizer.ggml.merges") + struct.pack("<IIQ", ARRAY, STRING, len(merges)) + b"".join(map(_text, merges)),
        _number("tokenizer.ggml.eos_token_id", tokens.end_id),
        _text("tokenizer.ggml.add_bos_token") + struct.pack("<I?", BOOL, False),
        _string("tokenizer.chat_template", CHAT_TEMPLATE),
    ]


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _string(key: str, value: str) -> bytes:
    return _text(key) + struct.pack("<I", STRING) + _text(value)


def _number(key: str, value: int) -> bytes:
    return _text(key) + struct.pack("<II", U32, value)


async def token_ms(path: Path, *, tokens: int, rounds: int) -> tuple[float, float]:
    """Milliseconds of a token streamed with 20 logprobs, and of a prompt token read in a batch; the best of rounds."""
    engine = await LocalGguf.start(path)
    try:
        ids = await engine.encode("<think>\n", special=True)
        sampling = Sampling(temperature=0.0)
        writing, reading = [], []
        loop = asyncio.get_running_loop()
        for number in range(rounds):
            async with engine.generate(ids, sampling, max_tokens=tokens, top=20, usage=Usage()) as stream:
                times = [loop.time() async for _ in stream]
            writing.append((times[tokens - 1] - times[0]) * 1000 / (tokens - 1))
            prompt = [number, *range(100, 356)]
            begun = loop.time()
            await engine.prefill(prompt)
            reading.append((loop.time() - begun) * 1000 / len(prompt))
        return min(writing), min(reading)
    finally:
        await engine.close()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--thought-tokens", type=int, default=THOUGHT_TOKENS)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    *paths, schedule = write_paced_pair(options.folder, thought_tokens=options.thought_tokens)
    print(f"{len(schedule.steps)} steps, {schedule.tokens} tokens, {schedule.large_share_of_steps:.0%} large steps")
    for path in paths:
        written_ms, read_ms = await token_ms(path, tokens=40, rounds=5)
        print(f"{path}: {written_ms:.2f} ms a token written, {read_ms:.2f} ms a token read")


if __name__ == "__main__":
    asyncio.run(main())
