"""What an operator watches. Names and labels hold no word of any client."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from glimprouter.config import SIDES
from glimprouter.flow.trace import Step, Trace

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_NATS = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3)
_SHARES = tuple(tenth / 10 for tenth in range(1, 11))


class Metrics:
    """One registry for one gateway, so that two in a process do not mix."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        name = "glimprouter_"
        self.requests = Counter(
            f"{name}requests", "Requests by path, status and client.", ["path", "status", "client"], registry=registry
        )
        self.seconds = Histogram(
            f"{name}request_seconds", "From a request to the end of its reply.", ["path"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.first_token_seconds = Histogram(
            f"{name}first_token_seconds", "From a request to the first text of its answer.",
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self.before_router_seconds = Histogram(
            f"{name}before_router_seconds", "Reading, checking and queueing, before the router begins.",
            buckets=(0.0005, 0.001, 0.0025, *_SECONDS), registry=registry,
        )  # fmt: skip
        self.token_seconds = Histogram(
            f"{name}token_seconds", "Mean time from token to token of an answer.",
            buckets=(0.001, 0.0025, 0.005, *_SECONDS), registry=registry,
        )  # fmt: skip
        self.step_seconds = Histogram(
            f"{name}step_seconds", "A step's time by its author.", ["author"], buckets=_SECONDS, registry=registry
        )
        self.entropy_nats = Histogram(
            f"{name}glimpse_entropy_nats", "Entropy of the first token of a step.", buckets=_NATS, registry=registry
        )
        self.steps = Counter(f"{name}steps", "Steps written, by author.", ["author"], registry=registry)
        self.large_share = Histogram(
            f"{name}large_token_share", "Share of an answer's thought tokens that the large model wrote.",
            buckets=_SHARES, registry=registry,
        )  # fmt: skip
        self.tokens = Counter(
            f"{name}tokens", "Tokens by model and kind: prompt, cached, completion, discarded.", ["model", "kind"],
            registry=registry,
        )  # fmt: skip
        self.engine_calls = Counter(f"{name}engine_calls", "Calls of each model.", ["model"], registry=registry)
        self.thought_ends = Counter(f"{name}thought_ends", "How thoughts ended.", ["end"], registry=registry)
        self.in_flight = Gauge(f"{name}in_flight", "Answers being written.", registry=registry)
        self.queued = Gauge(f"{name}queued", "Requests that wait for their turn.", registry=registry)
        self.replica_up = Gauge(
            f"{name}replica_up", "1 where calls go to a replica, by model and place in the list.",
            ["model", "replica"], registry=registry,
        )  # fmt: skip
        self.reloads = Counter(f"{name}config_reloads", "Times the file was read anew.", ["outcome"], registry=registry)

    def step(self, step: Step) -> None:
        self.steps.labels(step.author).inc()
        self.step_seconds.labels(step.author).observe(step.wall_ms / 1000)
        if step.glimpse is not None:
            self.entropy_nats.observe(step.glimpse.entropy_nats)

    def answer(self, trace: Trace) -> None:
        """Count an answer that has ended, well or not."""
        for side in SIDES:
            usage = trace.usage_of(side)
            self.engine_calls.labels(side).inc(usage.calls)
            for kind, count in (
                ("prompt", usage.prompt_tokens),
                ("cached", usage.cached_tokens),
                ("completion", usage.new_tokens),
                ("discarded", usage.discarded_tokens),
            ):
                self.tokens.labels(side, kind).inc(count)
        self.thought_ends.labels(trace.thought_end).inc()
        self.large_share.observe(trace.large_token_share)
        if trace.first_token_ms:
            self.first_token_seconds.observe(trace.first_token_ms / 1000)
            written = trace.thought_tokens() + (len(trace.answer.ids) if trace.answer else 0)
            if written > 1:
                self.token_seconds.observe((trace.wall_ms - trace.first_token_ms) / 1000 / (written - 1))

    def text(self) -> bytes:
        return generate_latest(self.registry)
