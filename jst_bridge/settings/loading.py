"""From a file and the environment to `Settings`, or to one error that lists every problem."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from jst_bridge.errors import ConfigurationError
from jst_bridge.settings.model import App, RocketmqSource, Run, Settings, Store, Table, Tls

_DEFAULT_FILE = "jst-bridge.toml"
_FILE_VARIABLE = "JST_BRIDGE_CONFIG"
_PREFIX = "JST_"
_MAX_SECRET = 4096


class _Environment(Settings, BaseSettings):
    """Settings once more, for pydantic-settings to know which variables there may be."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, env_nested_delimiter="__", env_ignore_empty=True)


def load(path: str | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the file and the environment. Raises ConfigurationError with all problems, one a line.

    The file is `path`, else $JST_BRIDGE_CONFIG, else ./jst-bridge.toml; only the last may be missing, when
    variables say what is needed.
    """
    file = _locate(path, environ)
    table = _read(file) if file is not None else {}
    overlay, problems = _overlay(environ)
    if file is None and not overlay and not problems:
        raise ConfigurationError(
            f"no configuration: there is no {_DEFAULT_FILE} in this directory",
            remedy=f"name one with -c FILE or ${_FILE_VARIABLE}, or set JST_APP__KEY and the like",
        )
    base = file.absolute().parent if file is not None else Path.cwd()
    values = _merge(table, overlay)
    origin = _Origin(str(file) if file is not None else "environment", overlay)
    for place, key in _secrets(values):
        problems += [
            f"{origin.of(loc)}: {text}" for loc, text in _read_secret(values, overlay, base, place, key)
        ]
    _anchor_store(values, base)
    _anchor_tls(values, base)
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        problems += [f"{origin.of(detail['loc'])}: {_sentence(detail)}" for detail in found]
    else:
        if not problems:
            settings._file = file
            return settings
    raise ConfigurationError("\n".join(problems), remedy="correct this, then run `jst-bridge check`")


def _locate(path: str | None, environ: Mapping[str, str]) -> Path | None:
    named = path or environ.get(_FILE_VARIABLE)
    if named:
        return Path(named)
    default = Path(_DEFAULT_FILE)
    return default if default.exists() else None


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except FileNotFoundError:
        problem, remedy = "there is no such file", f"name the right one with -c FILE or ${_FILE_VARIABLE}"
    except OSError as error:
        problem, remedy = f"cannot be read: {error.strerror}", "let the user that runs jst-bridge read it"
    except UnicodeDecodeError as error:
        line = bytes(error.object)[: error.start].count(b"\n") + 1
        problem, remedy = f"line {line} is not UTF-8", "save the file as UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem, remedy = f"is not TOML: {error}", "correct the syntax there; texts need quotes"
    raise ConfigurationError(f"{file}: {problem}", remedy=remedy)


def _overlay(environ: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """What the JST_ variables say, as nested tables, and what is wrong with them."""
    problems = []
    known = list(Settings.model_fields)
    for name in environ:
        section, delimiter, _ = name.upper().removeprefix(_PREFIX).lower().partition("__")
        if name.upper().startswith(_PREFIX) and delimiter and section not in known:
            problems.append(f"environment: {name}: no such section; the sections are {', '.join(known)}")
    source = EnvSettingsSource(_Environment)
    source.env_vars = {name.lower(): value for name, value in environ.items() if value}
    try:
        return source(), problems
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        variable = _PREFIX + field[1].upper() if field else _PREFIX.rstrip("_")
        return {}, [
            *problems,
            f"environment: {variable}: is not JSON; set single keys with {variable}__... instead",
        ]


def _merge(below: Any, above: Any) -> Any:
    """`above` laid over `below`, table by table; numbered keys reach into a list."""
    if (
        isinstance(below, list | None)
        and isinstance(above, dict)
        and above
        and all(k.isdecimal() for k in above)
    ):
        entries = list(below or ())
        for number in sorted(above, key=int):
            index = int(number)
            if index < len(entries):
                entries[index] = _merge(entries[index], above[number])
            else:
                entries.append(above[number])
        return entries
    if isinstance(above, dict):
        tables = below if isinstance(below, dict) else {}
        return {**tables, **{key: _merge(tables.get(key), value) for key, value in above.items()}}
    return above


Loc = tuple[int | str, ...]


def _secrets(values: dict[str, Any]) -> Iterator[tuple[Loc, str]]:
    """Tables, and the keys in them that a file may say."""
    yield ("app",), "secret"
    yield ("store",), "password"
    sources = values.get("source")
    for index in range(len(sources) if isinstance(sources, list) else 0):
        for key in ("access_key", "secret_key", "security_token"):
            yield ("source", index), key
        yield ("source", index, "tls"), "key_password"


def _at(values: Any, loc: Loc) -> Any:
    """What is at this place, None when nothing is; the environment numbers sources with text."""
    for part in loc:
        if isinstance(values, dict):
            values = values.get(str(part))
        elif isinstance(values, list) and isinstance(part, int) and part < len(values):
            values = values[part]
        else:
            return None
    return values


def _dotted(loc: Loc) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def _read_secret(
    values: dict[str, Any], overlay: dict[str, Any], base: Path, place: Loc, key: str
) -> list[tuple[Loc, str]]:
    """Put the content of <place>.<key>_file into <place>.<key>; a variable wins over the file."""
    table, file = _at(values, place), f"{key}_file"
    loc = (*place, file)
    if not isinstance(table, dict) or not isinstance(table.get(file), str):
        return []
    from_environment = [name for name in (key, file) if name in (_at(overlay, place) or {})]
    if key in table and len(from_environment) != 1:
        return [(loc, f"is given together with {_dotted((*place, key))}; keep one of the two")]
    if from_environment == [key]:
        del table[file]
        return []
    path = table[file] = base / table[file]
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_SECRET + 1)
        secret = content.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        return [(loc, f"{path} cannot be read: {error.strerror}; make the file, or let this user read it")]
    except UnicodeDecodeError:
        return [(loc, f"{path} is not UTF-8 text; write only the {key} into it")]
    if not secret or len(content) > _MAX_SECRET:
        return [(loc, f"{path} is {'too long' if secret else 'empty'}; write only the {key} into it")]
    table[key] = secret
    return []


def _anchor_store(values: dict[str, Any], base: Path) -> None:
    store = values.setdefault("store", {})
    if isinstance(store, dict):
        url = store.setdefault("url", Store.model_fields["url"].default)
        if isinstance(url, str) and (match := re.fullmatch(r"sqlite:///([^/:].*)", url)):
            store["url"] = f"sqlite:///{base / match[1]}"


def _anchor_tls(values: dict[str, Any], base: Path) -> None:
    sources = values.get("source")
    for index in range(len(sources) if isinstance(sources, list) else 0):
        table = _at(values, ("source", index, "tls"))
        for key in ("ca_file", "cert_file", "key_file"):
            if isinstance(table, dict) and isinstance(table.get(key), str):
                table[key] = base / table[key]


class _Origin:
    """Says where a key came from: the file, or the variable that set it."""

    def __init__(self, file: str, overlay: dict[str, Any]) -> None:
        self._file = file
        self._overlay = overlay

    def of(self, loc: tuple[int | str, ...]) -> str:
        if loc and _at(self._overlay, loc) is not None:
            return f"environment: {_PREFIX}{'__'.join(map(str, loc)).upper()}"
        return f"{self._file}: {_dotted(loc)}"


_TABLES: dict[int | str, type[Table]] = {"app": App, "store": Store, "run": Run, "source": RocketmqSource}
_PRIVATE = {"secret", "password", "secret_key", "security_token", "key_password"}


def _table(loc: Loc) -> type[Table]:
    """Whose key the last part of a place is."""
    if len(loc) > 3 and loc[2] == "tls":
        return Tls
    return _TABLES.get(loc[0], Settings) if len(loc) > 1 else Settings


def _sentence(detail: ErrorDetails) -> str:
    loc = detail["loc"]
    key = str(loc[-1]) if loc else ""
    table = _table(loc)
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, table.model_fields, n=1)
        return (
            f"unknown key; did you mean {near[0]}?"
            if near
            else f"unknown key; known: {', '.join(table.model_fields)}"
        )
    if detail["type"] == "missing":
        if table is Settings:
            return f"is missing; add [{key}]"
        example = json.dumps((table.model_fields[key].examples or [""])[0])
        return f"is missing; add it, for example {key} = {example}"
    text = str(detail["ctx"]["error"]) if detail["type"] == "value_error" else detail["msg"]
    text = text.replace("Input should be", "must be").replace("Input should", "must")
    if detail["type"] == "too_short":
        text = "must not be empty"
    value = detail["input"]
    private = (
        not _PRIVATE.isdisjoint(loc) or ("url" in loc and "@" in str(value)) or detail["type"] == "model_type"
    )
    if private or not isinstance(value, str | int | float):
        return text
    return f"{text} (it is {json.dumps(value[:80] if isinstance(value, str) else value, ensure_ascii=False)})"
