"""What a client reads: OpenAI's objects, whole or in chunks, with what ours adds to them."""

from __future__ import annotations

from typing import Any

import orjson

from glimprouter.config import SIDES
from glimprouter.flow.answer import Text
from glimprouter.flow.trace import Trace
from glimprouter.gateway.settings import GatewaySettings

_FINISH = {"stop": "stop", "stop_string": "stop", "length": "length"}


def finish_reason(trace: Trace) -> str:
    """Without an answer the thought has used up what was allowed."""
    return _FINISH.get(trace.answer.end, "stop") if trace.answer is not None else "length"


def written_tokens(trace: Trace) -> int:
    return trace.thought_tokens() + (len(trace.answer.ids) if trace.answer is not None else 0)


def usage_of(trace: Trace) -> dict[str, Any]:
    """`by_model` counts what each model really did, over all its calls; the rest is as if one model had written."""
    thought, all_tokens = trace.thought_tokens(), written_tokens(trace)
    by_model = {}
    for side in SIDES:
        usage = trace.usage_of(side)
        by_model[side] = {
            "prompt": usage.prompt_tokens,
            "cached": usage.cached_tokens,
            "completion": usage.new_tokens,
            "discarded": usage.discarded_tokens,
        }
    return {
        "prompt_tokens": trace.prompt_tokens,
        "completion_tokens": all_tokens,
        "total_tokens": trace.prompt_tokens + all_tokens,
        "completion_tokens_details": {"reasoning_tokens": thought},
        "by_model": by_model,
    }


def evidence_of(trace: Trace, before_router_ms: float) -> dict[str, Any]:
    return {
        "large_share": round(trace.large_token_share, 4),
        "steps": len(trace.steps),
        "engine_calls": trace.small.calls + trace.large.calls,
        "overhead_ms": round(before_router_ms, 3),
    }


def evidence_headers(evidence: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    return [
        (f"x-glimprouter-{name.replace('_', '-')}".encode(), str(value).encode()) for name, value in evidence.items()
    ]


class Form:
    """How one answer is written down. `inline` puts the thought, in tags, into the content."""

    def __init__(
        self, *, id_: str, created: int, model: str, chat: bool, settings: GatewaySettings, usage: bool
    ) -> None:
        """`usage`: whether a streamed answer ends with a chunk that holds it."""
        self._chat = chat
        self._style = settings.reasoning
        self._wants_usage = usage
        kind = "chat.completion" if chat else "text_completion"
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{id_}"
        self._fields = {"id": self._id, "created": created, "model": model}
        self._whole_kind, self._chunk_kind = kind, f"{kind}.chunk" if chat else kind
        head = orjson.dumps({**self._fields, "object": self._chunk_kind})[:-1]
        self._before = b"data: " + head + (b',"choices":[{"index":0,"delta":{' if chat else b',"choices":[{"index":0,')
        end = (b"}" if chat else b"") + b',"logprobs":null,"finish_reason":null}]'
        self._after = end + (b',"usage":null}\n\n' if usage else b"}\n\n")
        self._end = end
        names = {"both": ("reasoning_content", "reasoning"), "inline": ("content" if chat else "text",)}
        self._thought_names = names.get(self._style, (self._style,))
        self._in_thought = False

    def opening(self) -> bytes:
        return self._chunk(b'"role":"assistant","content":""' if self._chat else b'"text":""')

    def heartbeat(self) -> bytes:
        return self._chunk(b'"content":""' if self._chat else b'"text":""')

    def text(self, text: Text) -> bytes:
        if text.part == "answer":
            return self._chunk(self._answer_field() + orjson.dumps(self._closing() + text.text))
        value = orjson.dumps(self._opening_tag() + text.text)
        fields = b",".join(b'"%b":%b' % (name.encode(), value) for name in self._thought_names)
        return self._chunk(fields if self._chat or self._style == "inline" else b'"text":"",' + fields)

    def _answer_field(self) -> bytes:
        return b'"content":' if self._chat else b'"text":'

    def _opening_tag(self) -> str:
        first, self._in_thought = not self._in_thought, True
        return "<think>\n" if first and self._style == "inline" else ""

    def _closing(self) -> str:
        was, self._in_thought = self._in_thought, False
        return "\n</think>\n\n" if was and self._style == "inline" else ""

    def extension(self, value: dict[str, Any]) -> bytes:
        """A chunk that says something of ours: a step that has ended."""
        empty = b'"content":""' if self._chat else b'"text":""'
        null = b',"usage":null' if self._wants_usage else b""
        return self._before + empty + self._end + null + b',"glimprouter":' + orjson.dumps(value) + b"}\n\n"

    def _chunk(self, fields: bytes) -> bytes:
        return self._before + fields + self._after

    def ending(self, trace: Trace, extension: dict[str, Any]) -> bytes:
        """The last chunks: why it ended, what was used, and that nothing follows."""
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish_reason(trace)}
        choice["delta" if self._chat else "text"] = {} if self._chat else ""
        last = {**self._fields, "object": self._chunk_kind, "choices": [choice], "glimprouter": extension}
        chunks = [last | ({"usage": None} if self._wants_usage else {})]
        if self._wants_usage:
            chunks.append({**self._fields, "object": self._chunk_kind, "choices": [], "usage": usage_of(trace)})
        return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks) + b"data: [DONE]\n\n"

    def whole(self, trace: Trace, thought: str, answer: str, extension: dict[str, Any]) -> bytes:
        if self._style == "inline":
            answer = f"<think>\n{thought}\n</think>\n\n{answer}"
            extra = {}
        else:
            extra = dict.fromkeys(self._thought_names, thought)
        message: dict[str, Any] = (
            {"message": {"role": "assistant", "content": answer, "refusal": None, **extra}}
            if self._chat
            else {"text": answer, **extra}
        )
        choice = {"index": 0, **message, "logprobs": None, "finish_reason": finish_reason(trace)}
        return orjson.dumps(
            {
                **self._fields,
                "object": self._whole_kind,
                "choices": [choice],
                "usage": usage_of(trace),
                "glimprouter": extension,
            }
        )


def error_event(body: bytes) -> bytes:
    """After the start of a stream: the client's library raises it."""
    return b"data: " + body + b"\n\n"
