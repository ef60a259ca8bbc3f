"""What jst-bridge.toml may say, where it is found, and what the environment may override.

`load` reads the file, lays the environment over it, and answers with frozen `Settings` or with one
`ConfigurationError` that lists every problem, one a line: file or variable, dotted key, what is wrong, and
what to do.

    JST_APP__SECRET            app.secret
    JST_STORE__URL             store.url
    JST_SOURCE__0__GROUP       source[0].group (or JST_SOURCE with the whole list as JSON)

Relative paths, that of an SQLite store included, start at the directory of the configuration file.
"""

from __future__ import annotations

from jst_bridge.settings.loading import load
from jst_bridge.settings.model import App, RocketmqSource, Run, Settings, Signing, Store, Tls
from jst_bridge.settings.values import BEIJING, instant, span

__all__ = [
    "BEIJING",
    "App",
    "RocketmqSource",
    "Run",
    "Settings",
    "Signing",
    "Store",
    "Tls",
    "instant",
    "load",
    "span",
]
