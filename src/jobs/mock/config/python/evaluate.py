"""Makes of mock's configurations what mock makes of them: reads and executes them as Python, fills their templates in
with Jinja. They may be hostile. So this encloses itself first: nothing but its own memory, three descriptors, and
kiln, which reads the files that a configuration includes. kiln believes nothing of what it says.

A configuration that reads a file, imports a module or starts a program would not get what it gets from mock. That is
an error, however the configuration takes it."""

import ast
import builtins
import codecs
import ctypes
import json
import os
import posixpath
import re
import resource
import sys
import unicodedata  # for \\N{…} in texts
import warnings
from collections.abc import MutableMapping

NEEDS_JINJA = "E_MOCK_PYTHON"

REPLY, USER_NAMESPACE, ANSWERS = 3, 4, 6


def reply(message):
    body = json.dumps(message, allow_nan=False).encode()
    frame = len(body).to_bytes(4, "little") + body
    while frame:
        frame = frame[os.write(REPLY, frame):]


def receive(descriptor):
    """The next message of kiln, or None when there are no more."""

    def take(count):
        data = b""
        while len(data) < count:
            piece = os.read(descriptor, min(count - len(data), 1 << 20))
            if not piece:
                return None
            data += piece
        return data

    length = take(4)
    body = None if length is None else take(int.from_bytes(length, "little"))
    return None if body is None else json.loads(body)


try:
    # What Jinja loads late: afterwards there are no files.
    import jinja2.constants
    import jinja2.debug
    import jinja2.sandbox

    for encoding in ["ascii", "latin-1", "unicode-escape", "raw-unicode-escape", "utf-8", "utf-16", "utf-32"]:
        codecs.lookup(encoding)
except ImportError as error:
    reply({"type": "failed", "error": {"code": NEEDS_JINJA, "message": str(error), "causes": []}})
    sys.exit()


# --- The wall ---------------------------------------------------------------------------------

EMPTY = b"/proc"
SEALED = 1 | 2 | 4 | 8  # MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC
MNT_DETACH = 2
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
CAPABILITY_VERSION = 0x20080522


class Filter(ctypes.Structure):
    """struct sock_fprog: instructions of eight bytes."""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def enclose(limits, pivot_root, instructions):
    """As src/host/confine/child.ts does, but with no capability left, and no call that Python can do without."""
    libc = ctypes.CDLL(None, use_errno=True)

    def call(name, *arguments):
        if getattr(libc, name)(*arguments) != 0:
            raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")

    for what, most in [("CORE", 0), ("CPU", limits["cpuSeconds"]), ("FSIZE", 0), ("DATA", limits["memory"])]:
        resource.setrlimit(getattr(resource, f"RLIMIT_{what}"), (most, most))
    os.close(USER_NAMESPACE)
    call("mount", b"tmpfs", EMPTY, b"tmpfs", ctypes.c_ulong(SEALED), b"size=4k,nr_inodes=2,mode=555")
    os.chdir(EMPTY)
    call("syscall", ctypes.c_long(pivot_root), b".", b".")
    call("umount2", b".", MNT_DETACH)
    os.chdir("/")
    call("prctl", PR_SET_NO_NEW_PRIVS, *map(ctypes.c_ulong, [1, 0, 0, 0]))
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    call("capset", header, (ctypes.c_uint32 * 6)())
    program = Filter(len(instructions) // 8, instructions)
    call("prctl", PR_SET_SECCOMP, ctypes.c_ulong(SECCOMP_MODE_FILTER), ctypes.byref(program))


# --- What a configuration may use -------------------------------------------------------------


class ConfigError(Exception):
    """A mistake of a configuration; `place` is its file and line."""

    def __init__(self, message, place=None):
        super().__init__(message)
        self.place = place


class Refused(BaseException):
    """No Exception: a configuration must not go on without what it asked for."""


class Part:
    """A module, as far as it is the same here as for mock."""

    def __init__(self, name, members=()):
        self.__dict__.update(members, __name__=name)

    def __getattr__(self, name):
        refuse(f"{self.__name__}.{name}")


refusals = []


def refuse(what):
    message = f"{what} is not there for a configuration: kiln evaluates it without files, programs and network"
    refusals.append({"error": message, "place": place_now()})
    raise Refused(message)


def members(module, names):
    return {name: getattr(module, name) for name in names.split()}


PATHS = Part("os.path", members(posixpath, "join basename dirname split splitext normpath isabs commonprefix sep"))
PARTS = {
    "os": Part("os", {"path": PATHS, **members(os, "uname name sep linesep curdir pardir devnull")}),
    "sys": Part("sys", members(sys, "version_info maxsize byteorder platform")),
    "platform": Part("platform", {"machine": lambda: os.uname().machine, "system": lambda: os.uname().sysname}),
}
PARTS["os.path"] = PATHS
WHOLE = {name: __import__(name) for name in "collections copy fnmatch functools itertools json math operator re shlex "
         "string textwrap".split()}


def import_module(name, globals=None, locals=None, fromlist=(), level=0):
    if name == "ast":
        return Part("ast", {"literal_eval": ast.literal_eval})
    return WHOLE.get(name) or PARTS.get(name if fromlist else name.split(".")[0]) or Part(name)


def refusing(name):
    return lambda *arguments, **named: refuse(f"{name}()")


BUILTINS = {
    **vars(builtins),
    **{name: refusing(name) for name in ["open", "input", "breakpoint", "help"]},
    "__import__": import_module,
}
# mock executes a configuration with the names of its own module.
NAMES = {
    "__builtins__": BUILTINS,
    "literal_eval": ast.literal_eval,
    **{name: WHOLE[name] for name in ["json", "re", "shlex"]},
    **{name: PARTS[name] for name in ["os", "sys"]},
    **{name: Part(name) for name in ["glob", "grp", "logging", "pwd", "socket", "uuid", "warnings"]},
}


# --- config_opts ------------------------------------------------------------------------------

# Of the configuration that is executed: the file and line of each of its lines.
LINES = []


def line_of(number):
    return LINES[number - 1] if 0 < number <= len(LINES) else None


def place_now():
    """Where the configuration is: file and line."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename != CONFIG:
        frame = frame.f_back
    return None if frame is None else line_of(frame.f_lineno)


SANDBOX = jinja2.sandbox.SandboxedEnvironment(keep_trailing_newline=True)
PASSES = 5
CONFIG = "<configuration>"


def is_text_only(text):
    """Jinja would give it back: it has no tag, and no line end that Jinja changes."""
    return "{" not in text and "\r" not in text


class Options(MutableMapping):
    """mock's config_opts, a TemplatedDictionary. Its values are attributes, which templates see as they were written.
    Beside them it keeps where each was set last."""

    __slots__ = ("__dict__", "kiln_places", "kiln_watched")

    def __init__(self, values):
        self.__dict__.update(values)
        self.__dict__["_aliases"] = ALIASES
        self.kiln_places = {}
        self.kiln_watched = None

    def __setitem__(self, name, value):
        name = ALIASES.get(name, name)
        self.__dict__[name] = value
        place = place_now()
        if place is not None:
            self.kiln_places[name] = place

    def __getitem__(self, name):
        name = ALIASES.get(name, name)
        value = self.__dict__[name]
        if self.__dict__.get("__jinja_expand"):
            return self.kiln_rendered(value)
        if isinstance(value, (dict, list)):
            self.kiln_watch(name, value)
        return value

    def __delitem__(self, name):
        del self.__dict__[name]

    def __iter__(self):
        return iter(self.__dict__)

    def __len__(self):
        return len(self.__dict__)

    def kiln_rendered(self, value):
        """Lists and dicts stay what they are: configurations change them."""
        if isinstance(value, str):
            return value if is_text_only(value) else self.kiln_filled(value)
        if isinstance(value, list):
            value[:] = [self.kiln_rendered(item) for item in value]
        elif isinstance(value, dict):
            for key in value:
                value[key] = self.kiln_rendered(value[key])
        return value

    def kiln_filled(self, text):
        before = text
        for _ in range(self.__dict__.get("jinja_max_recursion", PASSES)):
            filled = SANDBOX.from_string(before).render(self.__dict__, func=lambda: None)
            if filled == before:
                return filled
            before = filled
        raise ValueError("its template has no end: what it is filled in with is a template again")

    def kiln_watch(self, name=None, value=None):
        """What a dict or list becomes after this line took it is this line's doing."""
        if self.kiln_watched is not None:
            last, watched, before, place = self.kiln_watched
            if place is not None and repr(watched) != before:
                self.kiln_places[last] = place
        self.kiln_watched = None if name is None else (name, value, repr(value), place_now())


# --- Reading ----------------------------------------------------------------------------------

INCLUDE = re.compile(r"^\s*include\((.*)\)", re.MULTILINE)
TEMPLATE_LINE = re.compile(r"[^\n]*\n|[^\n]+")


class Text:
    """A configuration with the files that it includes in place of the statements, as mock has it: mock replaces them
    in the text, before it is Python. `lines` tells the file and line of each line."""

    def __init__(self, text, lines):
        self.text = text
        self.lines = lines

    def replace(self, match, included):
        """mock has `re` put the text in, which takes the backslashes in it for its own."""
        pieces, lines = [""], []
        for place, line in zip(included.lines, TEMPLATE_LINE.findall(included.text)):
            pieces.append(match.expand(line))
            lines += [place] * len(pieces[-1].splitlines())
        first = self.text.count("\n", 0, match.start())
        last = self.text.count("\n", 0, match.end())
        # What follows the statement goes on in the last line of the file.
        goes_on = pieces[-1] != "" and not pieces[-1].endswith("\n")
        self.lines = self.lines[:first] + lines + self.lines[last + goes_on:]
        self.text = self.text[:match.start()] + "".join(pieces) + self.text[match.end():]


class Reader:
    def __init__(self, options, directory):
        self.options = options
        self.directory = directory
        self.files = []
        self.warnings = []

    def ask(self, path):
        """The text of a file, or None if there is none."""
        reply({"type": "message", "value": {"read": path}})
        answer = receive(ANSWERS)
        if answer is None:
            raise SystemExit("kiln has gone")
        if "error" in answer:
            raise ConfigError(answer["error"])
        text = answer.get("text")
        # As Python reads files.
        return None if text is None else text.replace("\r\n", "\n").replace("\r", "\n")

    def include(self, path, seen, place=None):
        try:
            if path in seen:
                self.warnings.append({"message": f"{path} is included more than once: it is read once, as by mock",
                                      "place": place})
                return Text("", [])
            content = self.ask(path)
            if content is None:
                raise ConfigError(f"cannot read {path}: there is no such file")
        except ConfigError as error:
            raise ConfigError(str(error), error.place or place) from None
        seen.add(path)
        self.files.append(path)
        text = Text(content, [[path, number] for number in range(1, content.count("\n") + 2)])
        for argument in INCLUDE.findall(content):
            match = INCLUDE.search(text.text)
            at = text.lines[text.text.count("\n", 0, match.start(1))] if match else None
            name = self.evaluate(argument, at)
            if not isinstance(name, str):
                raise ConfigError("include() needs the name of a file", at)
            inner = self.include(posixpath.join(self.directory, name), seen, at)
            match = INCLUDE.search(text.text)
            if match:
                try:
                    text.replace(match, inner)
                except (re.error, IndexError) as error:
                    raise ConfigError(f"{name} cannot be included, by mock neither: {error}", at) from None
        return text

    def evaluate(self, argument, place):
        try:
            return eval(argument, dict(NAMES), {"search_path": self.directory})
        except Exception as error:
            raise ConfigError(described(error), place) from None

    def read(self, path):
        text = self.include(path, set())
        LINES[:] = text.lines
        try:
            code = compile(text.text, CONFIG, "exec", dont_inherit=True)
            exec(code, {**NAMES, "print": self.say}, {"config_opts": self.options, "config_file": path})
        except ConfigError:
            raise
        except (Exception, Refused, SystemExit, KeyboardInterrupt) as error:
            raise ConfigError(described(error), place_of_error(error)) from None
        finally:
            self.options.kiln_watch()
        check_macros(self.options)
        self.options.__dict__["config_paths"] = list(self.files)

    def say(self, *values, sep=" ", end="\n", **_):
        text = (" " if sep is None else sep).join(map(str, values))
        self.warnings.append({"message": f"it says: {text[:500]}", "place": place_now()})


def described(error):
    if isinstance(error, SyntaxError):
        return error.msg
    if isinstance(error, Refused):
        return str(error)
    if isinstance(error, SystemExit):
        return "it ends the program"
    return f"{type(error).__name__}: {error}"[:1000]


def place_of_error(error):
    if isinstance(error, SyntaxError) and error.filename == CONFIG:
        return line_of(error.lineno or 0)
    place, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == CONFIG:
            place = line_of(trace.tb_lineno)
        trace = trace.tb_next
    return place


def check_macros(options):
    macros = options["macros"]
    if not isinstance(macros, dict):
        raise ConfigError("macros must be a dict", options.kiln_places.get("macros"))
    for name in list(macros):
        value = macros[name]
        if not isinstance(name, str) or len(name.split()) != 1 or (not value and value is not None):
            raise ConfigError(f"bad macro: config_opts['macros'][{name!r}] = {value!r}", options.kiln_places.get("macros"))
        if not name.startswith("%"):
            macros[f"%{name}"] = macros.pop(name)


# --- The command line -------------------------------------------------------------------------


def change(options, step):
    """What mock's command line says comes last."""
    [kind, name, *rest] = step
    if kind == "override":
        if isinstance(options.get(name), dict):
            raise ConfigError(f"--config-opts {name}: it is a dict, and cannot be given on a command line: write "
                              f"config_opts[{name!r}] into the configuration")
        options[name] = rest[0]
    elif kind == "set":
        options[name] = rest[0]
    elif kind == "append":
        if name in options:
            options[name] = f"{options[name]}-{rest[0]}"
    elif kind == "plugin":
        options["plugin_conf"][f"{name}_enable"] = rest[0]
    elif kind == "plugin-option":
        try:
            value = ast.literal_eval(rest[1])
        except Exception:
            value = rest[1]
        options["plugin_conf"].setdefault(f"{name}_opts", {})[rest[0]] = value


def complete(options):
    """Templates may need both."""
    if options["rpmbuild_arch"] is None:
        options["rpmbuild_arch"] = options["target_arch"]
    if not options["repo_arch"]:
        target = options["target_arch"]
        options["repo_arch"] = options["repo_arch_map"].get(target, target)


# --- The answer -------------------------------------------------------------------------------

DEPTH = 20
OWN = ["_aliases", "__jinja_expand"]


class Unfit(Exception):
    """A value that has no counterpart outside of Python."""


def plain(value, depth=0):
    if depth > DEPTH:
        raise Unfit("it is nested too deeply")
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int) and abs(value) < 2 ** 53:
        return int(value)
    if isinstance(value, float) and value - value == 0:
        return float(value)
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {"dict": [[str(key), plain(item, depth + 1)] for key, item in value.items()]}
    raise Unfit(f"it is a {type(value).__name__}: kiln takes texts, numbers, lists and dicts")


def meaning(options, only):
    known = []
    names = [name for name in options if isinstance(name, str) and name not in OWN]
    for name in names if only is None else [name for name in only if name in options]:
        described_as = {"place": options.kiln_places.get(name)}
        known.append([name, described_as])
        for field, expand in [("raw", False), ("value", True)]:
            options.__dict__["__jinja_expand"] = expand
            try:
                value = options[name]
                described_as[f"{field}Text"] = repr(value)
                described_as[field] = plain(value)
            except Refused:
                raise
            except Exception as error:
                described_as["error"] = described(error)
    return known


def evaluate(job):
    LINES.clear()
    defaults = default_options(job["given"])
    options = Options(defaults)
    reader = Reader(options, job["directory"])
    try:
        for path, required in job["files"]:
            if required or reader.ask(path) is not None:
                reader.read(path)
        options.__dict__["__jinja_expand"] = True
        for step in job["changes"]:
            change(options, step)
        complete(options)
        answer = {"options": meaning(options, job.get("only")), "defaults": list(defaults)}
    except ConfigError as error:
        answer = {"error": str(error)[:4000], "place": error.place}
    except Exception as error:
        answer = {"error": described(error), "place": None}
    if refusals:
        answer = refusals[0]
        refusals.clear()
    return {**answer, "files": reader.files, "warnings": reader.warnings}


def main():
    warnings.simplefilter("ignore")
    request = receive(0)
    if request is None:
        return
    wall = request["input"]
    try:
        enclose(request["limits"], wall["pivotRoot"], bytes.fromhex(wall["filter"]))
    except OSError as error:
        reply({"type": "failed", "error": {"code": "E_CONFINE_START", "message": str(error), "causes": []}})
        return
    for job in iter(lambda: receive(ANSWERS), None):
        reply({"type": "message", "value": {"answer": evaluate(job)}})
    reply({"type": "done"})


main()
