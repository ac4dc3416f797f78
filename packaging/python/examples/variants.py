#!/usr/bin/python3
"""Ten variants from one state, at the same time: variants.py [IMAGE]

Prepares files once, runs ten commands in sandboxes of their own that begin with them, and shows what each has changed.
"""

import asyncio
import sys

from kiln.aio import Kiln, connect

KEEP = 10 * 60 * 1000


async def variant(kiln: Kiln, snapshot: str, number: int) -> str:
    ran = await kiln.run(
        f"echo {number} >/w/variant",
        surroundings={"fromSnapshot": snapshot},
        user="root",
        keep=KEEP,
        check=True,
    )
    sandbox = ran.result["sandbox"]
    try:
        difference = await kiln.diff(sandbox)
    finally:
        await kiln.kill(sandbox)
    return f"{number}: " + ", ".join(f"{each['change']} {each['path']}" for each in difference.changes)


async def main(image: str) -> None:
    kiln = await connect()
    prepare = "mkdir /w && echo prepared >/w/state"
    prepared = await kiln.run(prepare, image=image, user="root", keep=KEEP, check=True)
    sandbox = prepared.result["sandbox"]
    try:
        # Without a name, it goes when the sandbox has gone.
        snapshot = await kiln.snapshot(sandbox)
        lines = await asyncio.gather(*(variant(kiln, snapshot, number) for number in range(10)))
        print("\n".join(lines))
    finally:
        await kiln.kill(sandbox)


asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "debian-build"))
