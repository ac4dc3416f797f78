"""What a configuration may use. One that reads a file, imports a module or starts a program would not get what it gets
from mock. That is an error, however the configuration takes it."""

import ast
import builtins
import os
import posixpath
import sys


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
