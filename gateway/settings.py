"""All settings of the gateway, validated at start: environment first, then the settings file.

`MLX_BROKER_<NAME>` in the environment wins over `<name>` in the table [gateway] of the TOML file, which
`MLX_BROKER_CONFIG` names (./mlx-broker.toml if it does not). `runtime_dir` stands at the top of the file, because the
broker reads it too. Of a table [models."org/name"] the gateway reads `defaults`. All else is the broker's, which also
checks the names.
"""

import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from broker.wire.paths import GATEWAY_SOCKET, MAX_SOCKET_PATH_BYTES, default_runtime_dir
from gateway.core.sampling import Defaults

PREFIX = "MLX_BROKER_"
_DEFAULT_FILE = "mlx-broker.toml"
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\sA-Z]+")

LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"],
    BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
]
Key = Annotated[SecretStr, Field(min_length=1)]


class SettingsError(Exception):
    """The gateway cannot start with these settings; `args` are the mistakes, one line each."""


class ModelSettings(BaseModel):
    """The gateway's part of the table `[models."org/name"]`."""

    defaults: Defaults = Field(default_factory=Defaults)


class Settings(BaseSettings):
    """Keys guard /v1/* (api_key) and /admin/* but its health (admin_token); None leaves them open."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    runtime_dir: Path = Field(default_factory=default_runtime_dir)
    api_key: Key | None = None
    admin_token: Key | None = None
    allowed_origins: Annotated[list[str], NoDecode] = Field(default_factory=list)
    default_model: Annotated[str, Field(min_length=1)] | None = None
    default_max_tokens: Annotated[int, Field(ge=1)] = 4096
    models: Annotated[dict[str, ModelSettings], NoDecode] = Field(default_factory=dict)
    max_body_mb: Annotated[float, Field(gt=0)] = 50
    max_images: Annotated[int, Field(ge=0)] = 64
    image_max_mb: Annotated[float, Field(gt=0)] = 20
    image_timeout_seconds: Annotated[float, Field(gt=0)] = 10
    image_max_redirects: Annotated[int, Field(ge=0)] = 3
    allow_private_image_hosts: bool = False
    keepalive_seconds: Annotated[float, Field(gt=0)] = 15
    log_level: LogLevel = "info"

    @field_validator("allowed_origins", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """`a,b` in the environment, a list in the file."""
        return [name.strip() for name in value.split(",") if name.strip()] if isinstance(value, str) else value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        """As browsers send them: another spelling would match none, without a word."""
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: * or scheme://host:port, in lower case and without a path")
        return origins

    @model_validator(mode="after")
    def _socket_path_fits(self) -> Self:
        path = os.fsencode(self.broker_socket)
        if len(path) > MAX_SOCKET_PATH_BYTES:
            raise ValueError(
                f"runtime_dir is too long: {len(path)} bytes with the socket, {MAX_SOCKET_PATH_BYTES} at most"
            )
        return self

    @property
    def broker_socket(self) -> Path:
        """Where the broker listens for gateways."""
        return self.runtime_dir / GATEWAY_SOCKET

    def defaults_of(self, model: str) -> Defaults:
        """What requests to `model` mean where they do not say; max_tokens always has a value."""
        given = self.models[model].defaults if model in self.models else Defaults()
        return given if given.max_tokens else given.model_copy(update={"max_tokens": self.default_max_tokens})

    @property
    def max_body_bytes(self) -> int:
        """The largest request body that is read."""
        return int(self.max_body_mb * 2**20)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # the names are pydantic's
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment, then file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _file_values())


def load_settings() -> Settings:
    """The settings of this process. Raises SettingsError with one line per mistake."""
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(
            *(_mistake(detail["loc"], detail["type"], detail["msg"]) for detail in error.errors())
        ) from None


def _file_values() -> dict[str, Any]:
    named = os.environ.get(f"{PREFIX}CONFIG")
    path = Path(named or _DEFAULT_FILE)
    if not named and not path.exists():
        return {}
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{path}: {reason}") from None
    table = document.get("gateway", {})
    if not isinstance(table, dict):
        raise SettingsError(f"{path}: gateway is to be a table, [gateway]")
    if "runtime_dir" in table:
        raise SettingsError(f"{path}: runtime_dir belongs above all tables, the broker reads it too")
    if "models" in table:
        raise SettingsError(f"{path}: models belongs outside of [gateway]")
    return table | {name: document[name] for name in ("runtime_dir", "models") if name in document}


def _mistake(location: tuple[int | str, ...], kind: str, message: str) -> str:
    told = "there is no such setting" if kind == "extra_forbidden" else message.removeprefix("Value error, ")
    if not location:
        return told
    name = str(location[0])
    if name == "models":
        return f"{'.'.join(map(str, location))}: {told}"
    if kind == "extra_forbidden":
        return f"[gateway] {name}: {told}"
    return f"{PREFIX}{name.upper()} (or {name} in the settings file): {told}"
