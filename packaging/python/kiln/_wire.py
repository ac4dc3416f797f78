"""Messages of kilnd, and the sockets that carry them. Nothing here waits for a reply."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from ._outcome import KilnError

#: Of io.kiln; kilnd's GetVersion tells its own.
INTERFACE_VERSION = 1

#: Bytes of a file or of input in one call: a user's message may have 2 MiB.
PIECE = 1 << 20

#: Bytes of one reply, above which a connection is taken for broken.
REPLY_MAX = 64 << 20

_DEFAULT_SOCKET = "/run/kiln/io.kiln"

#: Bytes of the address of a socket, with its last zero.
_ADDRESS_MAX = 108

#: Bytes of a client's words that an error repeats.
_SAID_MAX = 4096


def request(method: str, parameters: Mapping[str, object], more: bool) -> bytes:
    """A call. An option whose name is a word of Python's has an underscore behind it."""
    given = {name.removesuffix("_"): value for name, value in parameters.items() if value is not None}
    call = {"method": f"io.kiln.{method}", "parameters": given}
    return json.dumps({**call, "more": True} if more else call).encode() + b"\0"


def reply(message: bytes, sent: Mapping[str, object]) -> tuple[dict[str, Any], bool]:
    """What a message says, and whether more replies of its call follow. `sent` are the call's parameters."""
    said = json.loads(message)
    parameters: dict[str, Any] = said.get("parameters") or {}
    if "error" in said:
        raise _error(said["error"], parameters, sent)
    return parameters, said.get("continues") is True


def _error(name: str, parameters: Mapping[str, Any], sent: Mapping[str, object]) -> KilnError:
    if name == "io.kiln.Failed":
        hint, causes = parameters.get("hint"), parameters.get("causes", [])
        return KilnError(parameters["code"], parameters["message"], hint, causes)
    if name == "org.varlink.service.InvalidParameter":
        field = str(parameters.get("parameter"))
        given = _has(sent, field.split("."))
        problem = "has a wrong name, or is not of its type" if given else "is missing"
        hint = "docs/reference/api.md has the fields of each method"
        return KilnError("E_ARGUMENT", f"{field} {problem}", hint)
    if name == "org.varlink.service.PermissionDenied":
        return permission_error("kilnd does not do this for your user")
    if name == "org.varlink.service.MethodNotFound":
        what = f"kilnd has no method {parameters.get('method')}"
        return KilnError("E_PROTOCOL", what, "docs/reference/api.md lists the methods")
    hint = "kilnd may be of another version than this package: compare `kiln --version`"
    return KilnError("E_PROTOCOL", f"kilnd answered with the unknown error {name}", hint)


def _has(value: object, names: Sequence[str]) -> bool:
    """Whether the field was given; in a list, by all items."""
    if not names or value is None:
        return value is not None
    if isinstance(value, list):
        return all(_has(item, names) for item in value)
    # A word of Python's has an underscore behind it.
    name = names[0]
    inner = value.get(name, value.get(f"{name}_")) if isinstance(value, Mapping) else None
    return _has(inner, names[1:])


def permission_error(what: str) -> KilnError:
    hint = "root puts you into the group kiln: `kiln doctor users` says what is missing"
    return KilnError("E_PERMISSION", what, hint)


def unreachable_error(place: str) -> KilnError:
    hint = "root's first `kiln ps` starts it, or `systemctl enable --now kiln.socket`"
    return KilnError("E_NO_DAEMON", f"kilnd does not listen at {place}", hint)


def too_long_error() -> KilnError:
    what = f"a reply has more than {REPLY_MAX} bytes"
    return KilnError("E_PROTOCOL", what, "ask for less at a time, or use on_stdout")


@dataclass(frozen=True)
class Link:
    """A socket to kilnd, or to a client that opens the files which calls name."""

    socket: socket.socket
    client: subprocess.Popen[bytes] | None = None
    errors: IO[bytes] | None = None

    def why(self) -> KilnError:
        """Why it ended."""
        said = ""
        if self.errors is not None:
            self.errors.seek(0)
            said = self.errors.read(_SAID_MAX).decode(errors="replace").strip()
        said = f": {said.removeprefix('kiln: ')}" if said else ""
        hint = "call again; kilnd.log in the state folder may say why it ended"
        return KilnError("E_NO_DAEMON", f"kilnd did not answer{said}", hint)

    def end(self) -> None:
        """Waits for the client, whose connection is closed."""
        if self.client is not None:
            self.client.wait()
        if self.errors is not None:
            self.errors.close()


@dataclass(frozen=True)
class Place:
    """Where kilnd is, and the client that belongs to it."""

    state: str | None
    program: str

    @property
    def path(self) -> str:
        return _DEFAULT_SOCKET if self.state is None else os.path.join(self.state, "io.kiln")

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, **({} if self.state is None else {"KILN_STATE": self.state})}

    def link(self) -> Link:
        """A socket of kilnd's own is accepted at once: this does not wait."""
        opened = socket.socket(socket.AF_UNIX)
        try:
            if len(os.fsencode(self.path)) < _ADDRESS_MAX:
                opened.connect(self.path)
            else:
                _connect_below(opened, self.path)
        except PermissionError:
            opened.close()
            raise permission_error(f"you may not connect to {self.path}") from None
        except BaseException:
            opened.close()
            raise
        return Link(opened)

    def link_with_files(self) -> Link:
        """A client opens the files that calls name, with the rights of this process."""
        ours, theirs = socket.socketpair()
        errors = tempfile.TemporaryFile()
        try:
            with theirs:
                client = subprocess.Popen(
                    [self.program, "varlink"],
                    env=self._environment,
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=errors,
                )
        except BaseException as error:
            ours.close()
            errors.close()
            raise self._no_client(error) if isinstance(error, OSError) else error
        return Link(ours, client, errors)

    def start(self) -> None:
        """Has root's client start kilnd."""
        command = [self.program, "ps"]
        try:
            ran = subprocess.run(command, env=self._environment, capture_output=True, check=False)
        except OSError as error:
            raise self._no_client(error) from None
        if ran.returncode != 0:
            why = ran.stderr.decode(errors="replace").strip().removeprefix("kiln: ")
            hint = "`kiln doctor` tells what is missing"
            raise KilnError("E_NO_DAEMON", f"kilnd cannot be started: {why}", hint)

    def _no_client(self, error: OSError) -> KilnError:
        hint = "install kiln, or give connect() the path of its client: program="
        return KilnError("E_NO_DAEMON", f"{self.program} cannot be started: {error}", hint)


def _connect_below(opened: socket.socket, path: str) -> None:
    """Connects to a path that is too long for an address."""
    folder = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY)
    try:
        opened.connect(f"/proc/self/fd/{folder}/{os.path.basename(path)}")
    finally:
        os.close(folder)


_PATHS = (
    "resultDirectory",
    "sourceDirectory",
    "lock",
    "signKey",
    "signPassphraseFile",
    "provenanceKey",
    "output",
)


def with_paths(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The daemon has a working folder of its own. An empty path is left for kilnd to refuse."""
    found = dict(parameters)
    for name in _PATHS:
        if found.get(name):
            found[name] = os.path.abspath(found[name])
    for name in ("image", "recipe"):
        if found.get(name):
            found[name] = _image_path(found[name])
    if "surroundings" in found:
        found["surroundings"] = _surrounding_paths(found["surroundings"])
    if "copyIn" in found:
        found["copyIn"] = [{**copy, "source": _kept_end(copy["source"])} for copy in found["copyIn"]]
    if "sources" in found:
        found["sources"] = [
            os.path.abspath(source) if "/" in source or "." in source else source
            for source in found["sources"]
        ]
    return found


def names_files(parameters: Mapping[str, Any]) -> bool:
    """Whether a call names files of the host; its paths are absolute."""
    around = parameters.get("surroundings", {})
    names: Iterable[str] = (parameters.get("image", ""), around.get("seccomp", ""))
    lists = (around.get("binds"), around.get("secrets"), parameters.get("copyIn"))
    return (
        any("/" in name for name in names)
        or "recipe" in parameters
        or "sources" in parameters
        or parameters.get("resultDirectory") is not None
        or any(lists)
    )


def _image_path(image: str) -> str:
    is_path = "/" in image or image.endswith((".yaml", ".yml", ".json"))
    return os.path.abspath(image) if is_path else image


def _kept_end(path: str) -> str:
    """A slash, or ``/.``, at the end has a meaning."""
    return path if path == "" or path.startswith("/") else f"{os.getcwd()}/{path}"


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path else path


def _surrounding_paths(around: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(around)
    if "binds" in found:
        found["binds"] = [{**bind, "source": _absolute(bind["source"])} for bind in found["binds"]]
    if "secrets" in found:
        found["secrets"] = [{**each, "file": _absolute(each["file"])} for each in found["secrets"]]
    if "/" in found.get("seccomp", "") or "." in found.get("seccomp", ""):
        found["seccomp"] = os.path.abspath(found["seccomp"])
    return found
