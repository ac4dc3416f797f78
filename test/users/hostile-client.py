"""Says to kilnd what no client of kiln's would: hostile-client.py SOCKET BUILD WHAT."""
import array, os, socket, struct, sys, time

path, build, what = sys.argv[1:4]


def connect():
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    return peer


def frame(kind, payload=b"", fds=0):
    return struct.pack("<IBBH", len(payload), kind, fds, 0) + payload


def texts(words):
    return struct.pack("<I", len(words)) + b"".join(word.encode() + b"\0" for word in words)


def start(argv, environment=(), cwd="/", fds=()):
    payload = struct.pack("<IBIII", 0, 0, 24, 80, 1) + texts(argv) + texts(environment) + cwd.encode() + b"\0"
    return frame(1, payload, len(fds))


def upgrade(of=build):
    return b'{"method":"io.kiln.CommandLine","parameters":{"build":"%s"},"upgrade":true}\0' % of.encode()


def with_fds(peer, data, fds):
    peer.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def answer(peer, seconds=20):
    peer.settimeout(seconds)
    said = b""
    try:
        while True:
            piece = peer.recv(65536)
            if not piece:
                return said
            said += piece
    except (TimeoutError, ConnectionError):
        return said


if what == "descriptors":
    # A pipe that nobody reads, a socket, and more than anybody asked for.
    peer = connect()
    pair = socket.socketpair()
    ends = [*os.pipe(), *[s.fileno() for s in pair], os.open("/", os.O_RDONLY)]
    peer.sendall(upgrade())
    with_fds(peer, start(["kiln", "ps"], fds=ends), ends)
    print(answer(peer).decode("latin1"))
elif what == "unasked":
    # Files that nobody asked for, in the place of every other frame.
    peer = connect()
    peer.sendall(upgrade() + start(["kiln", "run", "-r", "busybox", "--", "true"]))
    for _ in range(20):
        try:
            with_fds(peer, frame(7, struct.pack("<I", 0), 1), [os.open("/", os.O_RDONLY)])
        except OSError:
            break
        time.sleep(0.01)
    print("sent")
elif what == "wrong-file":
    # Whatever is asked for: a folder, a device, a pipe, the daemon's own memory.
    for give in (lambda: os.open("/", os.O_RDONLY), lambda: os.open("/dev/zero", os.O_RDONLY), lambda: os.pipe()[0],
                 lambda: os.open("/proc/self/mem", os.O_RDONLY), lambda: os.open("/etc/passwd", os.O_PATH)):
        peer = connect()
        peer.sendall(upgrade() + start(["kiln", "run", "-r", "busybox", "--secret", "a=b", "--", "cat", "/run/secrets/a"]))
        peer.settimeout(30)
        seen = b""
        while frame(72, b"x")[4:5] not in seen[21:] or b"/b\0" not in seen:
            seen += peer.recv(65536)
        with_fds(peer, frame(7, struct.pack("<I", 0), 1), [give()])
        print(answer(peer).decode("latin1"))
elif what == "connections":
    held = []
    for _ in range(200):
        try:
            held.append(connect())
        except OSError:
            break
    time.sleep(1)
    open_ones = 0
    for peer in held:
        peer.setblocking(False)
        try:
            if peer.recv(1) != b"":
                open_ones += 1
        except BlockingIOError:
            open_ones += 1
        except ConnectionError:
            pass
    print(open_ones, flush=True)
    sys.stdin.read()
elif what == "other-build":
    peer = connect()
    peer.sendall(upgrade("0" * 16))
    print(answer(peer).decode("latin1"))
elif what == "long":
    peer = connect()
    try:
        peer.sendall(b"x" * (8 << 20))
    except OSError:
        pass
    print("sent")
