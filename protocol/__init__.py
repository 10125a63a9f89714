"""What peers agree on: synchronous, deterministic, typed. No IO, no clock, no randomness."""
