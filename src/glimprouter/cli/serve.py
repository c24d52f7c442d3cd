"""`glimprouter serve`: an OpenAI-compatible endpoint in front of the pair."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from glimprouter.cli.loop import run
from glimprouter.errors import ConfigError


@click.command("serve")
@click.option(
    "--config", "path", type=click.Path(path_type=Path), help="TOML file; [gateway] holds what serving needs."
)
@click.option("--host", help="Address to listen on, over the file's.")
@click.option("--port", type=int, help="Port to listen on, over the file's; 0 takes a free one.")
@click.option("--admin-port", type=int, help="Port of /metrics, over the file's; 0 for none.")
@click.option("--check", is_flag=True, help="Read the file, say whether it is good, and end.")
def command(path: Path | None, host: str | None, port: int | None, admin_port: int | None, check: bool) -> None:
    """Serve the pair as an OpenAI endpoint. Without a file: the tiny pair, on 127.0.0.1:8000."""
    from glimprouter.gateway.settings import load_settings

    settings = load_settings(path)
    given = {"host": host, "port": port, "admin_port": admin_port}
    changes = {name: value for name, value in given.items() if value is not None}
    settings = dataclasses.replace(settings, gateway=dataclasses.replace(settings.gateway, **changes))  # type: ignore[arg-type]
    if check:
        click.echo("the settings are good")
        return
    try:
        from glimprouter.gateway.server import serve
    except ImportError as error:
        raise ConfigError(
            f"serve needs {error.name}; install it: pip install 'glimprouter[gateway]'", field="serve"
        ) from error
    run(serve(path, settings))
