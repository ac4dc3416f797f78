"""Asks two servers in turns how they are, until stdin ends: argv[1] and argv[2] are their sockets.

Prints as JSON how long the answers of each took, in milliseconds, sorted.
"""

import json
import select
import socket
import sys
import time

CALL = b'{"method":"org.varlink.service.GetInfo"}\0'


def ask(path):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        begun = time.monotonic()
        connection.sendall(CALL)
        while not connection.recv(4096).endswith(b"\0"):
            pass
        return (time.monotonic() - begun) * 1000


times = [[], []]
while not select.select([sys.stdin], [], [], 0.003)[0]:
    for path, its in zip(sys.argv[1:], times):
        its.append(ask(path))
print(json.dumps([sorted(its) for its in times]))
