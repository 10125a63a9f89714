"""One command per claim: each prints a table and, as its last line, one JSON object."""
