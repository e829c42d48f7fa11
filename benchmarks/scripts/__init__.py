"""Figures of parts that need no server, or no other side to compare with: `python -m benchmarks.scripts.NAME`."""
