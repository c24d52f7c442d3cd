"""Every field of a request and what becomes of it. `wire.py` goes by this table, and so does docs/gateway.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["honoured", "passed", "refused"]
"""honoured: holds across hand-overs; passed: for one model alone, as yet 400 with `param`; refused: 400 likewise."""


@dataclass(frozen=True, slots=True)
class Field:
    """`idle` are values that ask for nothing, and pass whatever the outcome of others."""

    outcome: Outcome
    note: str
    idle: tuple[Any, ...] = ()


_COMMON = {
    "model": Field("honoured", "glimprouter, glimprouter@THRESHOLD, small or large"),
    "stream": Field("honoured", "server-sent events, chunk by chunk as it is written"),
    "stream_options": Field("honoured", "include_usage; include_obfuscation may be false"),
    "temperature": Field("honoured", "of every token, 0 to 5"),
    "top_p": Field("honoured", "of every token"),
    "top_k": Field("honoured", "of every token; 0 is off"),
    "min_p": Field("honoured", "of every token; 0 is off"),
    "presence_penalty": Field("honoured", "counted anew at each hand-over, see sampling.md"),
    "frequency_penalty": Field("honoured", "counted anew at each hand-over, see sampling.md"),
    "seed": Field("honoured", "derived per step and model; without it every answer has its own"),
    "stop": Field("honoured", "ends the answer, never the thought; up to 16 texts"),
    "max_tokens": Field("honoured", "thought and answer together"),
    "user": Field("honoured", "taken and told to nobody"),
    "metadata": Field("honoured", "taken and told to nobody"),
    "safety_identifier": Field("honoured", "taken and told to nobody"),
    "glimprouter": Field("honoured", "how to route this answer, see below"),
    "logit_bias": Field("refused", "it names ids, and the two models may number theirs differently", idle=({},)),
    "best_of": Field("refused", "ask several times instead", idle=(1,)),
    "min_tokens": Field("refused", "a step's author cannot hold it across hand-overs", idle=(0,)),
    "repetition_penalty": Field("refused", "it would change at each hand-over", idle=(1, 1.0)),
    "chat_template": Field("refused", "templates are the operator's business"),
    "chat_template_kwargs": Field("refused", "templates are the operator's business"),
    "kv_transfer_params": Field("refused", "engines are the operator's business"),
    "cache_salt": Field("refused", "engines are the operator's business"),
    "priority": Field("refused", "engines are the operator's business"),
    "api_base": Field("refused", "engines' addresses come from the configuration alone"),
    "base_url": Field("refused", "engines' addresses come from the configuration alone"),
    "api_key": Field("refused", "send a key in the Authorization header"),
}

CHAT: dict[str, Field] = _COMMON | {
    "messages": Field("honoured", "text of system, developer, user and assistant; tool turns are passed"),
    "max_completion_tokens": Field("honoured", "thought and answer together; wins over max_tokens"),
    "n": Field("passed", "2 to 8 replies come from one model", idle=(1,)),
    "tools": Field("passed", "up to 128", idle=([],)),
    "tool_choice": Field("passed", "with tools", idle=("none", "auto")),
    "parallel_tool_calls": Field("passed", "with tools", idle=(True, False)),
    "response_format": Field("passed", "json_object and json_schema", idle=({"type": "text"},)),
    "logprobs": Field("passed", "the log-probabilities of one model", idle=(False,)),
    "top_logprobs": Field("passed", "0 to 20, with logprobs", idle=(0,)),
    "functions": Field("refused", "use tools", idle=([],)),
    "function_call": Field("refused", "use tool_choice", idle=("none", "auto")),
    "audio": Field("refused", "text only"),
    "modalities": Field("refused", "text only", idle=(["text"],)),
    "prediction": Field("refused", "not supported"),
    "reasoning_effort": Field("refused", "set glimprouter.max_thinking_tokens"),
    "verbosity": Field("refused", "say it in a message"),
    "service_tier": Field("refused", "there is one", idle=("auto", "default")),
    "store": Field("refused", "nothing is stored", idle=(False,)),
    "web_search_options": Field("refused", "not supported"),
}

COMPLETION: dict[str, Field] = _COMMON | {
    "prompt": Field("honoured", "one text, asked as a user's message; its answer is the completion"),
    "n": Field("refused", "ask several times instead", idle=(1,)),
    "echo": Field("refused", "the prompt is rendered as a chat", idle=(False,)),
    "suffix": Field("refused", "not supported", idle=("",)),
    "logprobs": Field("refused", "two models write; ask /v1/chat/completions for one model's", idle=(0,)),
}

ROUTING: dict[str, Field] = {
    "threshold": Field("honoured", "entropy in nats above which the large model writes a step"),
    "policy": Field("honoured", "glimpse, small, large or random"),
    "answer_by": Field("honoured", "small or large"),
    "first_large_steps": Field("honoured", "so many steps by the large model, whatever the policy"),
    "max_thinking_tokens": Field("honoured", "budget of the thought, up to the operator's"),
    "deadline_ms": Field("honoured", "the answer is broken off after so long; an error then"),
    "trace": Field("honoured", "every step as it ends, and the whole trace at the end"),
    "target_share": Field("refused", "calibrate a threshold for it: glimprouter trace summary"),
    "max_large_tokens": Field("refused", "no policy holds it yet; raise the threshold"),
}
