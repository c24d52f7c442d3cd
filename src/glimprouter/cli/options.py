"""Options that several verbs share. Defaults are read off the config classes, never written again."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from glimprouter.config import SIDES, Config, Model, Param, Routing, Sampling, Side, load_config, named_model
from glimprouter.errors import ConfigError
from glimprouter.pair import Pair
from glimprouter.policies import POLICIES

F = TypeVar("F", bound=Callable[..., Any])
_CONFIG = {f.name: f.default for f in dataclasses.fields(Config)}
_ROUTING = {f.name: f.default for f in dataclasses.fields(Routing)}
_SAMPLING = {f.name: f.default for f in dataclasses.fields(Sampling)}


def _with_default(text: str, default: object) -> str:
    return f"{text} [default: {default}]"


def pair_options(function: F) -> F:
    """--config, --small, --large, --reward, and what is said of them: --thought-format, --tokenizer, --speculate."""
    for option in (
        click.option(
            "--tokenizer",
            multiple=True,
            metavar="[SIDE=]FOLDER",
            help="Folder with tokenizer files and chat template, for servers that render nothing themselves.",
        ),
        click.option(
            "--thought-format",
            multiple=True,
            metavar="[SIDE=]NAME",
            help=_with_default(
                "How a model opens and closes its thought; SIDE is small or large.", "its template tells"
            ),
        ),
        click.option(
            "--speculate",
            type=int,
            metavar="N",
            help=_with_default("Tokens that small proposes to large at a time; both run here.", _CONFIG["speculate"]),
        ),
        click.option("--reward", metavar="URL", help="Process reward model, for policies that ask one (rsd)."),
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
    """--policy and what goes with it, --param, budgets, step sizes."""
    for name, text in reversed(
        [
            ("policy", f"Who writes a step: {', '.join(POLICIES)}."),
            ("threshold", "H_init above which the large model writes, in nats."),
            ("random-p", "With --policy random: probability of the large model."),
            ("first-large-steps", "The first N steps by the large model, whatever the policy."),
            ("answer-by", "Who writes the answer: large or small."),
            ("max-thinking-tokens", "Budget of the thought; then it is closed."),
            ("max-answer-tokens", "Budget of the answer."),
            ("min-step-tokens", "Shorter steps are merged into the next; 0 merges none, as published."),
            ("splitter", "Where steps end: blank-line, sentence, discourse, tokens(n)."),
            ("max-step-tokens", "After this many tokens a glimpse is forced."),
        ]
    ):
        default = _ROUTING[name.replace("-", "_")]
        kind = str if isinstance(default, str) else float if name in ("threshold", "random-p") else int
        shown = "the pair's own, else 0.9" if default is None else default
        function = click.option(f"--{name}", type=kind, help=_with_default(text, shown))(function)
    return click.option(
        "--param",
        "params",
        multiple=True,
        metavar="NAME=VALUE",
        help="An option of the policy's own; VALUE as in TOML.",
    )(function)


def profile_options(function: F) -> F:
    """--profile and what goes with it; `profile_choice` takes them."""
    for option in (
        click.option("--force-profile", is_flag=True, help="Use it with another pair than it was made for."),
        click.option("--profile-family", metavar="NAME", help="Its threshold for a family of prompts."),
        click.option(
            "--profile", type=click.Path(path_type=Path), help="What `glimprouter calibrate --write FILE` found."
        ),
    ):
        function = option(function)
    return function


@dataclasses.dataclass(frozen=True, slots=True)
class ProfileChoice:
    """The profile that was asked for, if one was."""

    path: Path | None
    family: str | None
    force: bool

    async def of(self, pair: Pair) -> Pair:
        """The pair with its profile. Raises ConfigError for one that is another pair's."""
        if self.path is None:
            if self.family is not None:
                raise ConfigError("--profile-family is given without --profile; give both", field="profile_family")
            return pair
        from glimprouter.calibrate.profile import with_profile  # only whoever has one pays for it

        return await with_profile(pair, self.path, family=self.family, force=self.force)


def profile_choice(options: dict[str, Any]) -> ProfileChoice:
    """What --profile says, taken out of the options."""
    return ProfileChoice(options.pop("profile"), options.pop("profile_family"), options.pop("force_profile"))


def settings(options: dict[str, Any]) -> Config:
    """The config file (or none) with command line options laid over it."""
    path = options.pop("config_path", None)
    config = load_config(path) if path else Config()
    given = {key: value for key, value in options.items() if value is not None}
    if "params" in given:
        given["params"] = config.routing.params | dict(map(_param, given["params"]))

    def laid_over(base: Any) -> Any:
        names = {f.name for f in dataclasses.fields(base)}
        return dataclasses.replace(base, **{key: value for key, value in given.items() if key in names})

    small, large = given.get("small", config.small), given.get("large", config.large)
    return dataclasses.replace(
        config,
        models=_described(config.models, {"small": small, "large": large}, given),
        routing=laid_over(config.routing),
        sampling=laid_over(config.sampling),
        small=small,
        large=large,
        reward=given.get("reward", config.reward),
        speculate=given.get("speculate", config.speculate),
    )


def _param(text: str) -> tuple[str, Param]:
    """NAME=VALUE: the value as TOML reads it; what TOML cannot read is a text."""
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise ConfigError(f"--param is {text!r}; accepted: NAME=VALUE", field="param")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value


def _described(
    models: dict[str, str | Model], specs: dict[Side, str | None], given: dict[str, Any]
) -> dict[str, str | Model]:
    """The named models, and those of the pair under their own names, with what the options say of them."""
    models = dict(models)
    for name in ("tokenizer", "thought_format"):
        for text in given.get(name, ()):
            before, equals, value = text.partition("=")
            sides = [side for side in SIDES if not equals or side == before]
            if not sides or not (value if equals else text):
                option = f"--{name.replace('_', '-')}"
                raise ConfigError(f"{option} is {text!r}; accepted: a value, small=VALUE or large=VALUE", field=name)
            for side in sides:
                spec = specs[side]
                if spec is None:
                    raise ConfigError(f"--{name.replace('_', '-')} is given without --{side}; give both", field=name)
                models[spec] = dataclasses.replace(named_model(spec, models), **{name: value if equals else text})
    return models
