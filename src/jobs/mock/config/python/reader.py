"""Reads and executes the files of a configuration."""

import posixpath
import re

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
