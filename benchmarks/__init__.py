"""Benchmarks: what the event store costs beside raw Postgres, and beside other event stores on Postgres.

``python -m benchmarks --help`` tells how to run them, `works/` holds one function per comparison.
"""
