"""Counts of what a node does: plain numbers that cost next to nothing, for whoever wants to show them."""

from __future__ import annotations
