"""Evaluates mock configurations as mock does, and prints what they come to as JSON: the second opinion for kiln, which
does it behind a wall. Only for files that a test wrote, or that whoever runs the test named.

Usage: load-configs.py CONFIGDIR DEFAULTS.py HOST_ARCH [FILE…]
"""

import contextlib
import glob
import io
import json
import os
import re
import sys
from ast import literal_eval  # noqa: F401 - mock executes configurations where it is imported
from collections.abc import MutableMapping

from jinja2.sandbox import SandboxedEnvironment

directory, defaults, arch, *files = sys.argv[1:]
names = {}
exec(open(defaults).read(), names)
environment = SandboxedEnvironment(keep_trailing_newline=True)


class Dictionary(MutableMapping):
    """What mock has its options in: the package templated-dictionary."""

    def __init__(self, values):
        vars(self).update(values, _aliases=names["ALIASES"])

    def __setitem__(self, key, value):
        vars(self)[self._aliases.get(key, key)] = value

    def __getitem__(self, key):
        value = vars(self)[self._aliases.get(key, key)]
        return self.render(value) if vars(self).get("__jinja_expand") else value

    def __delitem__(self, key):
        del vars(self)[key]

    def __iter__(self):
        return iter(vars(self))

    def __len__(self):
        return len(vars(self))

    def render(self, value):
        if isinstance(value, list):
            for index, item in enumerate(value):
                value[index] = self.render(item)
        if isinstance(value, dict):
            for key in value.keys():
                value[key] = self.render(value[key])
        if not isinstance(value, str):
            return value
        for _ in range(vars(self).get("jinja_max_recursion", 5)):
            text = environment.from_string(value).render(vars(self), func=lambda: None)
            if text == value:
                return text
            value = text
        raise ValueError("too deep")


INCLUDE = re.compile(r"^\s*include\((.*)\)", re.MULTILINE)


def include(path, search_path, paths):
    if not os.path.isabs(path):
        path = os.path.join(search_path, path)
    if path in paths:
        return ""
    paths.add(path)
    with open(path) as file:
        content = file.read()
    for argument in INCLUDE.findall(content):
        inner = include(eval(argument), search_path, paths)
        content = INCLUDE.sub(inner, content, count=1)
    return content


def update(config_opts, path):
    content = include(path, directory, set())
    exec(content)
    for name in list(config_opts["macros"]):
        value = config_opts["macros"][name]
        if len(name.split()) != 1 or (not value and value is not None):
            raise ValueError(f"bad macro {name}")
        if not name.startswith("%"):
            del config_opts["macros"][name]
            config_opts["macros"]["%" + name] = value


def load(path):
    given = {
        "basedir": "/var/lib/kiln-test/mock",
        "cache_topdir": "/var/lib/kiln-test/mock/cache",
        "chrootuid": 1000,
        "chrootgid": 135,
        "host_arch": arch,
        "target_arch": "i386",
        "config_path": directory,
        "config_file": path,
        "chroot_name": os.path.splitext(os.path.basename(path))[0],
    }
    config_opts = Dictionary(names["default_options"](given))
    for name in ["site-defaults.cfg", "chroot-aliases.cfg"]:
        if os.path.exists(os.path.join(directory, name)):
            update(config_opts, os.path.join(directory, name))
    update(config_opts, path)
    config_opts["__jinja_expand"] = True
    if config_opts["rpmbuild_arch"] is None:
        config_opts["rpmbuild_arch"] = config_opts["target_arch"]
    if not config_opts["repo_arch"]:
        target = config_opts["target_arch"]
        config_opts["repo_arch"] = config_opts["repo_arch_map"].get(target, target)
    return {name: shown(config_opts, name) for name in config_opts if name not in ["_aliases", "__jinja_expand", "config_paths"]}


def shown(config_opts, name):
    """Its repr() as it is written, and filled in."""
    result = []
    for expand in [False, True]:
        config_opts["__jinja_expand"] = expand
        try:
            result.append(repr(config_opts[name]))
        except Exception:
            result.append(None)
    return result


def main():
    result = {}
    for path in files or sorted(glob.glob(os.path.join(directory, "*.cfg"))):
        name = os.path.basename(path)[: -len(".cfg")]
        if name in ["site-defaults", "chroot-aliases"]:
            continue
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                result[name] = load(path)
        except (Exception, SystemExit) as error:
            result[name] = {"error": repr(error)}
    json.dump(result, sys.stdout)


main()
