"""Where the settings of a component come from: flags over environment over a TOML file in Folkmoot's home over defaults.

Guarantees: an instance is complete, valid and frozen; whatever is wrong with a value, a variable or the file is one line
that names it and the places to look at.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BeforeValidator, ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)
from pydantic_settings import SettingsError as UnreadableVariable

from .errors import UsageError
from .home import folkmoot_home


class SettingsError(UsageError):
    """A setting has a value that makes no sense."""


class ComponentSettings(BaseSettings):
    """Base of the settings of one component.

    Attributes:
        component: What errors call it, and the name of its file; `env_prefix` is to be set beside it.
    """

    component: ClassVar[str]

    # `model` is a setting's name: pydantic would warn of names that begin with its own.
    model_config = SettingsConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    @classmethod
    def file(cls) -> Path:
        """The TOML file that is read when it is there."""
        return folkmoot_home() / f"{cls.component}.toml"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flag over environment over file over default."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=cls.file())

    @classmethod
    def load(cls, **flags: Any) -> Self:
        """Makes settings from the flags that are not None, the environment, the file and the defaults.

        Raises:
            SettingsError: when a value is missing or wrong, or the file cannot be read.
        """
        prefix = cls.model_config.get("env_prefix", "")
        where = f"look at the flags, the {prefix} variables and {cls.file()}"
        try:
            return cls(**{name: value for name, value in flags.items() if value is not None})
        except ValidationError as error:
            wrong = "; ".join(
                f"{'.'.join(str(part) for part in fault['loc']) or 'settings'}: {_reason(fault['msg'])}"
                for fault in error.errors(include_url=False)
                if fault["type"] != "default_factory_not_called"  # only says that another setting is wrong
            )
            raise SettingsError(f"the {cls.component}'s settings are wrong: {wrong}", advice=where) from error
        except UnreadableVariable as error:
            raise SettingsError(f"the {cls.component}'s settings are wrong: {error}", advice=where) from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
            raise SettingsError(
                f"{cls.file()} cannot be read ({error})", advice="correct it, or remove it"
            ) from error


def read_by(parse: Callable[[Any], object], *kinds: type) -> BeforeValidator:
    """Reads values of these types with `parse`, and leaves others to pydantic."""

    def read(value: object) -> object:
        if not isinstance(value, kinds):
            return value
        try:
            return parse(value)
        except UsageError as error:
            raise ValueError(str(error)) from error

    return BeforeValidator(read)


def _reason(message: str) -> str:
    """What a validator of ours said, without pydantic's word for its kind."""
    return message.removeprefix("Value error, ")
