"""Options that several verbs share. Defaults are read off the config classes, never written again."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from glimprouter.config import Config, Routing, Sampling, load_config

F = TypeVar("F", bound=Callable[..., Any])
_CONFIG = {f.name: f.default for f in dataclasses.fields(Config)}
_ROUTING = {f.name: f.default for f in dataclasses.fields(Routing)}
_SAMPLING = {f.name: f.default for f in dataclasses.fields(Sampling)}


def _with_default(text: str, default: object) -> str:
    return f"{text} [default: {default}]"


def pair_options(function: F) -> F:
    """--config, --small, --large, --speculate."""
    for option in (
        click.option(
            "--speculate",
            type=int,
            metavar="N",
            help=_with_default("Tokens that small proposes to large at a time; both run here.", _CONFIG["speculate"]),
        ),
        click.option(
            "--large", metavar="MODEL", help="Large model: URL, GGUF file, Hugging Face folder or name from the config."
        ),
        click.option("--small", metavar="MODEL", help="Small model: the same. Without both, the tiny pair answers."),
        click.option("--config", "config_path", type=click.Path(path_type=Path), help="TOML file with settings."),
    ):
        function = option(function)
    return function


def sampling_options(function: F) -> F:
    """--temperature, --top-p, --seed."""
    for option in (
        click.option("--seed", type=int, help=_with_default("Same seed, same draws.", _SAMPLING["seed"])),
        click.option("--top-p", type=float, help=_with_default("Nucleus of the draw.", _SAMPLING["top_p"])),
        click.option("--temperature", type=float, help=_with_default("0 is greedy.", _SAMPLING["temperature"])),
    ):
        function = option(function)
    return function


def routing_options(function: F) -> F:
    """--policy and what goes with it, budgets, step sizes."""
    for name, text in reversed(
        [
            ("policy", "Who writes a step: glimpse, small, large or random."),
            ("threshold", "H_init above which the large model writes, in nats."),
            ("random-p", "With --policy random: probability of the large model."),
            ("first-large-steps", "The first N steps by the large model, whatever the policy."),
            ("answer-by", "Who writes the answer: large or small."),
            ("max-thinking-tokens", "Budget of the thought; then it is closed."),
            ("max-answer-tokens", "Budget of the answer."),
            ("min-step-tokens", "Shorter steps are merged into the next; 0 merges none, as published."),
            ("max-step-tokens", "After this many tokens a glimpse is forced."),
        ]
    ):
        default = _ROUTING[name.replace("-", "_")]
        kind = str if isinstance(default, str) else float if name in ("threshold", "random-p") else int
        shown = "the pair's own, else 0.9" if default is None else default
        function = click.option(f"--{name}", type=kind, help=_with_default(text, shown))(function)
    return function


def settings(options: dict[str, Any]) -> Config:
    """The config file (or none) with command line options laid over it."""
    path = options.pop("config_path", None)
    config = load_config(path) if path else Config()
    given = {key: value for key, value in options.items() if value is not None}

    def laid_over(base: Any) -> Any:
        names = {f.name for f in dataclasses.fields(base)}
        return dataclasses.replace(base, **{key: value for key, value in given.items() if key in names})

    return dataclasses.replace(
        config,
        routing=laid_over(config.routing),
        sampling=laid_over(config.sampling),
        small=given.get("small", config.small),
        large=given.get("large", config.large),
        speculate=given.get("speculate", config.speculate),
    )
