"""OpenAI's request to ours: every field is honoured, passed on with the whole request, or refused by name."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import msgspec
from msgspec import Struct

from glimprouter.config import Config, Routing, Side
from glimprouter.errors import ConfigError, RequestError
from glimprouter.flow.engine import Message
from glimprouter.flow.request import Request
from glimprouter.gateway.aliases import Target, target_of
from glimprouter.gateway.errors import ApiError, refused
from glimprouter.gateway.fields import CHAT, COMPLETION, ROUTING, Field
from glimprouter.policies import check_policy

MOST_STOPS = 16
MOST_TOOLS = 128
MOST_REPLIES = 8
MOST_TOP_LOGPROBS = 20
MOST_TOKENS = 10**7
SAMPLING = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "seed")

_AT = re.compile(r" - at `\$\.?(.*?)`$")


class Part(Struct):
    type: str
    text: str | None = None


class ToolCall(Struct):
    """Looked at only for being an object; the model's server checks the rest."""


class ChatMessage(Struct, forbid_unknown_fields=True):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None


class StreamOptions(Struct, forbid_unknown_fields=True):
    include_usage: bool = False
    include_obfuscation: bool = False


class RoutingBody(Struct, forbid_unknown_fields=True):
    threshold: float | None = None
    policy: str | None = None
    answer_by: Side | None = None
    first_large_steps: int | None = None
    max_thinking_tokens: int | None = None
    deadline_ms: float | None = None
    trace: bool = False


class Common(Struct, forbid_unknown_fields=True, kw_only=True):
    """What both routes honour. Bounds of the sampling fields are `config.Sampling`'s."""

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    max_tokens: int | None = None
    user: str | None = None
    metadata: dict[str, Any] | None = None
    safety_identifier: str | None = None
    glimprouter: RoutingBody | None = None


class ChatBody(Common, kw_only=True):
    messages: list[ChatMessage]
    max_completion_tokens: int | None = None


class CompletionBody(Common, kw_only=True):
    prompt: str | list[str]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request understood. `max_tokens` bounds thought and answer together. With `passed`, the body to pass on, there
    is no `request`: it goes to the server of `passed_to`."""

    model: str
    target: Target
    stream: bool
    include_usage: bool
    request: Request | None = None
    max_tokens: int | None = None
    deadline_ms: float | None = None
    trace: bool = False
    passed: dict[str, Any] | None = None
    passed_for: str = ""

    @property
    def passed_to(self) -> Side:
        return self.target.passed_to


B = TypeVar("B", bound=Common)


def chat_asked(data: dict[str, Any], config: Config) -> Asked:
    """Raises ApiError, naming the field."""
    data, passed = _sorted(data, CHAT)
    body = _converted({key: value for key, value in data.items() if key not in passed}, ChatBody)
    if not passed and (param := _tool_turn(body.messages)):
        passed = {param: None}
    if passed:
        return _passed(data, body, config, next(iter(passed)))
    messages = tuple(_message(one, f"messages[{index}]") for index, one in enumerate(body.messages))
    return _routed(body, messages, config, _budget(body.max_completion_tokens, body.max_tokens))


def completion_asked(data: dict[str, Any], config: Config) -> Asked:
    """Raises ApiError, naming the field."""
    data, _ = _sorted(data, COMPLETION)
    body = _converted(data, CompletionBody)
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    if len(prompts) != 1:
        raise refused("prompt must be one text; ask once for each", "prompt")
    _check_text(prompts[0], "prompt")
    return _routed(body, ({"role": "user", "content": prompts[0]},), config, _budget(None, body.max_tokens))


def _sorted(
    data: dict[str, Any], table: Mapping[str, Field], prefix: str = ""
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What of a body says something, and what of that one model alone can do."""
    kept, passed = {}, {}
    for key, value in data.items():
        field = table.get(key)
        if field is None:
            raise refused(
                "unknown field; docs/gateway.md lists those there are", f"{prefix}{key[:64]}", code="unknown_field"
            )
        if value is None or (field.outcome != "honoured" and _is_idle(value, field)):
            continue
        if field.outcome == "refused":
            raise refused(f"{prefix}{key} is not taken: {field.note}", f"{prefix}{key}", code="unsupported_field")
        kept[key] = value
        if field.outcome == "passed":
            passed[key] = value
    return kept, passed


def _is_idle(value: Any, field: Field) -> bool:
    return any(value == idle and isinstance(value, bool) == isinstance(idle, bool) for idle in field.idle)


def _converted(data: dict[str, Any], kind: type[B]) -> B:
    routing = data.get("glimprouter")
    if isinstance(routing, dict):
        data = {**data, "glimprouter": _sorted(routing, ROUTING, "glimprouter.")[0]}
    try:
        return msgspec.convert(data, kind, strict=True)
    except msgspec.ValidationError as error:
        text = str(error)
        at = _AT.search(text)
        missing = re.search(r"missing required field `(\w+)`", text) or re.search(r"unknown field `(\w+)`", text)
        places = [at[1] if at else "", missing[1] if missing else ""]
        raise refused(_AT.sub("", text), ".".join(filter(None, places)) or None) from None


def _routed(body: Common, messages: tuple[Message, ...], config: Config, max_tokens: int | None) -> Asked:
    target = target_of(body.model, config.routing)
    asked = body.glimprouter or RoutingBody()
    given = {name: value for name in SAMPLING if (value := getattr(body, name)) is not None}
    given.setdefault("seed", secrets.randbelow(2**31))
    try:
        request = Request(
            messages,
            _routing(target.routing, asked, max_tokens),
            replace(config.sampling, **given),
            _stops(body.stop),
        )
    except ConfigError as error:
        raise refused(str(error), error.field) from None
    except RequestError as error:
        raise refused(str(error), error.field if error.field != "question" else "messages") from None
    return Asked(
        body.model,
        target,
        body.stream,
        _wants_usage(body),
        request,
        max_tokens=max_tokens,
        deadline_ms=_deadline(asked.deadline_ms),
        trace=asked.trace,
    )


def _routing(base: Routing, asked: RoutingBody, max_tokens: int | None) -> Routing:
    changes: dict[str, Any] = {
        name: value
        for name in ("threshold", "policy", "answer_by", "first_large_steps")
        if (value := getattr(asked, name)) is not None
    }
    try:
        if asked.policy is not None:
            check_policy(asked.policy)
        budgets = [base.max_thinking_tokens]
        if asked.max_thinking_tokens is not None:
            replace(base, max_thinking_tokens=asked.max_thinking_tokens)  # for its bounds
            budgets.append(asked.max_thinking_tokens)
        if max_tokens is not None:
            budgets.append(max_tokens)
        return replace(base, max_thinking_tokens=min(budgets), **changes)
    except ConfigError as error:
        raise refused(str(error), f"glimprouter.{error.field}") from None


def _passed(data: dict[str, Any], body: ChatBody, config: Config, field: str) -> Asked:
    """The body for one model's own server: fields of the table alone, and nothing that is ours or the caller's own."""
    target = target_of(body.model, config.routing)
    if body.glimprouter is not None:
        raise refused(f"{field} leaves this answer to one model, which is not routed", "glimprouter")
    _check_passed(data)
    ours = ("glimprouter", "user", "metadata", "safety_identifier")
    kept = {key: value for key, value in data.items() if key not in ours}
    return Asked(body.model, target, body.stream, _wants_usage(body), passed=kept, passed_for=field)


def _check_passed(data: Mapping[str, Any]) -> None:
    for name, kind, low, high in (("n", int, 1, MOST_REPLIES), ("top_logprobs", int, 0, MOST_TOP_LOGPROBS)):
        value = data.get(name)
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool) or not low <= value <= high):
            raise refused(f"{name} must be a whole number from {low} to {high}", name)
    tools = data.get("tools", [])
    if not isinstance(tools, list) or len(tools) > MOST_TOOLS or not all(isinstance(tool, dict) for tool in tools):
        raise refused(f"tools must be a list of up to {MOST_TOOLS} objects", "tools")
    if not isinstance(data.get("response_format", {}), dict):
        raise refused("response_format must be an object", "response_format")
    if not isinstance(data.get("logprobs", True), bool):
        raise refused("logprobs must be true or false", "logprobs")
    _budget(data.get("max_completion_tokens"), data.get("max_tokens"))
    _stops(data.get("stop"))


def _tool_turn(messages: list[ChatMessage]) -> str:
    """The field by which a conversation needs one model for itself, if there is one."""
    for index, one in enumerate(messages):
        if one.role == "tool" or one.tool_calls or one.tool_call_id or one.name:
            return f"messages[{index}]"
    return ""


def _message(one: ChatMessage, param: str) -> Message:
    """Earlier thoughts (`reasoning_content`, `reasoning`) are left out, as models' templates do."""
    content = one.content
    if isinstance(content, list):
        for index, part in enumerate(content):
            if part.type != "text" or part.text is None:
                raise refused("only parts of type text are taken", f"{param}.content[{index}]")
        content = "".join(part.text or "" for part in content)
    if content is None:
        raise refused("content is missing; give text", f"{param}.content")
    _check_text(content, f"{param}.content")
    return {"role": "system" if one.role == "developer" else one.role, "content": content}


def _check_text(text: str, param: str) -> None:
    if "\0" in text:
        raise refused("text holds a NUL character", param)


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MOST_STOPS or not all(stops):
        raise refused(f"stop must hold up to {MOST_STOPS} texts of at least one character", "stop")
    return stops


def _budget(max_completion_tokens: int | None, max_tokens: int | None) -> int | None:
    for name, value in (("max_completion_tokens", max_completion_tokens), ("max_tokens", max_tokens)):
        if value is not None and not 1 <= value <= MOST_TOKENS:
            raise refused(f"{name} must be from 1 to {MOST_TOKENS}", name)
    return max_tokens if max_completion_tokens is None else max_completion_tokens


def _deadline(deadline_ms: float | None) -> float | None:
    if deadline_ms is not None and not 1 <= deadline_ms <= 1e8:
        raise refused("deadline_ms must be from 1 to 1e8", "glimprouter.deadline_ms")
    return deadline_ms


def _wants_usage(body: Common) -> bool:
    options = body.stream_options
    if options is None:
        return False
    if not body.stream:
        raise refused("stream_options goes with stream: true", "stream_options")
    if options.include_obfuscation:
        raise refused("obfuscation is not done", "stream_options.include_obfuscation")
    return options.include_usage


__all__ = ["ApiError", "Asked", "chat_asked", "completion_asked"]
