"""Reads a TOML configuration file into a pydantic-settings model; every mistake becomes a sentence.

The file is the only source: environment variables cannot widen what an administrator wrote.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


class ConfigError(Exception):
    """The configuration cannot be used; `hint` is the way out."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class TomlSettings(BaseSettings):
    """Base of a daemon's settings. Build it with `load`."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def load[Model: TomlSettings](model: type[Model], path: Path) -> Model:
    """Raises ConfigError: file missing or unreadable, not TOML, unknown key, bad value."""
    try:
        path.open("rb").close()  # the source below reads a missing file as an empty one
        values = TomlConfigSettingsSource(model, path)()
    except OSError as error:
        hint = "name the right file with --config, or create it: README.md has an example"
        raise ConfigError(f"cannot read {path}: {error.strerror}", hint) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}", "correct the line that is named") from None
    try:
        return model(**values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_sentence(model, error)}", "correct this key, then try again") from None


def _sentence(model: type[BaseModel], error: ValidationError) -> str:
    """The first mistake in words; unknown keys first, since a misspelt key often causes the others."""
    mistakes = sorted(error.errors(include_url=False), key=lambda e: e["type"] != "extra_forbidden")
    mistake = mistakes[0]
    location = mistake["loc"]
    key = ".".join(str(part) for part in location)
    if mistake["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        did_you_mean = f", did you mean {near[0]!r}?" if near else ""
        return f"unknown key {key!r}{did_you_mean} (known: {', '.join(known)})"
    if mistake["type"] == "missing":
        return f"key {key!r} is missing"
    fault = mistake["msg"].removeprefix("Value error, ")
    return f"{key}: {fault}" if key else fault  # without a key: several of them do not fit together


def _known_keys(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields[part].annotation
        model = next(a for a in (field, *get_args(field)) if _is_model(a))  # a section, or a list of them
    return sorted(model.model_fields)


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
