"""Four systems side by side on the same shaped links: `python -m benchmarks.wan`."""
