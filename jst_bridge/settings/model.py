"""The tables of jst-bridge.toml as frozen values."""

from __future__ import annotations

import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)

from jst_bridge.settings import values

__all__ = ["App", "RocketmqSource", "Run", "Settings", "Signing", "Store", "Table", "Tls"]

Signing = Literal["none", "acl", "ons"]
Readable = Annotated[Path, AfterValidator(values.readable)]


class Table(BaseModel):
    """One table: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, allow_inf_nan=False)


class App(Table):
    """[app]: the app (ISV) at the Taobao Open Platform. Without a secret, requests to a broker are not signed."""

    key: Annotated[str, BeforeValidator(values.app_key)] = Field(examples=["12345678"])
    secret: SecretStr | None = Field(default=None, min_length=1)
    secret_file: Path | None = None
    """Where `secret` was read from, when it was."""
    gateway: Annotated[str, AfterValidator(values.gateway)] = "https://eco.taobao.com/router/rest"
    """Where the platform's API is called."""
    sign_method: Literal["md5", "hmac", "hmac-sha256"] = "hmac-sha256"
    """How calls of that API are signed; some old apps know the first two only."""


class Store(Table):
    """[store]: the database everything lands in."""

    url: Annotated[str, AfterValidator(values.store_url)] = Field(
        default="sqlite:///jst-bridge.db", repr=False
    )
    password: SecretStr | None = Field(default=None, min_length=1)
    """Of the user in `url`, when that names none."""
    password_file: Path | None = None
    """Where `password` was read from, when it was."""
    keep_messages: Annotated[timedelta | None, BeforeValidator(values.keep_messages)] = Field(
        default=timedelta(days=30), validate_default=False
    )
    """How long landed messages are kept; None is for ever. State stays."""

    @field_validator("password")
    @classmethod
    def _once(cls, password: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        url = str(info.data.get("url", ""))
        if password is not None and url.startswith("sqlite"):
            raise ValueError("is of no use for SQLite; remove it, or name a server in store.url")
        if password is not None and re.search(r"://[^/:@]*:.*@", url):
            raise ValueError("is given together with one in store.url; keep one of the two")
        return password

    @property
    def shown_url(self) -> str:
        """`url` without its password and options."""
        return re.sub(r"(://[^/:@]*):.*@", r"\1:***@", self.url).partition("?")[0]

    @property
    def login(self) -> tuple[str, str | None]:
        """`url` and password, for whoever connects."""
        return self.url, None if self.password is None else self.password.get_secret_value()


class Run(Table):
    """[run]: how the process works and talks."""

    stop_deadline: float = Field(default=10, gt=0, le=3600)
    """Seconds a stop waits for the landing in flight."""
    leave_after: float = Field(default=60, gt=0, le=86_400)
    """Seconds the store may be down before the consumer groups are left to other members."""
    max_batch_messages: int = Field(default=2000, ge=1, le=10_000)
    """Messages in one transaction at most."""
    max_batch_bytes: Annotated[int, BeforeValidator(values.size)] = Field(
        default=4 << 20, ge=64 << 10, le=64 << 20
    )
    """Bytes of bodies in one transaction at most; a single larger message still lands."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["auto", "json", "text"] = "auto"


class Tls(Table):
    """[source.tls]: TLS to name servers and brokers; the table alone turns it on. All files are PEM."""

    ca_file: Readable | None = None
    """The CAs to trust; those of the system when None."""
    cert_file: Readable | None = None
    """The client certificate."""
    key_file: Readable | None = None
    """Its key; None when it is in `cert_file` too."""
    key_password: SecretStr | None = Field(default=None, min_length=1)
    key_password_file: Path | None = None
    """Where `key_password` was read from, when it was."""
    server_name: Annotated[str, AfterValidator(values.host_name)] = ""
    """The name to ask for and to find in certificates; '' is the host that is dialled."""
    insecure: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Tls:
        if self.cert_file is None and (self.key_file is not None or self.key_password is not None):
            raise ValueError("key_file and key_password are of use with cert_file only; add it")
        if self.insecure and self.ca_file is not None:
            raise ValueError("insecure checks no certificate; remove it, or ca_file")
        return self


class RocketmqSource(Table):
    """[[source]] of type rocketmq: one system topic read by one consumer group."""

    type: Literal["rocketmq"] = Field(examples=["rocketmq"])
    name: Annotated[str, AfterValidator(values.source_name)] = "rocketmq"
    """Part of every stored row: do not change it later."""
    name_servers: Annotated[
        tuple[Annotated[str, AfterValidator(values.name_server)], ...],
        BeforeValidator(values.name_servers),
        AfterValidator(values.one_url),
        Field(min_length=1),
    ] = Field(examples=[["127.0.0.1:9876"]])
    """host:port each, an IPv6 address in brackets; or one URL of an address server."""
    broker_address_map: Annotated[dict[str, str], AfterValidator(values.address_map)] = Field(default={})
    """Advertised address (host:port, or host) -> the one to dial."""
    group: Annotated[str, values.rocketmq_name(120)] = Field(examples=["GID_bridge"])
    system_topic: Annotated[str, values.rocketmq_name(127)] | None = None
    """Never None in loaded settings: rmq_sys_jst_<app.key> by default."""
    tags: Annotated[str, AfterValidator(values.tags)] = "*"
    """Normalised: "*", or "A || B"."""
    start_from: Annotated[Literal["first", "last"] | datetime, BeforeValidator(values.start_from)] = "first"
    """Where a group without a committed offset begins; a time is aware."""
    credentials: Signing | None = None
    """How requests are signed; None decides by whether there are keys: see `Settings.signing`."""
    access_key: str | None = Field(default=None, min_length=1, max_length=255)
    """None is app.key, with app.secret."""
    access_key_file: Path | None = None
    secret_key: SecretStr | None = Field(default=None, min_length=1)
    secret_key_file: Path | None = None
    security_token: SecretStr | None = Field(default=None, min_length=1)
    """Of temporary (STS) keys."""
    security_token_file: Path | None = None
    channel: str = Field(default="CLOUD", pattern=r"^[A-Za-z0-9_-]{0,64}$")
    """OnsChannel of requests signed for ons; '' sends none."""
    tls: Tls | None = None
    """None is plaintext."""
    namespace: Annotated[str, AfterValidator(values.namespace)] = ""
    """Of group, retry topic and topics on the wire; everything else sees bare names."""
    namespace_system_topic: bool = False
    """Whether the namespace goes before rmq_sys_ topics, too."""
    mode: Literal["clustering", "broadcasting"] = "clustering"
    """Whether the members of the group share the messages, or each instance gets every one."""
    instance: Annotated[str, AfterValidator(values.instance)] | None = Field(
        default=None, validate_default=True, examples=["ecs-1"]
    )
    """Whose positions these are, in broadcasting; None in clustering."""

    @field_validator("instance")
    @classmethod
    def _named(cls, instance: str | None, info: ValidationInfo) -> str | None:
        mode = info.data.get("mode")
        if mode == "broadcasting" and instance is None:
            raise ValueError(
                'is missing; broadcasting needs a name of this process alone, such as instance = "ecs-1"'
            )
        if mode == "clustering" and instance is not None:
            raise ValueError('is for mode = "broadcasting" only; remove it, or change mode')
        return instance

    @model_validator(mode="after")
    def _consistent(self) -> RocketmqSource:
        if (self.access_key is None) != (self.secret_key is None):
            given, lacking = ("access_key", "secret_key") if self.access_key else ("secret_key", "access_key")
            raise ValueError(f"{given} is given without {lacking}; add {lacking} or {lacking}_file")
        if self.credentials == "none" and (self.access_key is not None or self.security_token is not None):
            raise ValueError(
                'credentials = "none" signs nothing; remove the keys, or change it to "ons" or "acl"'
            )
        if self.credentials == "acl" and self.channel and "channel" in self.model_fields_set:
            raise ValueError(
                'channel is sent with credentials = "ons" only; remove it, or change credentials'
            )
        if self.namespace_system_topic and not self.namespace:
            raise ValueError("namespace_system_topic is of use with namespace only; add it")
        prefix = f"{self.namespace}%"
        if self.namespace and (self.group.startswith(prefix) or (self.system_topic or "").startswith(prefix)):
            raise ValueError(
                "group and system_topic are written without the namespace, which is put before them"
            )
        if self.namespace and len(prefix + self.group) > 120:
            raise ValueError("namespace and group are longer than 120 characters together (RocketMQ's rule)")
        return self


class Settings(Table):
    """Everything the configuration says."""

    app: App
    store: Store = Store()
    run: Run = Run()
    source: tuple[RocketmqSource, ...] = ()
    _file: Path | None = PrivateAttr(default=None)

    @property
    def file(self) -> Path | None:
        """The configuration file, None when the environment said everything."""
        return self._file

    @field_validator("source")
    @classmethod
    def _complete(
        cls, sources: tuple[RocketmqSource, ...], info: ValidationInfo
    ) -> tuple[RocketmqSource, ...]:
        names = [source.name for source in sources]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"more than one source is named {', '.join(twice)}; give each its own name")
        app = info.data.get("app")
        for source in sources:
            keyless = source.secret_key is None and (app is None or app.secret is None)
            if source.credentials in ("acl", "ons") and keyless and app is not None:
                raise ValueError(
                    f'source {source.name} has credentials = "{source.credentials}" and no keys; '
                    "set app.secret_file, or access_key and secret_key_file of the source"
                )
        topic = f"rmq_sys_jst_{app.key}" if app is not None else None
        return tuple(s if s.system_topic else s.model_copy(update={"system_topic": topic}) for s in sources)

    def signing(self, source: RocketmqSource) -> Signing:
        """How requests of this source are signed: unless it says otherwise, for ons when there are keys."""
        if source.credentials is not None:
            return source.credentials
        return "none" if source.secret_key is None and self.app.secret is None else "ons"

    def warnings(self) -> list[str]:
        """What can be used as written but is probably not meant. For `jst-bridge check`; no secrets."""
        found = [warning for source in self.source for warning in _doubts(source, self.app)]
        if not self.source:
            found.append("source: there is none, so `run` has nothing to consume; add a [[source]]")
        unsigned = [s for s in self.source if s.credentials is None and self.signing(s) == "none"]
        if self.app.secret is None and (unsigned or not self.source):
            found.append(
                "app.secret: there is none, so requests are not signed, and Jushita refuses unsigned ones"
            )
        elif (
            self.app.secret is not None
            and self.app.secret.get_secret_value() != self.app.secret.get_secret_value().strip()
        ):
            found.append("app.secret: begins or ends with white space; signatures are made with it")
        holder = self.app.secret_file or (self._file if self.app.secret is not None else None)
        if holder is not None and _readable_by_all(holder):
            found.append(f"app.secret: everyone on this host can read {holder}; run chmod 600 {holder}")
        holder = self.store.password_file or (
            self._file if self.store.password is not None or "***" in self.store.shown_url else None
        )
        if holder is not None and _readable_by_all(holder):
            found.append(f"store.password: everyone on this host can read {holder}; run chmod 600 {holder}")
        if self.store.keep_messages is None:
            found.append('store.keep_messages: "forever" deletes nothing, so the store grows without end')
        groups = [(source.group, frozenset(source.name_servers)) for source in self.source]
        for source, group in zip(self.source, groups, strict=True):
            if groups.count(group) > 1:
                found.append(
                    f"source {source.name}: shares group {source.group} with another; give each its own"
                )
        return found


_INSTANCE = re.compile(r"(?:https?://)?(MQ_INST_\w+_\w+)\.")
"""The Java client takes the first label of such a host as its namespace."""


def _doubts(source: RocketmqSource, app: App) -> list[str]:
    found = []
    if source.start_from == "last":
        found.append(
            f'source {source.name}: start_from = "last" skips what waits at the broker at the first start'
        )
    elif isinstance(source.start_from, datetime) and source.start_from > datetime.now(UTC):
        found.append(f"source {source.name}: start_from lies in the future; messages before it are skipped")
    if source.tls is not None and source.tls.insecure:
        found.append(
            f"source {source.name}: tls.insecure checks no certificate; use ca_file outside of trials"
        )
    instance = next((match[1] for match in map(_INSTANCE.match, source.name_servers) if match), "")
    if instance and not source.namespace:
        found.append(
            f"source {source.name}: the name server is one of instance {instance}, where the Java client would use "
            f'namespace = "{instance}"'
        )
    files = (source.secret_key_file, source.security_token_file, source.tls.key_file if source.tls else None)
    found += [
        f"source {source.name}: everyone on this host can read {holder}; run chmod 600 {holder}"
        for holder in files
        if holder is not None and _readable_by_all(holder)
    ]
    prefix, topic = "rmq_sys_jst_", source.system_topic or ""
    if topic.startswith(prefix) and topic != prefix + app.key:
        found.append(f"source {source.name}: system_topic {topic} belongs to another app than {app.key}")
    return found


def _readable_by_all(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False
