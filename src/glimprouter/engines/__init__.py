"""Where models run. `open_engine` makes an engine of an address or a file; imports are made when they are needed."""

from __future__ import annotations

from pathlib import Path

from glimprouter.config import Model
from glimprouter.errors import ModelError
from glimprouter.flow.engine import Engine


async def open_engine(
    model: Model, *, side: str, parallel: int = 1, exact: bool = False, draft: Path | None = None
) -> Engine:
    """The engine that runs `model`, ready to work: the addresses of its replicas, a GGUF file to be served here, or a
    Hugging Face folder to be run in this process.

    Servers' key is read from GLIMPROUTER_SMALL_KEY or GLIMPROUTER_LARGE_KEY. `parallel` (answers at once), `exact`
    (float32 throughout) and `draft` (the file or folder of the model that proposes `model.speculate` tokens at a time)
    concern files only. Raises ModelError, naming `--{side}`, and EngineError.
    """
    spec = model.at[0]
    speculate = model.speculate if draft is not None else 0
    thought_format = "" if model.thought_format == "auto" else model.thought_format
    if spec.startswith(("http://", "https://")):
        from glimprouter.engines.servers import open_replicas

        return await open_replicas(model, side=side)
    if len(model.at) > 1:
        raise ModelError(
            f"--{side}: at names {len(model.at)} places, of which the first, {spec}, is no address; replicas are "
            "servers: give http://host:port for each, or one file or folder alone",
            field=side,
        )
    if (Path(spec) / "config.json").exists():
        from glimprouter.engines.local_hf import LocalHf

        return await LocalHf.open(
            Path(spec),
            side=side,
            parallel=parallel,
            exact=exact,
            draft=draft,
            speculate=speculate,
            thought_format=thought_format,
        )
    if spec.endswith(".gguf") or _is_path(spec):
        from glimprouter.engines.local_gguf import LocalGguf

        return await LocalGguf.start(
            Path(spec),
            side=side,
            parallel=parallel,
            exact=exact,
            draft=draft,
            speculate=speculate,
            thought_format=thought_format,
        )
    raise ModelError(
        f"--{side} {spec}: no such file; give a GGUF file, a Hugging Face folder, or the address of a server "
        "(http://host:port)",
        field=side,
    )


def _is_path(spec: str) -> bool:
    return Path(spec).exists()
