"""Makes of a configuration what mock makes of it, and tells kiln."""

import ast
import warnings


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


def meaning(options, only, defaults):
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
        described_as["isDefault"] = name in defaults and described_as.get("rawText") == repr(defaults[name])
    return known


def evaluate(job):
    LINES.clear()
    options = Options(default_options(job["given"]))
    reader = Reader(options, job["directory"])
    try:
        for path, required in job["files"]:
            if required or reader.ask(path) is not None:
                reader.read(path)
        options.__dict__["__jinja_expand"] = True
        for step in job["changes"]:
            change(options, step)
        complete(options)
        # Configurations change lists and dicts in place.
        answer = {"options": meaning(options, job.get("only"), default_options(job["given"]))}
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
    # The others are files of Python's: a configuration must not go on without.
    codecs.register(lambda name: refuse(f"the encoding {name}"))
    for job in iter(lambda: receive(ANSWERS), None):
        reply({"type": "message", "value": {"answer": evaluate(job)}})
    reply({"type": "done"})


main()
