"""A model's own tokenizer files, for servers that neither render nor tokenise: tokenizer.json and the chat template.

Read with `tokenizers` and `jinja2` (sandboxed), which the extra `tokenizers` installs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from glimprouter.errors import ModelError
from glimprouter.flow.engine import Message


class TokenizerFiles:
    """A coder over the files of one folder. Raises ModelError, naming `--{side}`, for files that cannot be used."""

    def __init__(self, folder: Path, *, side: str) -> None:
        try:
            from jinja2.sandbox import ImmutableSandboxedEnvironment
            from tokenizers import Tokenizer
        except ImportError as error:
            raise ModelError(
                f"--{side}: tokenizer {folder} is read with tokenizers and jinja2, which are not installed; "
                "install them with: pip install 'glimprouter[tokenizers]'",
                field=side,
            ) from error
        self._folder, self._side = folder, side
        config = self._json("tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
        self.template = self._template(config)
        if not (folder / "tokenizer.json").exists():
            raise ModelError(f"--{side}: {folder} holds no tokenizer.json; give the model's folder", field=side)
        self._tokenizer: Any = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.vocabulary_size: int = self._tokenizer.get_vocab_size()
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
        environment.filters["tojson"] = lambda value, **_: json.dumps(value, ensure_ascii=False)
        self._compiled = environment.from_string(self.template)
        self._specials = {name: _content(config.get(name)) for name in ("bos_token", "eos_token", "pad_token")}

    def _json(self, name: str) -> dict[str, Any]:
        try:
            table: dict[str, Any] = json.loads((self._folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"--{self._side}: {self._folder / name} cannot be read ({error})", field=self._side
            ) from error
        return table

    def _template(self, config: dict[str, Any]) -> str:
        file = self._folder / "chat_template.jinja"
        template = file.read_text(encoding="utf-8") if file.exists() else config.get("chat_template")
        if isinstance(template, list):  # several, by name
            template = next((one["template"] for one in template if one.get("name") == "default"), None)
        if not isinstance(template, str):
            raise ModelError(
                f"--{self._side}: {self._folder} holds no chat template (chat_template.jinja, or chat_template in "
                "tokenizer_config.json); give the folder of an instruction-tuned model",
                field=self._side,
            )
        return template

    async def tokenize(self, text: str, *, special: bool, begin: bool = False) -> list[int]:  # noqa: ARG002
        # The template itself writes BOS where the model wants one.
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    async def detokenize(self, ids: Sequence[int]) -> str:
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text

    async def render(self, messages: Sequence[Message]) -> str:
        from jinja2 import TemplateError

        try:
            text: str = self._compiled.render(messages=list(messages), add_generation_prompt=True, **self._specials)
            return text
        except TemplateError as error:
            raise ModelError(
                f"--{self._side}: its chat template refuses the messages: {error}", field="messages"
            ) from error

    async def chat_ids(self, messages: Sequence[Message]) -> list[int] | None:
        return await self.tokenize(await self.render(messages), special=True)


def _content(token: object) -> str:
    """A special token stands as text or as a table in tokenizer_config.json."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""


def _raise(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
