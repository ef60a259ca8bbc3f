"""jst-bridge: Taobao's Jushita messages, landed in your database exactly once."""

__version__ = "0.1.0"
