"""Measurements: one command per claim; a table, and as the last line one JSON object."""
