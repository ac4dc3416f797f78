"""config_opts, as mock has it."""

import sys
import unicodedata  # for \\N{…} in texts
from collections.abc import MutableMapping

import jinja2.sandbox

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
