"""The wall around the Python that evaluates configurations, which may be hostile: nothing but its own memory, three
descriptors, and kiln, which reads the files that a configuration includes. kiln believes nothing of what it says.

kiln executes the files of this folder one after the other, as one program (evaluate.ts)."""

import codecs
import ctypes
import json
import os
import resource
import sys

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
    # What Jinja loads late, for lipsum(), tracebacks, striptags, pprint and wordwrap: afterwards there are no files.
    import html
    import pprint
    import textwrap

    import jinja2.constants
    import jinja2.debug
    import jinja2.sandbox

    for encoding in ["ascii", "latin-1", "unicode-escape", "raw-unicode-escape", "utf-8", "utf-16", "utf-32"]:
        codecs.lookup(encoding)
except ImportError as error:
    reply({"type": "failed", "error": {"code": NEEDS_JINJA, "message": str(error), "causes": []}})
    sys.exit()


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
