"""All settings of the gateway, validated at start. docs/settings.md tells users about each.

Order: environment `MLX_BROKER_<NAME>`, then the table [gateway] of the settings file (broker/wire/settings_file.py),
then the defaults here. Of a table [models."org/name"] the gateway reads `defaults`; the broker checks the rest. The
table [aliases] is checked here; whether its models exist, gateway/directory.py asks the broker.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from broker.wire.paths import GATEWAY_SOCKET, MAX_SOCKET_PATH_BYTES, default_runtime_dir, default_state_dir
from broker.wire.settings_file import SettingsError, given_settings, mistakes
from gateway.core.names import AliasSettings
from gateway.core.names import mistakes as mistakes_in_aliases
from gateway.core.sampling import Defaults
from gateway.names import meant

_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\sA-Z]+")

_LOWER = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
LogLevel = Annotated[Literal["debug", "info", "warning", "error"], _LOWER]
LogFormat = Annotated[Literal["text", "json"], _LOWER]
Key = Annotated[SecretStr, Field(min_length=1)]


class ModelDefaults(BaseModel):
    """The gateway's part of the table `[models."org/name"]`."""

    defaults: Defaults = Field(default_factory=Defaults)


class Settings(BaseModel):
    """Keys guard /v1/* (api_key) and /admin/* but its health (admin_token); None leaves them open."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    ollama_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    runtime_dir: Path = Field(default_factory=default_runtime_dir)
    state_dir: Path = Field(default_factory=default_state_dir)
    api_key: Key | None = None
    admin_token: Key | None = None
    allowed_origins: list[str] = Field(default_factory=list)
    default_model: Annotated[str, Field(min_length=1)] | None = None
    default_max_tokens: Annotated[int, Field(ge=1)] = 4096
    models: dict[str, ModelDefaults] = Field(default_factory=dict)
    aliases: dict[str, AliasSettings] = Field(default_factory=dict)
    max_body_mb: Annotated[float, Field(gt=0)] = 50
    max_upload_mb: Annotated[float, Field(gt=0)] = 256
    max_images: Annotated[int, Field(ge=0)] = 64
    image_max_mb: Annotated[float, Field(gt=0)] = 20
    image_timeout_seconds: Annotated[float, Field(gt=0)] = 10
    image_max_redirects: Annotated[int, Field(ge=0)] = 3
    allow_private_image_hosts: bool = False
    metrics_open: bool = False
    keepalive_seconds: Annotated[float, Field(gt=0)] = 10
    resume_limit: Annotated[int, Field(ge=0, le=100)] = 2
    log_level: LogLevel = "info"
    log_format: LogFormat = "text"
    access_log: bool = True

    @model_validator(mode="before")
    @classmethod
    def _with_what_is_given(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Arguments, then the environment, then the file."""
        return given_settings("gateway", cls.model_fields) | values

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
                raise ValueError(f"{origin!r} is not an origin: must be * or scheme://host:port, lower case, no path")
        return origins

    @model_validator(mode="after")
    def _ports_differ(self) -> Self:
        if self.port and self.port == self.ollama_port:
            raise ValueError(f"ollama_port must be another port than port, not {self.port} too")
        return self

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
        """Default values for requests to `model` that leave fields out; max_tokens always has one."""
        name = meant(model, self.models)
        given = Defaults() if name is None else self.models[name].defaults
        return given if given.max_tokens else given.model_copy(update={"max_tokens": self.default_max_tokens})

    @property
    def max_upload_bytes(self) -> int:
        """The largest file that is taken."""
        return int(self.max_upload_mb * 2**20)

    @property
    def max_body_bytes(self) -> int:
        """The largest request body that is read."""
        return int(self.max_body_mb * 2**20)


def load_settings() -> Settings:
    """The settings of this process. Raises SettingsError with one line per mistake."""
    try:
        settings = Settings()
    except ValidationError as error:
        raise mistakes("gateway", error.errors()) from None
    if lines := mistakes_in_aliases(settings.aliases):
        raise SettingsError(*lines)
    return settings
