"""Settings: a TOML file becomes frozen dataclasses, and whatever is wrong with it is said by name."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from glimprouter.config import REFUSED_SAMPLING, Config, Model, Routing, Sampling, from_table, load_config, model_at
from glimprouter.errors import ConfigError


def written(path: Path, text: str) -> Path:
    file = path / "glimprouter.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_file_is_read_into_every_section(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        """
        small = "quick"
        large = "http://127.0.0.1:8000/v1"

        [models]
        quick = "/models/quick.gguf"

        [routing]
        policy = "random"
        threshold = 1
        random_p = 0.25
        answer_by = "small"
        max_thinking_tokens = 100

        [sampling]
        temperature = 0
        seed = 7
        """,
    )
    assert load_config(file) == Config(
        small="quick",
        large="http://127.0.0.1:8000/v1",
        models={"quick": "/models/quick.gguf"},
        routing=Routing(policy="random", threshold=1, random_p=0.25, answer_by="small", max_thinking_tokens=100),
        sampling=Sampling(temperature=0, seed=7),
    )


def toml_of(config: Config) -> str:
    def lines(values: dict[str, Any]) -> str:
        shown = {key: str(value).lower() if isinstance(value, bool) else repr(value) for key, value in values.items()}
        return "".join(f"{key} = {text}\n" for key, text in shown.items() if values[key] is not None)

    tables = dataclasses.asdict(config)
    nested = {name: tables.pop(name) for name in ("models", "routing", "sampling")}
    return lines(tables) + "".join(f"[{name}]\n{lines(values)}" for name, values in nested.items())


@pytest.mark.parametrize(
    "config",
    [
        Config(),
        Config(small="a", large="b", models={"a": "x", "b": "y"}),
        Config(
            routing=Routing(threshold=0.0, min_step_tokens=0, warm=False), sampling=Sampling(temperature=1.5, top_p=1.0)
        ),
    ],
)
def test_written_out_and_read_again_it_is_the_same(tmp_path: Path, config: Config) -> None:
    assert load_config(written(tmp_path, toml_of(config))) == config


def test_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "")) == Config()
    assert load_config(written(tmp_path, "\ufeff[routing]\n")) == Config()


@pytest.mark.parametrize(
    ("text", "field", "near"),
    [
        ("[routing]\nthreshhold = 0.5", "routing.threshhold", "Did you mean routing.threshold?"),
        ("[sampling]\ntemprature = 1", "sampling.temprature", "Did you mean sampling.temperature?"),
        ("smal = 'x'", "smal", "Did you mean small?"),
        ("[rooting]", "rooting", "Did you mean routing?"),
    ],
)
def test_unknown_key_is_refused_with_the_nearest_known_one(tmp_path: Path, text: str, field: str, near: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(written(tmp_path, text))
    assert raised.value.field == field
    assert near in str(raised.value)
    assert "glimprouter.toml" in str(raised.value)


def test_unknown_key_near_to_none_lists_the_accepted_ones(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="accepted: small, large, reward, speculate, models, routing, sampling"
    ) as raised:
        load_config(written(tmp_path, "colour = 'red'"))
    assert "Did you mean" not in str(raised.value)


@pytest.mark.parametrize("name", REFUSED_SAMPLING)
def test_sampling_field_of_other_programs_is_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(written(tmp_path, f"[sampling]\n{name} = 1"))
    assert REFUSED_SAMPLING[name] in str(raised.value)
    assert raised.value.field == f"sampling.{name}"


@pytest.mark.parametrize(
    ("text", "field", "accepted"),
    [
        ("[routing]\nthreshold = 'high'", "routing.threshold", "a number"),
        ("[routing]\nthreshold = true", "routing.threshold", "a number"),
        ("[routing]\nmax_step_tokens = 1.5", "routing.max_step_tokens", "a whole number"),
        ("[routing]\nmax_step_tokens = true", "routing.max_step_tokens", "a whole number"),
        ("[routing]\npolicy = 3", "routing.policy", "a text"),
        ("[routing]\nanswer_by = 'both'", "routing.answer_by", "small, large"),
        ("[routing]\nanswer_by = ['small']", "routing.answer_by", "small, large"),
        ("[sampling]\ntemperature = 1979-05-27", "sampling.temperature", "a number"),
        ("[routing]\nwarm = 1", "routing.warm", "true or false"),
        ("small = ['x']", "small", "a text"),
        ("models = 'x'", "models", "a table"),
        ("[models]\nx = 1", "models", "a table"),
        ("routing = 3", "routing", "[routing]"),
        ("[[routing]]\nthreshold = 1", "routing", "[routing]"),
    ],
)
def test_wrong_type_is_refused_with_what_is_accepted(tmp_path: Path, text: str, field: str, accepted: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_config(written(tmp_path, text))
    assert raised.value.field == field
    assert accepted in str(raised.value)
    assert field in str(raised.value)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[routing]\nthreshold = nan", "routing.threshold"),
        ("[routing]\nthreshold = inf", "routing.threshold"),
        ("[routing]\nthreshold = -0.1", "routing.threshold"),
        ("[routing]\nrandom_p = 1.01", "routing.random_p"),
        ("[routing]\nmax_step_tokens = 0", "routing.max_step_tokens"),
        ("[routing]\nglimpse_top = 1", "routing.glimpse_top"),
        ("[routing]\nloop_repeats = 1", "routing.loop_repeats"),
        ("[sampling]\ntop_p = 0.0", "sampling.top_p"),
        ("[sampling]\nseed = -1", "sampling.seed"),
        (f"[sampling]\nseed = 1{'0' * 400}", "sampling.seed"),
    ],
)
def test_number_out_of_range_is_refused_with_file_key_and_range(tmp_path: Path, text: str, field: str) -> None:
    with pytest.raises(ConfigError, match=r"glimprouter\.toml: .*accepted: a (whole )?number (from|above)") as raised:
        load_config(written(tmp_path, text))
    assert raised.value.field == field
    assert f": {field} is" in str(raised.value)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Routing, {"threshold": float("nan")}),
        (Routing, {"max_step_tokens": 1.5}),
        (Routing, {"max_step_tokens": "9"}),
        (Routing, {"answer_by": "both"}),
        (Sampling, {"temperature": "warm"}),
        (Sampling, {"top_k": True}),
    ],
)
def test_settings_made_in_python_are_checked_alike(kind: type[Any], values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="accepted") as raised:
        kind(**values)
    assert raised.value.field == next(iter(values))


def test_limits_themselves_are_accepted() -> None:
    routing = Routing(threshold=0, random_p=1, min_step_tokens=0, max_step_tokens=1, glimpse_top=2)
    sampling = Sampling(temperature=0, top_p=1, seed=2**63 - 1, presence_penalty=-2)
    assert (routing.max_step_tokens, sampling.seed) == (1, 2**63 - 1)


def test_table_from_elsewhere_is_named_as_its_caller_names_it() -> None:
    with pytest.raises(ConfigError, match=r"^body: glimprouter\.threshold is 'x'"):
        from_table(Routing, {"threshold": "x"}, where="body", prefix="glimprouter.")


@pytest.mark.parametrize(
    "content", [b"[routing\n", b"a = \xff", b"small = 'x'\nsmall = 'y'", b"[sampling]\nseed = " + b"1" * 5000]
)
def test_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"--config .*bad\.toml: not valid TOML"):
        load_config(file)


def test_missing_file_and_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--config .*none\.toml: cannot be read \(No such file"):
        load_config(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)


def test_a_model_is_a_text_or_a_table_and_several_addresses_are_its_replicas(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        '[models]\nfast = "small.gguf"\n[models.wise]\nat = ["http://a:1", "http://b:1"]\ndialect = "vllm"\n'
        '[models.lone]\nat = "http://c:1"\n'
    )
    assert load_config(path).models == {
        "fast": "small.gguf",
        "wise": Model(("http://a:1", "http://b:1"), dialect="vllm"),
        "lone": Model(("http://c:1",)),
    }
    assert model_at("http://a:1, http://b:1") == Model(("http://a:1", "http://b:1"))
    assert model_at("odd,name.gguf") == Model(("odd,name.gguf",))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("[models.a]\nat = []", "models.a.at"),
        ("[models.a]\nat = 3", "models.a.at"),
        ('[models.a]\nat = "x"\nspeculate = -1', "models.a.speculate"),
        ('[models.a]\nat = "x"\nurl = "y"', "models.a.url"),
        ("[models]\na = 3", "models"),
    ],
)
def test_a_bad_model_is_refused_by_the_name_of_its_key(tmp_path: Path, text: str, field: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.field == field
