"""Arguments in, settings out. No logic."""
