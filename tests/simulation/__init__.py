"""The subscription engine in virtual time, over a ledger in memory; one seed, one history."""
