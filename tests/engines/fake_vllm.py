"""A fake of vLLM's OpenAI server; its words were copied down from 0.32.0."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.engines.fake_model import Behaviour, Bigram, Said, Wire, speak, whole

MODEL = "fake"
BLOCK_TOKENS = 16
"""Prefixes are cached in whole blocks."""


class VllmSpeech:
    def __init__(self, asked: dict[str, Any], model: Bigram) -> None:
        self._asked = asked
        self._prompt_tokens = len(asked["prompt"])
        self._cached = model.cached_tokens(asked["prompt"]) // BLOCK_TOKENS * BLOCK_TOKENS
        self._drawn = 0

    def event(self, said: Sequence[Said], finish: str | None = None) -> dict[str, Any]:
        self._drawn += len(said)
        return {"choices": [self._choice(said, finish)], "usage": self._usage(details=False)}

    def closing(self) -> list[dict[str, Any]]:
        return [{"choices": [], "usage": self._usage(details=True)}]

    def whole(self, said: Sequence[Said], finish: str) -> dict[str, Any]:
        self._drawn += len(said)
        return {"choices": [self._choice(said, finish)], "usage": self._usage(details=True)}

    def failure(self, message: str) -> dict[str, Any]:
        return {"error": {"message": message, "type": "InternalServerError", "param": None, "code": 500}}

    def _choice(self, said: Sequence[Said], finish: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": 0,
            "text": "".join(one.text for one in said),
            "logprobs": None,
            "finish_reason": finish,
            "stop_reason": None,
            "token_ids": [one.id for one in said],
        }
        if self._asked.get("logprobs"):
            choice["logprobs"] = {
                "text_offset": [0] * len(said),
                "token_logprobs": [one.logprob for one in said],
                "tokens": [f"token_id:{one.id}" for one in said],
                "top_logprobs": [self._top(one) for one in said],
            }
        return choice

    def _top(self, said: Said) -> dict[str, float]:
        """The token drawn comes first, wherever it stands among the best."""
        return {f"token_id:{id_}": value for id_, value in ((said.id, said.logprob), *said.top)}

    def _usage(self, *, details: bool) -> dict[str, Any]:
        usage: dict[str, Any] = {"prompt_tokens": self._prompt_tokens, "completion_tokens": self._drawn}
        return usage | ({"prompt_tokens_details": {"cached_tokens": self._cached}} if details else {})


@dataclass
class VllmHost:
    """`behave` takes the place of streaming; `seen` collects what completions were asked for, and the headers."""

    model: Bigram
    behave: Behaviour | None = None
    max_logprobs: int = 20
    priorities: bool = True
    tokenizes: bool = True
    token_ids: bool = True
    seen: list[tuple[dict[str, Any], Mapping[str, str]]] = field(default_factory=list)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=2**26)
        app.router.add_get("/v1/models", self.models)
        app.router.add_post("/v1/completions", self.completions)
        if self.tokenizes:
            app.router.add_post("/tokenize", self.tokenize)
            app.router.add_post("/detokenize", self.detokenize)
        return app

    async def models(self, request: web.Request) -> web.Response:
        entry = {"id": MODEL, "object": "model", "owned_by": "vllm", "max_model_len": self.model.context_tokens}
        return web.json_response({"object": "list", "data": [entry]})

    async def tokenize(self, request: web.Request) -> web.Response:
        asked = await request.json()
        text = self.model.render(asked["messages"]) if "messages" in asked else asked["prompt"]
        ids = self.model.encode(text)
        return web.json_response({"count": len(ids), "max_model_len": self.model.context_tokens, "tokens": ids})

    async def detokenize(self, request: web.Request) -> web.Response:
        return web.json_response({"prompt": self.model.decode((await request.json())["tokens"])})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        self.seen.append((asked, request.headers))
        if isinstance(asked["prompt"], str):
            asked["prompt"] = self.model.encode(asked["prompt"])
        problem = self.refusal(asked)
        if problem:
            error = {"message": problem, "type": "BadRequestError", "param": None, "code": 400}
            return web.json_response({"error": error}, status=400)
        speech = VllmSpeech(asked, self.model)
        ways = {"max_tokens": asked["max_tokens"], "top": asked.get("logprobs") or 0, "scale": 1.0}
        if not asked.get("stream"):
            reply = whole(speech, self.model, asked["prompt"], **ways)
            if not self.token_ids:
                del reply["choices"][0]["token_ids"]
            return web.json_response(reply)
        wire = Wire(request, speech)
        await (self.behave(wire) if self.behave else speak(wire, self.model, asked["prompt"], **ways))
        return wire.reply

    def refusal(self, asked: dict[str, Any]) -> str:
        if (asked.get("logprobs") or 0) > self.max_logprobs:
            asks = asked["logprobs"]
            return f"Requested sample logprobs of {asks}, which is greater than max allowed: {self.max_logprobs}"
        if "priority" in asked and not self.priorities:
            return f"Got priority {asked['priority']} but Priority scheduling is not enabled."
        length, most = len(asked["prompt"]), self.model.context_tokens
        if length > most:
            return (
                f"This model's maximum context length is {most} tokens. However, your prompt contains {length} input "
                "tokens, which exceeds this limit even without any output tokens."
            )
        return ""
