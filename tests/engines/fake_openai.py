"""A fake of a host that speaks OpenAI's language and takes no ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from aiohttp import web

from tests.engines.bigram_gguf import END, PIECES
from tests.engines.fake_model import Behaviour, Bigram, Said, Wire, speak, whole

MODEL = "fake"


class OpenaiSpeech:
    """Of the completions route, or of the chat route where `asked` has messages."""

    def __init__(self, asked: dict[str, Any], model: Bigram) -> None:
        self._asked = asked
        self._chat = "messages" in asked
        self._prompt_tokens = len(asked["ids"])
        self._cached = model.cached_tokens(asked["ids"])

    def event(self, said: Sequence[Said], finish: str | None = None) -> dict[str, Any]:
        return {"choices": [self._choice(said, finish, "delta")]}

    def closing(self) -> list[dict[str, Any]]:
        return [{"choices": [], "usage": self._usage()}]

    def whole(self, said: Sequence[Said], finish: str) -> dict[str, Any]:
        return {"choices": [self._choice(said, finish, "message")], "usage": self._usage()}

    def failure(self, message: str) -> dict[str, Any]:
        return {"error": {"message": message, "type": "server_error", "code": None}}

    def _usage(self) -> dict[str, Any]:
        return {"prompt_tokens": self._prompt_tokens, "prompt_tokens_details": {"cached_tokens": self._cached}}

    def _choice(self, said: Sequence[Said], finish: str | None, slot: str) -> dict[str, Any]:
        said = [one for one in said if one.id != END]
        text = "".join(one.text for one in said)
        choice: dict[str, Any] = {"index": 0, "finish_reason": finish, "logprobs": None}
        choice |= {slot: {"content": text}} if self._chat else {"text": text}
        if self._asked.get("logprobs"):
            choice["logprobs"] = self._chat_logprobs(said) if self._chat else self._logprobs(said)
        return choice

    def _logprobs(self, said: Sequence[Said]) -> dict[str, Any]:
        return {
            "tokens": [one.text for one in said],
            "token_logprobs": [one.logprob for one in said],
            "top_logprobs": [{_shown(id_): value for id_, value in reversed(one.top)} for one in said],
        }

    def _chat_logprobs(self, said: Sequence[Said]) -> dict[str, Any]:
        def entry(text: str, value: float) -> dict[str, Any]:
            return {"token": text, "logprob": value, "bytes": list(text.encode())}

        content = [
            entry(one.text, one.logprob) | {"top_logprobs": [entry(_shown(id_), value) for id_, value in one.top]}
            for one in said
        ]
        return {"content": content}


def _shown(id_: int) -> str:
    return PIECES[id_].decode(errors="replace")


def openai_app(
    model: Bigram,
    behave: Behaviour | None = None,
    *,
    logprobs: bool = True,
    streams: bool = True,
    continues: bool = True,
    seen: list[tuple[dict[str, Any], Mapping[str, str]]] | None = None,
) -> web.Application:
    """`logprobs`, `streams`, `continues` (the assistant's turn): what the host can do."""

    async def models(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "us"}]})

    async def completions(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        if not isinstance(asked["prompt"], str):
            return web.json_response({"error": {"message": "prompt must be a string"}}, status=422)
        return await answer(request, asked | {"ids": model.encode(asked["prompt"])})

    async def chat(request: web.Request) -> web.StreamResponse:
        asked = await request.json()
        messages = list(asked["messages"])
        begun = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
        prompt = model.render(messages) if messages else ""
        return await answer(request, asked | {"ids": model.encode(prompt + (begun if continues else ""))})

    async def answer(request: web.Request, asked: dict[str, Any]) -> web.StreamResponse:
        if seen is not None:
            seen.append((asked, request.headers))
        if len(asked["ids"]) >= model.context_tokens:
            said = (
                f"This model's maximum context length is {model.context_tokens} tokens, yours are {len(asked['ids'])}"
            )
            error = {"message": said, "type": "invalid_request_error", "code": "context_length_exceeded"}
            return web.json_response({"error": error}, status=400)
        if not logprobs:
            asked["logprobs"] = None
        speech = OpenaiSpeech(asked, model)
        top = 0 if not asked.get("logprobs") else asked.get("top_logprobs", asked["logprobs"])
        ways = {"max_tokens": asked["max_tokens"], "top": int(top), "scale": 1.0}
        if not asked.get("stream") or not streams:
            return web.json_response(whole(speech, model, asked["ids"], **ways))
        wire = Wire(request, speech)
        await (behave(wire) if behave else speak(wire, model, asked["ids"], **ways))
        return wire.reply

    app = web.Application(client_max_size=2**26)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/completions", completions)
    app.router.add_post("/v1/chat/completions", chat)
    return app
