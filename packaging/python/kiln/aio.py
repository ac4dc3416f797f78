"""kiln for asyncio. kiln.sync is made from this file, by scripts/write/python.ts of kiln."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, Unpack, cast

from ._asyncio import Beside, Channel, away
from ._outcome import CommandError, Completed, Difference, KilnError, RunOutcome
from ._wire import (
    INTERFACE_VERSION,
    PIECE,
    Place,
    names_files,
    reply,
    request,
    unreachable_error,
    with_paths,
)
from .types import (
    ApplyOptions,
    ApplyReply,
    BuildOptions,
    BuildResult,
    Check,
    DiffOptions,
    Ended,
    ExecuteOptions,
    ForkOptions,
    Image,
    ImageName,
    OpenSandboxOptions,
    Progress,
    RollbackOptions,
    RunOptions,
    Service,
    Snapshot,
    SnapshotOptions,
    Terminal,
)
from .types import Sandbox as ListedSandbox

OnBytes = Callable[[bytes], object]
OnProgress = Callable[[Progress], object]
OnText = Callable[[str], object]

_Done = TypeVar("_Done", bound=Completed)


async def connect(
    state: str | os.PathLike[str] | None = None, *, start: bool = True, program: str = "kiln"
) -> Kiln:
    """Finds kilnd, and has root's client ``program`` start it where none runs.

    ``state`` is the state folder; unless given, ``KILN_STATE`` of the environment, or this machine's kilnd.
    """
    found = os.environ.get("KILN_STATE") if state is None else os.fspath(state)
    place = Place(os.path.abspath(found) if found else None, program)
    kiln = Kiln(place, start=start and os.getuid() == 0)
    try:
        version = await kiln.call("GetVersion")
    except KilnError as error:
        if error.code != "E_NO_DAEMON" or not kiln._starts:
            raise
        # One that is replaced, or that had nothing to do, may end before it answers.
        version = await kiln.call("GetVersion")
    if version["interface"] != INTERFACE_VERSION:
        what = f"kilnd {version['kiln']} has version {version['interface']} of the interface"
        hint = f"this package is for version {INTERFACE_VERSION}: install that of the same kiln"
        raise KilnError("E_PROTOCOL", what, hint)
    return kiln


class Connection:
    """One call after the other. What was asked for ends when it is closed."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def call(self, method: str, parameters: Mapping[str, object]) -> dict[str, Any]:
        await self._channel.send(request(method, parameters, more=False))
        return reply(await self._channel.receive(), parameters)[0]

    async def replies(
        self, method: str, parameters: Mapping[str, object]
    ) -> AsyncIterator[dict[str, Any]]:
        await self._channel.send(request(method, parameters, more=True))
        continues = True
        while continues:
            said, continues = reply(await self._channel.receive(), parameters)
            yield said

    async def close(self) -> None:
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


class _Output:
    """Takes replies of a command."""

    def __init__(
        self,
        on_stdout: OnBytes | None = None,
        on_stderr: OnBytes | None = None,
        on_progress: OnProgress | None = None,
        on_warning: OnText | None = None,
    ) -> None:
        self.stdout = bytearray()
        self.stderr = bytearray()
        self._on_stdout = self.stdout.extend if on_stdout is None else on_stdout
        self._on_stderr = self.stderr.extend if on_stderr is None else on_stderr
        self._on_progress = on_progress
        self._on_warning = on_warning

    def take(self, said: dict[str, Any]) -> None:
        if "stdout" in said:
            self._on_stdout(base64.b64decode(said["stdout"]))
        if "stderr" in said:
            self._on_stderr(base64.b64decode(said["stderr"]))
        if "progress" in said and self._on_progress is not None:
            self._on_progress(said["progress"])
        if "warning" in said and self._on_warning is not None:
            self._on_warning(said["warning"])


class Kiln:
    """kilnd, made by :func:`connect`. Each call has a connection of its own: calls may be made at the same time."""

    def __init__(self, place: Place, *, start: bool) -> None:
        self._place = place
        self._starts = start

    async def run(
        self,
        argv: Sequence[str] | str,
        *,
        input: bytes | str = b"",
        check: bool = False,
        on_stdout: OnBytes | None = None,
        on_stderr: OnBytes | None = None,
        on_progress: OnProgress | None = None,
        on_warning: OnText | None = None,
        **options: Unpack[RunOptions],
    ) -> RunOutcome:
        """Runs one command in a sandbox of its own. A string is a line for the image's /bin/sh."""
        words = _words(argv)
        output = _Output(on_stdout, on_stderr, on_progress, on_warning)
        wanted = with_paths({**options, "argv": words})
        result = await self._command("Run", wanted, input, output)
        done = RunOutcome(words, bytes(output.stdout), bytes(output.stderr), result["ended"], result)
        return _checked(done) if check else done

    async def open(
        self,
        *,
        on_progress: OnProgress | None = None,
        on_warning: OnText | None = None,
        **options: Unpack[OpenSandboxOptions],
    ) -> Sandbox:
        """Opens a sandbox for any number of commands, and files in and out. Use it with ``with``, or close it."""
        wanted = with_paths(options)
        output = _Output(on_progress=on_progress, on_warning=on_warning)
        own = await self._connection(names_files(wanted))
        try:
            async for said in own.replies("OpenSandbox", wanted):
                output.take(said)
                if "sandbox" in said:
                    return Sandbox(self, own, said["sandbox"], said["image"])
            raise _no_result("OpenSandbox")
        except BaseException:
            await own.close()
            raise

    async def build(
        self,
        sources: Sequence[str],
        *,
        on_phase: OnText | None = None,
        on_output: OnBytes | None = None,
        on_progress: OnProgress | None = None,
        on_warning: OnText | None = None,
        **options: Unpack[BuildOptions],
    ) -> BuildResult:
        """Builds a source package, a spec, a recipe, or a chain. A build that failed is no error: see ``exitStatus``."""
        output = _Output(on_progress=on_progress, on_warning=on_warning)

        def take(said: dict[str, Any]) -> None:
            output.take(said)
            if "phase" in said and on_phase is not None:
                on_phase(said["phase"])
            if "output" in said and on_output is not None:
                on_output(base64.b64decode(said["output"]))

        wanted = with_paths({**options, "sources": list(sources)})
        return cast(BuildResult, await self._job("Build", wanted, take))

    async def images(self) -> list[Image]:
        """The images of the store, the one used last first."""
        return cast(list[Image], (await self.call("ListImages"))["images"])

    async def build_image(
        self,
        image: str,
        *,
        update: bool = False,
        on_progress: OnProgress | None = None,
        on_warning: OnText | None = None,
    ) -> Image:
        """Makes an image of a recipe or a lock, unless it is there."""
        output = _Output(on_progress=on_progress, on_warning=on_warning)
        wanted = with_paths({"image": image, "update": update})
        return cast(Image, await self._job("BuildImage", wanted, output.take))

    async def lock_image(self, recipe: str, output: str | None = None) -> str:
        """Solves a recipe and writes its lock, whose path is returned."""
        wanted = with_paths({"recipe": recipe, "output": output})
        return cast(str, await self._job("LockImage", wanted, lambda _: None))

    async def remove_image(self, image: str) -> int:
        """Removes an unused image; returns how many bytes that freed."""
        return cast(int, (await self.call("RemoveImage", image=image))["freed"])

    async def sandboxes(self) -> list[ListedSandbox]:
        return cast(list[ListedSandbox], (await self.call("ListSandboxes"))["sandboxes"])

    async def kill(self, sandbox: str) -> None:
        await self.call("KillSandbox", sandbox=sandbox)

    async def snapshot(self, sandbox: str, **options: Unpack[SnapshotOptions]) -> str:
        """Keeps what a kept or open sandbox has written to its root; returns the id of the snapshot."""
        return cast(str, (await self.call("Snapshot", sandbox=sandbox, **options))["snapshot"])

    async def snapshots(self) -> list[Snapshot]:
        return cast(list[Snapshot], (await self.call("ListSnapshots"))["snapshots"])

    async def remove_snapshot(self, snapshot: str) -> None:
        await self.call("RemoveSnapshot", snapshot=snapshot)

    async def fork(self, of: str, **options: Unpack[ForkOptions]) -> list[str]:
        """Makes kept sandboxes with the files of a snapshot, or of a kept or open sandbox; returns their ids."""
        return cast(list[str], (await self.call("Fork", from_=of, **options))["sandboxes"])

    async def commit_image(self, of: str, name: str) -> Image:
        """Makes an image of a snapshot, or of what a sandbox has written."""
        return cast(Image, (await self.call("CommitImage", from_=of, name=name))["image"])

    async def rollback(self, sandbox: str, **options: Unpack[RollbackOptions]) -> str:
        """Makes the root of a kept or open sandbox what it was; returns the id of the snapshot."""
        return cast(str, (await self.call("Rollback", sandbox=sandbox, **options))["snapshot"])

    async def diff(self, of: str, **options: Unpack[DiffOptions]) -> Difference:
        """What a kept sandbox has changed in its root or at ``target``, or what a snapshot has."""
        difference = Difference([], truncated=False)
        async with await self._connection(_is_folder(options)) as connection:
            async for said in connection.replies("Diff", {**options, "of": of}):
                difference.changes.extend(said.get("changes", []))
                difference = Difference(difference.changes, said.get("truncated") is True)
        return difference

    async def patch(self, of: str, **options: Unpack[DiffOptions]) -> bytes:
        """The same as a patch for ``git apply``, in which binary files are named only."""
        pieces = bytearray()
        async with await self._connection(_is_folder(options)) as connection:
            async for said in connection.replies("Diff", {**options, "of": of, "patch": True}):
                pieces += base64.b64decode(said.get("patch", ""))
        return bytes(pieces)

    async def apply(self, sandbox: str, target: str, **options: Unpack[ApplyOptions]) -> ApplyReply:
        """Writes what a kept sandbox has changed in a folder bound with ``cow`` into it. See ``left`` of the reply."""
        wanted = {**options, "sandbox": sandbox, "target": target}
        async with await self._connection(with_files=True) as connection:
            return cast(ApplyReply, await connection.call("Apply", wanted))

    async def discard(self, sandbox: str, target: str) -> None:
        """Throws away what a kept sandbox has changed in a folder bound with ``cow``."""
        async with await self._connection(with_files=True) as connection:
            await connection.call("Discard", {"sandbox": sandbox, "target": target})

    async def services(self, names: Sequence[str] | None = None) -> list[Service]:
        wanted = None if names is None else list(names)
        return cast(list[Service], (await self.call("ListServices", names=wanted))["services"])

    async def doctor(self, names: Sequence[str] | None = None) -> list[Check]:
        wanted = None if names is None else list(names)
        return cast(list[Check], (await self.call("Doctor", names=wanted))["checks"])

    async def events(
        self, *, since: int | None = None, follow: bool = False
    ) -> AsyncIterator[dict[str, Any]]:
        """Who did what, as docs/events.md has it; with ``follow``, what comes as well, without an end."""
        async for said in self.replies("Events", since=since, follow=follow):
            for event in said["events"]:
                yield event

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Calls any method; its reply as JSON has it."""
        async with await self._connection(with_files=False) as connection:
            return await connection.call(method, parameters)

    async def replies(self, method: str, **parameters: object) -> AsyncIterator[dict[str, Any]]:
        """Calls any method with ``more``; each reply as it comes."""
        async with await self._connection(with_files=False) as connection:
            async for said in connection.replies(method, parameters):
                yield said

    async def _connection(self, with_files: bool) -> Connection:
        # kilnd opens root's files itself.
        if with_files and os.getuid() != 0:
            return Connection(Channel(await away(self._place.link_with_files)))
        try:
            return Connection(Channel(self._place.link()))
        except (FileNotFoundError, ConnectionRefusedError):
            if not self._starts:
                raise unreachable_error(self._place.path) from None
        await away(self._place.start)
        try:
            return Connection(Channel(self._place.link()))
        except (FileNotFoundError, ConnectionRefusedError):
            raise unreachable_error(self._place.path) from None

    async def _job(
        self,
        method: str,
        wanted: Mapping[str, Any],
        take: Callable[[dict[str, Any]], object],
    ) -> Any:
        async with await self._connection(names_files(wanted)) as connection:
            async for said in connection.replies(method, wanted):
                take(said)
                if "result" in said:
                    return said["result"]
        raise _no_result(method)

    async def _command(
        self, method: str, wanted: dict[str, Any], input: bytes | str, output: _Output
    ) -> Any:
        """Runs a command to its end. What one message has no room for is sent beside."""
        given = input.encode() if isinstance(input, str) else input
        rest = given[PIECE:]
        files = names_files(wanted)
        if given:
            wanted["input"] = base64.b64encode(given[:PIECE]).decode()
        if rest:
            wanted["interactive"] = True
            if files and os.getuid() != 0:
                # kilnd does not know what a client has started.
                what = "input: more than 1 MiB, in a call that names files"
                raise KilnError("E_ARGUMENT", what, "bind a file with it, or copy one in: copyIn")
        feeding: Beside | None = None
        connection = await self._connection(files)
        try:
            async for said in connection.replies(method, wanted):
                output.take(said)
                if "started" in said and rest:
                    process = said["started"]["process"]
                    feeding = Beside(self._feed, process, rest, connection)
                if "result" in said:
                    return said["result"]
            raise _no_result(method)
        finally:
            await connection.close()
            if feeding is not None:
                await feeding.join()

    async def _feed(self, process: str, rest: bytes, command: Connection) -> None:
        """A command that has ended, or reads no more, does without."""
        try:
            async with await self._connection(with_files=False) as connection:
                for at in range(0, len(rest), PIECE):
                    data = base64.b64encode(rest[at : at + PIECE]).decode()
                    end = at + PIECE >= len(rest)
                    wanted = {"process": process, "data": data, "end": end}
                    await connection.call("SendInput", wanted)
        except KilnError as error:
            if error.code not in ("E_INPUT", "E_NO_PROCESS"):
                await command.close()
                raise


class Sandbox:
    """An open sandbox. Its end, and that of this process, leaves nothing of it."""

    def __init__(self, kiln: Kiln, own: Connection, id: str, image: ImageName) -> None:
        self.id = id
        self.image = image
        self._kiln = kiln
        self._own = own

    async def exec(
        self,
        argv: Sequence[str] | str,
        *,
        input: bytes | str = b"",
        check: bool = False,
        on_stdout: OnBytes | None = None,
        on_stderr: OnBytes | None = None,
        **options: Unpack[ExecuteOptions],
    ) -> Completed:
        """Runs a command to its end. A string is a line for the sandbox's /bin/sh."""
        words = _words(argv)
        output = _Output(on_stdout, on_stderr)
        wanted = {**options, "sandbox": self.id, "argv": words}
        ended = await self._kiln._command("Execute", wanted, input, output)
        done = Completed(words, bytes(output.stdout), bytes(output.stderr), ended)
        return _checked(done) if check else done

    async def spawn(
        self,
        argv: Sequence[str] | str,
        *,
        terminal: Terminal | None = None,
        **options: Unpack[ExecuteOptions],
    ) -> Command:
        """Starts a command that one talks to. Use it with ``with``, or close it, which ends it."""
        wanted = {**options, "sandbox": self.id, "argv": _words(argv), "terminal": terminal}
        connection = await self._kiln._connection(with_files=False)
        replies = connection.replies("Execute", {**wanted, "interactive": True})
        try:
            async for said in replies:
                if "started" in said:
                    started = said["started"]
                    return Command(self._kiln, connection, replies, started["process"], started["pid"])
            raise _no_result("Execute")
        except BaseException:
            await connection.close()
            raise

    async def read_file(self, path: str) -> bytes:
        content = bytearray()
        async for piece in self._pieces(path):
            content += piece
        return bytes(content)

    async def write_file(self, path: str, content: bytes | str, *, mode: int | None = None) -> None:
        """Writes a file, which belongs to the sandbox's user. Folders on the way are made."""
        given = content.encode() if isinstance(content, str) else content
        async with await self._kiln._connection(with_files=False) as connection:
            for at in range(0, len(given) or 1, PIECE):
                data = base64.b64encode(given[at : at + PIECE]).decode()
                wanted = {"sandbox": self.id, "path": path, "data": data, "append": at > 0, "mode": mode}
                await connection.call("WriteFile", wanted)

    async def copy_in(self, source: str | os.PathLike[str], path: str) -> None:
        """Copies a file of this machine into the sandbox, with its mode."""
        if os.path.isdir(source):
            raise _folder_error(source, "copyIn of open()")
        with open(source, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            async with await self._kiln._connection(with_files=False) as connection:
                piece, append = file.read(PIECE), False
                while piece or not append:
                    data = base64.b64encode(piece).decode()
                    wanted = {"sandbox": self.id, "path": path, "data": data, "append": append}
                    await connection.call("WriteFile", {**wanted, "mode": mode})
                    piece, append = file.read(PIECE), True

    async def copy_out(self, path: str, target: str | os.PathLike[str]) -> None:
        """Copies a file of the sandbox to this machine: it is there whole, or not at all."""
        name = os.fspath(target)
        if os.path.isdir(name):
            raise _folder_error(name, "artifacts of run()")
        beside = f"{name}.{secrets.token_hex(8)}"
        with open(beside, "xb") as file:
            try:
                async for piece in self._pieces(path):
                    file.write(piece)
                os.replace(beside, name)
            except BaseException:
                os.unlink(beside)
                raise

    async def _pieces(self, path: str) -> AsyncIterator[bytes]:
        offset, size = 0, -1
        async with await self._kiln._connection(with_files=False) as connection:
            while offset != size:
                wanted = {"sandbox": self.id, "path": path, "offset": offset}
                said = await connection.call("ReadFile", wanted)
                piece = base64.b64decode(said["data"])
                offset += len(piece)
                # It may have become shorter.
                size = said["size"] if piece else offset
                yield piece

    async def close(self) -> None:
        """Ends everything in it. Closing it again does nothing."""
        try:
            await self._kiln.call("CloseSandbox", sandbox=self.id)
        except KilnError as error:
            # What a client has opened ends with its connection.
            if error.code != "E_NO_SANDBOX":
                raise
        finally:
            await self._own.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


class Command:
    """A command that runs. Iterating over it gives its output, as ``("stdout", b"…")``, until it has ended."""

    def __init__(
        self,
        kiln: Kiln,
        connection: Connection,
        replies: AsyncIterator[dict[str, Any]],
        process: str,
        pid: int,
    ) -> None:
        #: In the sandbox.
        self.pid = pid
        #: How it ended, once it has.
        self.ended: Ended | None = None
        self._kiln = kiln
        self._connection = connection
        self._replies = replies
        self._process = process

    async def __aiter__(self) -> AsyncIterator[tuple[Literal["stdout", "stderr"], bytes]]:
        if self.ended is not None:
            return
        async for said in self._replies:
            if "stdout" in said:
                yield "stdout", base64.b64decode(said["stdout"])
            if "stderr" in said:
                yield "stderr", base64.b64decode(said["stderr"])
            if "result" in said:
                self.ended = said["result"]
                return

    async def wait(self) -> Ended:
        """Waits for its end; output that was not read is thrown away."""
        async for _ in self:
            pass
        if self.ended is None:
            raise _no_result("Execute")
        return self.ended

    async def write(self, data: bytes | str) -> None:
        """Writes to its standard input; returns when it has room for more."""
        given = data.encode() if isinstance(data, str) else data
        for at in range(0, len(given), PIECE):
            piece = base64.b64encode(given[at : at + PIECE]).decode()
            await self._kiln.call("SendInput", process=self._process, data=piece)

    async def end_input(self) -> None:
        await self._kiln.call("SendInput", process=self._process, end=True)

    async def send_signal(self, signal: str) -> None:
        """Such as SIGTERM, to it and what is in its process group."""
        await self._kiln.call("SendSignal", process=self._process, signal=signal)

    async def resize(self, rows: int, columns: int) -> None:
        """Tells its terminal a size."""
        size = {"rows": rows, "columns": columns}
        await self._kiln.call("ResizeTerminal", process=self._process, **size)

    async def close(self) -> None:
        """Ends it, if it runs."""
        await self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.close()


def _words(argv: Sequence[str] | str) -> list[str]:
    return ["/bin/sh", "-c", argv] if isinstance(argv, str) else list(argv)


def _checked(done: _Done) -> _Done:
    if done.exit_code != 0:
        raise CommandError(done)
    return done


def _is_folder(options: DiffOptions) -> bool:
    return options.get("target", "/") != "/"


def _no_result(method: str) -> KilnError:
    hint = "kilnd may be of another version than this package: compare `kiln --version`"
    return KilnError("E_PROTOCOL", f"kilnd ended the call {method} without a result", hint)


def _folder_error(path: str | os.PathLike[str], other: str) -> KilnError:
    return KilnError("E_ARGUMENT", f"{os.fspath(path)} is a folder", f"for folders there is {other}")
