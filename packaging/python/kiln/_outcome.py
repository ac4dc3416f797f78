"""What calls return and raise, the same for threads and for asyncio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .types import Change, Ended, RunResult


class KilnError(Exception):
    """kiln could not do what was asked. ``code`` is one of docs/errors.md."""

    def __init__(
        self, code: str, message: str, hint: str | None = None, causes: Sequence[str] = ()
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.causes = list(causes)

    def __str__(self) -> str:
        hint = "" if self.hint is None else f"; {self.hint}"
        return f"{self.message} [{self.code}]{hint}"


@dataclass(frozen=True)
class Completed:
    """A command that has ended. A command that failed is no error, unless ``check`` was given."""

    argv: list[str]
    #: Empty where ``on_stdout`` took it.
    stdout: bytes
    stderr: bytes
    ended: Ended

    @property
    def exit_code(self) -> int | None:
        """Its own exit status; None if a signal ended it."""
        return self.ended.get("exitCode")


@dataclass(frozen=True)
class RunOutcome(Completed):
    #: All of it: the artifacts, warnings, the report.
    result: RunResult


class CommandError(Exception):
    """A command failed, and ``check`` was given."""

    def __init__(self, completed: Completed) -> None:
        ended = completed.ended
        how = ended.get("signal") or f"exit status {ended.get('exitCode')}"
        limit = f", limit {ended['limit']}" if "limit" in ended else ""
        said = completed.stderr.decode(errors="replace").strip()
        super().__init__(f"{completed.argv} failed ({how}{limit})" + (f": {said}" if said else ""))
        self.completed = completed


@dataclass(frozen=True)
class Difference:
    changes: list[Change]
    #: There are more: name ``paths`` to see the rest.
    truncated: bool
