"""A fake of SGLang's native routes, written from its source (0.5.23)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from tests.engines.bigram_gguf import END
from tests.engines.fake_model import Behaviour, Bigram, Said, Wire, speak, whole

MODEL = "fake"

BLOCK_TOKENS = 16
"""Prefixes are cached in whole blocks."""


class SglangSpeech:
    """Every event says everything from the start again, unless the server was started to say only what is new."""

    def __init__(self, asked: dict[str, Any], model: Bigram, *, incremental: bool = False) -> None:
        self._asked = asked
        self._incremental = incremental
        self._prompt_tokens = len(asked["input_ids"])
        self._cached = model.cached_tokens(asked["input_ids"]) // BLOCK_TOKENS * BLOCK_TOKENS
        self._said: list[Said] = []

    def event(self, said: Sequence[Said], finish: str | None = None) -> dict[str, Any]:
        self._said += said
        shown = list(said) if self._incremental else self._said
        meta: dict[str, Any] = {
            "id": "1",
            "finish_reason": None if finish is None else self._finish(finish),
            "prompt_tokens": self._prompt_tokens,
            "cached_tokens": self._cached,
            "completion_tokens": len(self._said),
        }
        if self._asked.get("return_logprob"):
            meta["output_token_logprobs"] = [[one.logprob, one.id, None] for one in shown]
            meta["output_top_logprobs"] = [[[value, id_, None] for id_, value in one.top] for one in shown]
        text = "".join(one.text for one in shown)
        return {"text": text, "output_ids": [one.id for one in shown], "meta_info": meta}

    def closing(self) -> list[dict[str, Any]]:
        return []

    def whole(self, said: Sequence[Said], finish: str) -> dict[str, Any]:
        return self.event(said, finish)

    def failure(self, message: str) -> dict[str, Any]:
        return {"error": {"message": message}}

    def _finish(self, finish: str) -> dict[str, Any]:
        told = {"stop": {"matched": END}, "length": {"length": len(self._said)}}
        return {"type": finish, **told.get(finish, {})}


def sglang_app(
    model: Bigram,
    behave: Behaviour | None = None,
    *,
    scaled: bool = False,
    incremental: bool = False,
    seeds: bool = True,
    seen: list[tuple[dict[str, Any], Mapping[str, str]]] | None = None,
) -> web.Application:
    """`scaled`: log-probabilities are of the distribution after the temperature, as they are by default."""

    async def models(request: web.Request) -> web.Response:
        entry = {"id": MODEL, "object": "model", "owned_by": "sglang", "max_model_len": model.context_tokens}
        return web.json_response({"object": "list", "data": [entry]})

    async def info(request: web.Request) -> web.Response:
        return web.json_response({"model_path": "/nowhere/fake", "tokenizer_path": "/nowhere/fake"})

    async def server(request: web.Request) -> web.Response:
        return web.json_response({"model_path": "/nowhere/fake", "incremental_streaming_output": incremental})

    async def generate(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if seen is not None:
            seen.append((asked, request.headers))
        sampling = asked["sampling_params"]
        length, most = len(asked["input_ids"]), model.context_tokens
        if length >= most:
            said = f"The input ({length} tokens) is longer than the model's context length ({most} tokens)."
            return web.json_response({"error": {"message": said}}, status=400)
        if not seeds and "sampling_seed" in sampling:
            said = "SamplingParams.__init__() got an unexpected keyword argument 'sampling_seed'"
            return web.json_response({"error": {"message": said}}, status=400)
        speech = SglangSpeech(asked, model, incremental=incremental)
        scale = sampling["temperature"] if scaled and sampling["temperature"] > 0 else 1.0
        top = asked.get("top_logprobs_num", 0) if asked.get("return_logprob") else 0
        ways = {"max_tokens": sampling["max_new_tokens"], "top": top, "scale": scale}
        if not asked.get("stream"):
            return web.json_response(whole(speech, model, asked["input_ids"], **ways))
        wire = Wire(request, speech)
        await (behave(wire) if behave else speak(wire, model, asked["input_ids"], **ways))
        return wire.reply

    app = web.Application(client_max_size=2**26)
    app.router.add_get("/v1/models", models)
    app.router.add_get("/model_info", info)
    app.router.add_get("/server_info", server)
    app.router.add_post("/generate", generate)
    return app
