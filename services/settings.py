"""What the operator may set; the only place that reads the environment."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import platformdirs
from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from automl_prune.errors import FieldError, SpecError

PREFIX = "AUTOML_PRUNE_"
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of this machine that no other one reaches."""

Folder = Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())]
Count = Annotated[int, Field(ge=1)]
Module = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$", max_length=200)]
_HOST = r"[a-z0-9._-]+(:\d{1,5})?|\[[0-9a-f:.]+\](:\d{1,5})?|[0-9a-f:.]+"
Host = Annotated[str, StringConstraints(pattern=rf"^([^=\s]{{1,100}}=)?({_HOST})$", max_length=360)]
Hosts = Annotated[tuple[Host, ...], NoDecode, BeforeValidator(lambda value: _split(value))]
Modules = Annotated[tuple[Module, ...], NoDecode, BeforeValidator(lambda value: _split(value))]


def _below_home(*parts: str) -> Any:
    return Field(default_factory=lambda data: data["home"].joinpath(*parts))


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class Settings(BaseSettings):
    """Where the service keeps things, where it listens, and how much it takes on.

    Every field is read from ``AUTOML_PRUNE_<NAME>``; an empty variable counts as unset. Folders become absolute.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    home: Folder = Field(
        default_factory=lambda: platformdirs.user_data_path("automl-prune", appauthor=False),
        description="Everything the service writes, unless a field below says otherwise.",
    )
    database_url: str = Field(
        default_factory=lambda data: f"sqlite:///{data['home'] / 'automl-prune.sqlite3'}",
        repr=False,
        description="An SQLAlchemy URL; never shown, as it may hold a password.",
    )
    database_url_file: Folder | None = Field(None, description="A file that holds the URL; it counts instead of the field.")
    database_password_file: Folder | None = Field(None, description="A file that holds the password that the URL lacks.")
    bootstrap_key_file: Folder | None = Field(
        None,
        description="A file with an API key that may do all, which 'serve' lets in; 'automl-prune keys token' makes one.",
    )
    artifacts_root: Folder = _below_home("artifacts")
    cache_dir: Folder = _below_home("cache")
    data_root: Folder = _below_home("data")
    weights_root: Folder = _below_home("weights")
    host: str = "127.0.0.1"
    port: int = Field(8422, ge=0, le=65535, description="0 takes a free one.")
    public_url: str | None = Field(
        None,
        pattern=r"^https?://[^/?#]+/?$",
        description="How clients reach the service, for links; null: relative.",
    )
    max_body_bytes: Count = 262_144
    lease_seconds: float = Field(30, gt=0, description="A driver that is silent for this long has lost its search.")
    max_running: Count = Field(1, description="Searches at once.")
    max_queued: Count = Field(1000, description="Searches of one tenant that may wait or be paused; keys may lower it.")
    max_trials: Count = Field(100_000, description="Most that trials.max of an order may be; keys may lower it.")
    max_seconds: float | None = Field(
        None, gt=0, description="Most that trials.max_seconds of an order may be, which it then has to say; null: any."
    )
    max_weights_mb: Count = Field(4096, description="Largest weight file that an order may name.")
    docs: bool = Field(True, description="Show the interface at /docs; /openapi.json needs a key, wherever others do.")
    max_attempts: Count = Field(3, description="Drivers a search may lose, without an outcome in between, before it fails.")
    workers: Count = Field(default_factory=lambda: os.cpu_count() or 1, description="Trials at once on this machine.")
    ray_address: str | None = Field(None, description="An existing Ray cluster; null starts a local one when needed.")
    allow_open_ray: bool = Field(False, description="Use a Ray cluster that answers without a token all the same.")
    ray_join: bool = Field(
        False, description="Join the cluster at ray_address with a node without processors, where this machine has none."
    )
    ray_patience_seconds: float = Field(
        600, ge=0, description="How long a search waits for a machine at ray_address that is large enough."
    )
    admission_seconds: float = Field(
        600, gt=0, description="How long building, tracing and verifying a network may take, before its first search."
    )
    webhook_hosts: Hosts = Field(
        (),
        description="Hosts that webhooks may also reach by http and at private addresses: HOST or HOST:PORT, with TENANT= "
        "before it for that tenant's alone; separated by commas.",
    )
    max_streams: Count = Field(250, description="Event streams that one key may have open at the same time.")
    event_days: float = Field(7, gt=0, description="How long events are kept for those who come back to a stream.")
    event_least: Count = Field(1000, description="Last events of each search that are kept, however old they are.")
    device_silent_seconds: float = Field(60, gt=0, description="A device not heard of for this long counts as gone.")
    device_lease_seconds: float = Field(30, gt=0, description="Work that an agent is silent about is handed out again.")
    device_patience_seconds: float = Field(
        600, ge=0, description="How long a search waits for a device that is gone, until it is paused."
    )
    measurement_seconds: float = Field(
        1800, gt=0, description="An agent, and a search on local, stops what takes longer to measure."
    )
    log_format: Literal["text", "json"] = Field("text", description="One line per event on stderr, or one JSON object.")
    plugins: Modules = Field((), description="Modules to import for what they register; separated by commas.")

    @property
    def beyond_this_machine(self) -> bool:
        """Whether others reach the service: where it listens, or through a proxy, which a public address stands for."""
        named = self.host if self.public_url is None else urlsplit(self.public_url).hostname
        return self.host not in LOOPBACK or named not in LOOPBACK


def load_settings(**overrides: Any) -> Settings:
    """Settings from ``overrides`` (None: not given), then the environment, then defaults.

    Raises:
        SpecError: A value is out of range or a field unknown; names the environment variable, never the value.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SpecError([_fault(item) for item in error.errors(include_url=False, include_input=False)]) from None


def environment(settings: Settings) -> dict[str, str]:
    """The settings as environment variables, for child processes."""
    values = settings.model_dump()
    return {PREFIX + name.upper(): _text(value) for name, value in values.items() if value is not None}


def _text(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _fault(item: Any) -> FieldError:
    return FieldError(PREFIX + "_".join(str(part) for part in item["loc"]).upper(), f"{item['msg']}.", item["type"])
