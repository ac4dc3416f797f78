"""Calls of the package by a user who is not root, from the user's home: user.py CLIENT. package.test.ts runs this."""

import asyncio
import pathlib
import sys
import unittest

import kiln.aio
from kiln import KilnError, connect
from kiln.types import Surroundings

IMAGE = "busybox"
CLIENT = sys.argv.pop()


class User(unittest.TestCase):
    def setUp(self) -> None:
        self.kiln = connect(program=CLIENT)
        pathlib.Path("in").write_text("mine\n")

    def test_files_are_opened_with_the_users_rights(self) -> None:
        around: Surroundings = {"binds": [{"source": "in", "target": "/in", "readonly": True}]}
        done = self.kiln.run(
            "cat /in >/tmp/out; id -u",
            image=IMAGE,
            workdir="/tmp",
            surroundings=around,
            artifacts=["out"],
            resultDirectory="results",
            check=True,
        )
        self.assertEqual(done.stdout, b"1000\n")
        self.assertEqual(pathlib.Path("results/out").read_text(), "mine\n")
        with self.assertRaises(KilnError) as raised:
            self.kiln.run(["true"], image=IMAGE, copyIn=[{"source": "/etc/shadow", "target": "/tmp/x"}])
        self.assertIn("/etc/shadow", raised.exception.message)

    def test_an_open_sandbox_may_have_files_of_the_users(self) -> None:
        around: Surroundings = {"binds": [{"source": "in", "target": "/in", "readonly": True}]}
        with self.kiln.open(image=IMAGE, surroundings=around) as sandbox:
            self.assertEqual(sandbox.exec(["cat", "/in"]).stdout, b"mine\n")
            sandbox.write_file("/tmp/x", b"x")
            self.assertEqual(sandbox.read_file("/tmp/x"), b"x")
        self.assertNotIn(sandbox.id, [row["id"] for row in self.kiln.sandboxes() if row["state"] == "running"])

    def test_long_input_reaches_the_command_or_is_refused(self) -> None:
        content = bytes(5_000_000)
        self.assertEqual(self.kiln.run("wc -c", image=IMAGE, input=content).stdout, b"5000000\n")
        with self.assertRaisesRegex(KilnError, "input: more than 1 MiB"):
            self.kiln.run("wc -c", image=IMAGE, input=content, resultDirectory="results")

    def test_a_client_that_is_missing_is_an_error_of_kilns(self) -> None:
        with self.assertRaisesRegex(KilnError, "no-such-client cannot be started"):
            connect(program="no-such-client").run(["true"], image=IMAGE, resultDirectory="results")

    def test_asyncio_goes_through_the_client_too(self) -> None:
        async def call() -> bytes:
            found = await kiln.aio.connect(program=CLIENT)
            done = await found.run(["cat", "/tmp/in"], image=IMAGE, copyIn=[{"source": "in", "target": "/tmp/in"}])
            return done.stdout

        self.assertEqual(asyncio.run(call()), b"mine\n")


if __name__ == "__main__":
    unittest.main()
