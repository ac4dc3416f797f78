"""Says to kilnd what no client of kiln's would: hostile-client.py SOCKET BUILD WHAT."""
import array, json, os, select, socket, struct, sys, threading, time

path, build, what, seconds = sys.argv[1:5]


def connect():
    peer = socket.socket(socket.AF_UNIX)
    peer.connect(path)
    return peer


def frame(kind, payload=b"", fds=0):
    return struct.pack("<IBBH", len(payload), kind, fds, 0) + payload


def texts(words):
    return struct.pack("<I", len(words)) + b"".join(word.encode() + b"\0" for word in words)


def start(argv, environment=(), cwd="/", fds=(), configuration=b""):
    payload = struct.pack("<IBIII", 0, 0, 24, 80, 1) + texts(argv) + texts(environment) + cwd.encode() + b"\0"
    # The path of its own configuration, if it has one.
    payload += (b"/own" if configuration else b"") + b"\0" + struct.pack("<I", 0) + configuration + b"\0"
    return frame(1, payload, len(fds))


def upgrade(of=build):
    return b'{"method":"io.kiln.CommandLine","parameters":{"build":"%s"},"upgrade":true}\0' % of.encode()


def with_fds(peer, data, fds):
    peer.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))])


def lingering():
    """A socket that holds up whoever closes it last for a minute, and what it waits for."""
    listener = socket.create_server(("127.0.0.1", 0))
    end = socket.create_connection(listener.getsockname())
    other, _ = listener.accept()
    end.setblocking(False)
    try:
        while True:
            end.send(b"x" * 65536)
    except BlockingIOError:
        pass
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 60))
    return end, (listener, other)


def send_lingering(peer, data, kept, flags=0):
    end, others = lingering()
    kept.append(others)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [end.fileno()]))]
    try:
        peer.sendmsg([data], rights, flags)
        return True
    except OSError:
        # Nobody takes it: it is not to hold up this process.
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False
    finally:
        # It may be the last one itself.
        threading.Thread(target=end.close, daemon=True).start()


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
elif what == "late-signal":
    # A signal for a command whose sandbox ends in the same moment: it is sent when the test says so.
    peer = connect()
    peer.sendall(upgrade() + start(["kiln", "run", "-r", "busybox", "--", "sleep", seconds]))
    peer.settimeout(60)
    seen = b""
    while frame(67, fds=3) not in seen:
        seen += peer.recv(65536)
    print("started", flush=True)
    sys.stdin.readline()
    peer.sendall(frame(2, struct.pack("<III", 15, 0, 0)))
    print("sent", flush=True)
    sys.stdin.read()
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
elif what == "lingering":
    kept = []
    # Before anything is said, with the first words, with the start, after it, and as urgent bytes.
    send_lingering(silent := connect(), b"x", kept)
    send_lingering(silent, b"x", kept)
    send_lingering(first := connect(), upgrade(), kept)
    with_start = connect()
    with_start.sendall(upgrade())
    send_lingering(with_start, start(["kiln", "ps"], fds=[0]), kept)
    urgent = connect()
    send_lingering(urgent, upgrade(), kept, socket.MSG_OOB)
    send_lingering(urgent, b"x", kept, socket.MSG_OOB)
    after = connect()
    after.sendall(upgrade() + start(["kiln", "run", "-r", "busybox", "--", "sleep", "1"]))
    send_lingering(after, frame(3), kept)
    # On a connection that is closed at once, and on one that a worker has until its end.
    closed = connect()
    closed.sendall(upgrade("0" * 16))
    send_lingering(closed, b"x", kept)
    closed.close()
    worked = connect()
    worked.sendall(upgrade() + start(["kiln", "run", "-r", "busybox", "--copy-in", "a:/b", "--", "true"]))
    worked.settimeout(20)
    seen = b""
    while b"/a\0" not in seen:
        seen += worked.recv(65536)
    while len(kept) < 20 and send_lingering(worked, frame(2), kept):
        pass
    print("sent", flush=True)
    sys.stdin.read()
elif what == "unread":
    # Answers that are longer than what a socket takes, and nobody who reads them.
    held = []
    for _ in range(12):
        peer = connect()
        peer.sendall(upgrade() + start(["kiln", "gc", "--" + "x" * 1_000_000]))
        held.append(peer)
    time.sleep(3)
    print("sent", flush=True)
    sys.stdin.read()
elif what == "words":
    # Options without number.
    peer = connect()
    options = ["--env", "A=b"] * 150_000
    peer.sendall(upgrade() + start(["kiln", "run", *options, "-r", "busybox", "--", "true"]))
    print("sent", flush=True)
    sys.stdin.read()
elif what == "variables":
    # More of them, and of the words of a command, than anybody has: each short, all together as long as may be.
    many = ["%x=" % number for number in range(250_000)]
    for argv, environment in ((["kiln", "ps"], many), (["kiln", "ps", *many], ())):
        peer = connect()
        peer.sendall(upgrade() + start(argv, environment))
        print(answer(peer).decode("latin1"))
elif what == "configuration":
    # A client's own file has 64 KiB at most. This one takes a parser a quarter of an hour.
    peer = connect()
    peer.sendall(upgrade() + start(["kiln", "run", "-r", "busybox", "--", "true"], configuration=b"- " * 900_000))
    print(answer(peer).decode("latin1"))
elif what == "values":
    peer = connect()
    env = ",".join('"%x":""' % number for number in range(150_000))
    peer.sendall(b'{"method":"io.kiln.Run","parameters":{"image":"busybox","argv":["true"],"env":{%s}}}\0' % env.encode())
    print(answer(peer).decode("latin1"))
elif what == "asks":
    # Questions that are shorter than their answers, without an end.
    held = []
    ask = b'{"method":"org.varlink.service.GetInterfaceDescription","parameters":{"interface":"io.kiln"}}\0'
    for _ in range(8):
        peer = connect()
        peer.settimeout(2)
        try:
            peer.sendall(ask * 15_000)
        except OSError:
            pass
        held.append(peer)
    time.sleep(2)
    print("sent", flush=True)
    sys.stdin.read()
elif what in ("drips", "long drips"):
    # Messages whose last bytes come one by one.
    length = 1_800_000 if what == "long drips" else 1
    held = []
    for _ in range(60):
        peer = connect()
        peer.sendall(b'{"method":"io.kiln.GetVersion","parameters":{}}\0')
        peer.recv(1000)
        peer.sendall(b"x" * length)
        held.append(peer)
    for _ in range(200):
        for peer in held:
            peer.send(b"x")
        time.sleep(0.01)
    # An answer comes after all that.
    held[0].sendall(b"\0")
    print(answer(held[0]))
elif what == "long":
    peer = connect()
    try:
        peer.sendall(b"x" * (8 << 20))
    except OSError:
        pass
    print("sent")
elif what in ("calls", "lines", "signals", "output"):
    # As fast as they come, on as many connections as a user may have.
    def call(method, more=False, **parameters):
        return json.dumps({"method": "io.kiln." + method, "parameters": parameters, "more": more}).encode() + b"\0"

    def begin():
        peer = connect()
        peer.setblocking(False)
        try:
            peer.send(first)
        except ConnectionError:
            # There are too many already: it reads the end of it, and begins again.
            pass
        peers[peer.fileno()] = [peer, 0]
        poll.register(peer, select.POLLIN | (select.POLLOUT if again else 0))

    again = b""
    if what == "calls":
        first = again = call("GetVersion") * 1000
    elif what == "lines":
        first = upgrade() + start(["kiln", "ps"])
    elif what == "signals":
        first = upgrade() + start(["kiln", "run", "-r", "busybox", "--", "sleep", "1000"])
        again = frame(2, struct.pack("<III", 28, 24, 80)) * 5000
    else:
        control = connect()
        # With `more` it ends with the connection.
        control.sendall(call("OpenSandbox", True, image="busybox"))
        said = b""
        while b'"sandbox"' not in said or not said.endswith(b"\0"):
            said += control.recv(65536)
        sandbox = json.loads(said.split(b"\0")[-2])["parameters"]["sandbox"]
        first = call("Execute", True, sandbox=sandbox, argv=["cat", "/dev/zero"])
    peers = {}
    poll = select.poll()
    poll.register(sys.stdin, select.POLLIN)
    for _ in range({"signals": 2, "output": 8}.get(what, 60)):
        begin()
    passed = 0
    told = False
    while True:
        for fd, events in poll.poll():
            if fd == sys.stdin.fileno():
                sys.exit()
            peer, at = peers[fd]
            try:
                if events & select.POLLOUT:
                    sent = peer.send(again[at:])
                    peers[fd][1] = (at + sent) % len(again)
                    passed += sent
                piece = peer.recv(1 << 18)
            except BlockingIOError:
                continue
            except ConnectionError:
                piece = b""
            passed += len(piece)
            if not piece:
                poll.unregister(fd)
                del peers[fd]
                peer.close()
                begin()
        if passed > (1 << 22 if what == "output" else 10_000) and not told:
            told = True
            print("sent", flush=True)

elif what == "deaf":
    # It ends with kilnd's words unread, and with more of its own than kilnd takes at a time.
    peer = connect()
    peer.send(upgrade() + start(["kiln", "run", "-r", "busybox", "--", "sleep", seconds]))
    while len(peer.recv(16, socket.MSG_PEEK)) < 16:
        pass
    print("sent", flush=True)
    sys.stdin.read()
    peer.setblocking(False)
    peer.send(frame(2, struct.pack("<III", 28, 24, 80)) * 5000)
