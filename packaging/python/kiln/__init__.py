"""kiln from Python: commands, builds and sandboxes, by kilnd's Varlink interface.

>>> from kiln import connect
>>> connect().run(["echo", "hello"], image="debian-build").stdout
b'hello\\n'

``kiln.aio`` has the same for asyncio. Options have the names that docs/reference/api.md gives them.
"""

from ._outcome import CommandError, Completed, Difference, KilnError, RunOutcome
from .sync import Command, Kiln, Sandbox, connect

__all__ = [
    "Command",
    "CommandError",
    "Completed",
    "Difference",
    "Kiln",
    "KilnError",
    "RunOutcome",
    "Sandbox",
    "connect",
]
