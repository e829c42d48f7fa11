"""The demo: a history, one subscription of each kind over it, and a count of what they were delivered."""
