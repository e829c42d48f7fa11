"""Subscriptions: their records, the ledger that stores them, and the emitters that deliver."""
