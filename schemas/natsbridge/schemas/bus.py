"""Where the bus is and how to reach it: the settings that services and the bridge share.

Also the small reader that turns environment variables into frozen, validated settings with errors
that name the variable.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

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

from natsbridge.schemas.errors import SchemaError
from natsbridge.schemas.subjects import Subjects


class SettingsError(SchemaError):
    """A setting that can't be used; the message names each variable and what is wrong with it."""


def _split(value: object) -> object:
    if isinstance(value, str):
        return tuple(part for raw in value.split(",") if (part := raw.strip()))
    return value


CommaSeparated = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Several values in one variable, separated by commas."""


class Settings(BaseModel):
    """Base of a section of settings: frozen, and each field's alias is its variable's name."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read this section; raises :class:`SettingsError` that names what is wrong.

        A variable that is set but empty counts as not set, as compose files write it.
        """
        given = {
            field.alias: environment[field.alias]
            for field in cls.model_fields.values()
            if field.alias and environment.get(field.alias)
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            raise SettingsError(describe(error)) from None


def limit_unacknowledged(connection: socket.socket, seconds: float) -> None:
    """Have the kernel give a connection up when what was sent is not acknowledged for so long
    (``TCP_USER_TIMEOUT``, RFC 5482); nothing where there is no such option, as on macOS.
    """
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, option, int(seconds * 1000))


def renew_inbox(client: Any, refused: str) -> None:
    """Have nats-py take another inbox for the next request where the broker refuses this one.

    ``client`` is nats-py's, ``refused`` the subject in any case of letters. nats-py makes one inbox
    and would wait for answers there for ever, also when it may have one again.
    """
    inbox = client._resp_sub_prefix
    if inbox is None or refused.lower() != f"{inbox.decode()}*".lower():
        return
    client._resp_sub_prefix = None
    for sid, subscription in list(client._subs.items()):
        if subscription.subject.lower() == refused.lower():
            client._remove_sub(sid)
            if (task := subscription._wait_for_msgs_task) is not None:
                # What came before the refusal is still in its queue.
                task.get_loop().call_later(1.0, task.cancel)


def describe(error: ValidationError) -> str:
    """Tell in one line which settings were refused and why, never their values."""
    told = []
    for each in error.errors(include_url=False, include_input=False, include_context=False):
        where = ".".join(map(str, each["loc"])) or "settings"
        told.append(f"{where}: {each['msg'].removeprefix('Value error, ')}")
    return "; ".join(told)


class BusSettings(Settings):
    """How to reach NATS. Used by the SDK as it stands, and by the bridge as one of its sections."""

    url: CommaSeparated = Field(
        ("nats://127.0.0.1:4222",),
        alias="BRIDGE_NATS_URL",
        repr=False,  # a URL may hold a password
        description="NATS servers, comma separated (`nats://`, `tls://`)",
    )
    credentials: Path | None = Field(
        None, alias="BRIDGE_NATS_CREDENTIALS", description="credentials file (JWT and NKey)"
    )
    user: str | None = Field(None, alias="BRIDGE_NATS_USER", description="user name")
    password: SecretStr | None = Field(
        None, alias="BRIDGE_NATS_PASSWORD", description="password of that user"
    )
    token: SecretStr | None = Field(None, alias="BRIDGE_NATS_TOKEN", description="NATS token")
    tls_ca: Path | None = Field(
        None, alias="BRIDGE_NATS_TLS_CA", description="CA certificates (PEM) that sign the server"
    )
    tls_cert: Path | None = Field(
        None, alias="BRIDGE_NATS_TLS_CERT", description="client certificate (PEM)"
    )
    tls_key: Path | None = Field(
        None, alias="BRIDGE_NATS_TLS_KEY", description="key of the client certificate (PEM)"
    )
    timeout: float = Field(
        5.0,
        alias="BRIDGE_NATS_TIMEOUT",
        gt=0,
        le=60,
        description="longest wait for the broker: connect, acknowledgement, request (seconds)",
    )
    stream: str = Field(
        "EVENTS",
        alias="BRIDGE_STREAM",
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="JetStream stream that stores durable events",
    )
    prefix: str = Field(
        "", alias="BRIDGE_SUBJECT_PREFIX", description="first tokens of every subject"
    )
    inbox_prefix: str = Field(
        "_INBOX",
        alias="BRIDGE_NATS_INBOX_PREFIX",
        max_length=64,
        pattern=r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
        description="first tokens of the subjects that answers come to; one of its own for each "
        "NATS user keeps others from reading them",
    )
    catalogue: CommaSeparated = Field(
        (),
        alias="BRIDGE_CATALOGUE",
        description="modules with event types of your own, comma separated",
    )

    @field_validator("url")
    @classmethod
    def _urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        if not urls:
            raise ValueError("at least one server is needed")
        for url in urls:
            if not url.startswith(("nats://", "tls://")):
                raise ValueError("a server is nats://host:port or tls://host:port")
        return urls

    @field_validator("prefix")
    @classmethod
    def _prefix(cls, prefix: str) -> str:
        Subjects(prefix)
        return prefix

    @model_validator(mode="after")
    def _pair(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("BRIDGE_NATS_TLS_CERT and BRIDGE_NATS_TLS_KEY go together")
        return self

    @property
    def subjects(self) -> Subjects:
        """The subjects under this prefix."""
        return Subjects(self.prefix)

    def connect_options(self) -> dict[str, Any]:
        """Return what nats-py's ``connect`` takes for servers, inbox, identity and TLS.

        Raises :class:`SettingsError` that names the variable whose file can't be used.
        """
        options: dict[str, Any] = {"servers": list(self.url), "inbox_prefix": self.inbox_prefix}
        if self.credentials is not None:
            _check_credentials(self.credentials)
            options["user_credentials"] = str(self.credentials)
        if self.user is not None:
            options["user"] = self.user
        if self.password is not None:
            options["password"] = self.password.get_secret_value()
        if self.token is not None:
            options["token"] = self.token.get_secret_value()
        if self.tls_ca or self.tls_cert or any(url.startswith("tls://") for url in self.url):
            options["tls"] = self._tls()
        return options

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
        except (OSError, ssl.SSLError) as error:
            raise _unusable("BRIDGE_NATS_TLS_CA", self.tls_ca, error) from error
        if self.tls_cert is not None and self.tls_key is not None:
            for name, path in (
                ("BRIDGE_NATS_TLS_CERT", self.tls_cert),
                ("BRIDGE_NATS_TLS_KEY", self.tls_key),
            ):
                _read(name, path)
            try:
                context.load_cert_chain(self.tls_cert, self.tls_key)
            except (OSError, ssl.SSLError) as error:
                names = "BRIDGE_NATS_TLS_CERT, BRIDGE_NATS_TLS_KEY"
                raise _unusable(names, self.tls_cert, error) from error
        return context


def _check_credentials(path: Path) -> None:
    # nats-py's own error for a file that is not there is told as one of the authorization.
    text = _read("BRIDGE_NATS_CREDENTIALS", path)
    if b"BEGIN NATS USER JWT" not in text or b"BEGIN USER NKEY SEED" not in text:
        raise SettingsError(f"BRIDGE_NATS_CREDENTIALS: {path} holds no JWT and NKey")


def _read(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unusable(name, path, error) from error


def _unusable(name: str, path: Path | None, error: OSError) -> SettingsError:
    return SettingsError(f"{name}: {path or 'the system'}: {error.strerror or error}")
