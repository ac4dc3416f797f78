"""What the tests of $host need of the kernel and a shell has not: Landlock, keys, a process with a chosen number."""
import ctypes
import os
import platform
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
# asm/unistd.h; these have one number on all architectures since Linux 5.
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF, CLONE3 = 444, 446, 435
ADD_KEY, KEYCTL = {"x86_64": (248, 250), "aarch64": (217, 219)}[platform.machine()]
PR_SET_NO_NEW_PRIVS = 38
MAKE_DIR = 1 << 7
SESSION, SEARCH = -3, 10


def call(name, *arguments):
    result = LIBC.syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), name)
    return result


def landlock(argv, user=None):
    """Runs a program that can make no folders: as root a user's, which can have other rights."""
    ruleset = ctypes.c_uint64(MAKE_DIR)
    fd = call("landlock_create_ruleset", LANDLOCK_CREATE_RULESET, ctypes.byref(ruleset), 8, 0)
    if user is None:
        LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    call("landlock_restrict_self", LANDLOCK_RESTRICT_SELF, fd, 0)
    if user is not None:
        uid, gid, group = map(int, user.split(":"))
        os.setgroups([group])
        os.setgid(gid)
        os.setuid(uid)
    os.execvp(argv[0], argv)


def key(name):
    """Tells whether the session has the key, and adds it."""
    wanted = name.encode()
    found = LIBC.syscall(KEYCTL, SEARCH, SESSION, b"user", wanted, 0)
    print("found" if found >= 0 else "none", flush=True)
    call("add_key", ADD_KEY, b"user", wanted, b"x", 1, SESSION)


def numbered(pid, uid, argv):
    """Starts a program of a user's as the process `pid`, and ends."""
    tid = (ctypes.c_int * 1)(pid)
    # struct clone_args of linux/sched.h: exit_signal, set_tid and set_tid_size are set.
    arguments = (ctypes.c_uint64 * 11)()
    arguments[4] = 17
    arguments[8] = ctypes.addressof(tid)
    arguments[9] = 1
    if call("clone3", CLONE3, arguments, ctypes.sizeof(arguments)) == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        os.execvp(argv[0], argv)
    os._exit(0)


if sys.argv[1] == "landlock":
    landlock(sys.argv[2:])
elif sys.argv[1] == "roots-landlock":
    landlock(sys.argv[3:], sys.argv[2])
elif sys.argv[1] == "key":
    key(sys.argv[2])
else:
    numbered(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
