"""Tamper evidence: hashes that chain the events of a stream, seals over the log, and finding what breaks them.

- `switching`: the chain on and off;
- `hashing`: what an event's hash is made of, and seals over many;
- `seals`: signed statements, as text and in files; `keys`: who signs them;
- `sealing`: make the next seal; `verifying`: look at everything again.

What all this can show, and what not, is in ``docs/evidence.md``.
"""
