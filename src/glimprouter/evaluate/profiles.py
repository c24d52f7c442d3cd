"""Calibrated thresholds as TOML: the form of models/profiles.toml."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from glimprouter.errors import ConfigError
from glimprouter.evaluate.calibration import Calibration

HEADER = "# Calibrated thresholds. Made by: glimprouter evaluate tiny --calibrate\n"


def profile_of(calibration: Calibration, small: str, large: str) -> dict[str, Any]:
    """A profile's keys. `threshold_nats` is what routes; the rest says where it comes from."""
    return {
        "small": small,
        "large": large,
        "threshold_nats": calibration.chosen.threshold_nats,
        "large_token_share": round(calibration.chosen.token_share, 4),
        "large_step_share": round(calibration.chosen.step_share, 4),
        "questions": calibration.questions,
    }


def snippet(profile: dict[str, Any]) -> str:
    """One [[profile]] table. Strings are quoted as JSON does, which TOML reads alike."""
    lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in profile.items()]
    return "\n".join(["[[profile]]", *lines, ""])


def write_profile(path: Path, profile: dict[str, Any]) -> None:
    """Put a profile into a file, in place of the pair's earlier one; other pairs stay, comments do not."""
    profiles = [known for known in read_profiles(path) if not _same_pair(known, profile)]
    try:
        path.write_text("\n".join([HEADER, *(snippet(known) for known in [*profiles, profile])]), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--write-profile {path}: cannot be written ({error.strerror}); give a file that is yours",
            field="write_profile",
        ) from error


def read_profiles(path: Path) -> list[dict[str, Any]]:
    """The profiles of a file; none where it does not exist. Raises ConfigError for a file that is something else."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--write-profile {path}: cannot be read ({error})", field="write_profile") from error
    profiles = table.pop("profile", [])
    if table or not isinstance(profiles, list):
        raise ConfigError(
            f"--write-profile {path}: holds other settings; give a file for profiles alone", field="write_profile"
        )
    return profiles


def _same_pair(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return (first.get("small"), first.get("large")) == (second["small"], second["large"])
