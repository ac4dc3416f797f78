"""Loads mock configurations as mock does, by executing them, and prints what they come to as JSON.

The second opinion for what kiln reads without executing. Only for files that a test wrote, or that
whoever runs the test named. Usage: load-configs.py CONFIGDIR
"""

import glob
import json
import os
import re
import sys

import jinja2

DIRECTORY = os.path.abspath(sys.argv[1])
DNF = ["command", "common_opts", "install_command", "disable_plugins", "avoid_opts", "builddep_opts"]
ALIASES = {f"dnf_{name}": f"dnf4_{name}" for name in DNF}
ALIASES.update({name: "dnf.conf" for name in ["yum.conf", "dnf4.conf", "dnf5.conf"]})


class Options(dict):
    """mock's TemplatedDictionary, as far as configurations use it."""

    def __getitem__(self, name):
        return super().__getitem__(ALIASES.get(name, name))

    def __setitem__(self, name, value):
        super().__setitem__(ALIASES.get(name, name), value)

    def __contains__(self, name):
        return super().__contains__(ALIASES.get(name, name))

    def __getattr__(self, name):
        return self[name]

    def get(self, name, default=None):
        return super().get(ALIASES.get(name, name), default)

    def rendered(self, name):
        value = self.get(name)
        for _ in range(6):
            if not isinstance(value, str):
                return value
            text = jinja2.Template(value, keep_trailing_newline=True).render(dict(self))
            if text == value:
                return text
            value = text
        raise ValueError(f"{name} has no end")


def defaults():
    options = Options()
    for name, value in {
        "repo_arch": None,
        "repo_arch_map": {},
        "target_arch": "i386",
        "releasever": None,
        "package_manager": "dnf",
        "user_agent": "Mock ({{ root }}; {{ target_arch }})",
        "yum_install_command": "install yum yum-utils",
        "dnf4_install_command": "install python3-dnf python3-dnf-plugins-core",
        "dnf5_install_command": "install dnf5 dnf5-plugins",
        "dnf4_common_opts": [],
        "chroot_setup_cmd": ("groupinstall", "buildsys-build"),
        "chroot_additional_packages": [],
        "dnf_vars": {},
        "macros": {},
        "files": {},
        "environment": {},
        "plugin_conf": {"tmpfs_opts": {}},
        "no-config": {},
        "module_setup_commands": [],
        "description": "",
    }.items():
        options[name] = value
    return options


def include(path, seen):
    if not os.path.isabs(path):
        path = os.path.join(DIRECTORY, path)
    if path in seen:
        return ""
    seen.add(path)
    with open(path, encoding="utf-8") as file:
        text = file.read()
    for argument in re.findall(r"^\s*include\((.*)\)", text, re.MULTILINE):
        inner = include(eval(argument), seen)
        text = re.sub(r"^\s*include\((.*)\)", lambda _: inner, text, count=1, flags=re.MULTILINE)
    return text


def load(path):
    options = defaults()
    for file in [os.path.join(DIRECTORY, name) for name in ["site-defaults.cfg", "chroot-aliases.cfg"]]:
        if os.path.exists(file):
            exec(include(file, set()), {"config_opts": options})
    exec(include(os.path.realpath(path), set()), {"config_opts": options})
    if not options["repo_arch"]:
        target = options["target_arch"]
        options["repo_arch"] = options["repo_arch_map"].get(target, target)
    names = ["root", "target_arch", "repo_arch", "description", "package_manager", "chroot_setup_cmd", "dnf.conf"]
    return {name: options.rendered(name) for name in names}


def main():
    result = {}
    for path in sorted(glob.glob(os.path.join(DIRECTORY, "*.cfg"))):
        name = os.path.basename(path)[: -len(".cfg")]
        if name in ["site-defaults", "chroot-aliases"]:
            continue
        try:
            result[name] = load(path)
        except Exception as error:
            result[name] = {"error": repr(error)}
    json.dump(result, sys.stdout)


main()
