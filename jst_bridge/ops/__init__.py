"""How the bridge tells people and programs what it does: logging, progress, summary."""
