"""``python -m eventstore.cli`` is the command ``eventstore``."""

from eventstore.cli import main

main(prog_name="eventstore")
