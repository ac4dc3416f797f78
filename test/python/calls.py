"""Calls of the package against the kilnd of KILN_STATE: package.test.ts runs this."""

import asyncio
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import unittest

import kiln.aio
from kiln import CommandError, KilnError, connect
from kiln.types import Bind

IMAGE = "busybox"


class Run(unittest.TestCase):
    def setUp(self) -> None:
        self.kiln = connect()

    def test_an_image_and_a_command_are_enough(self) -> None:
        done = self.kiln.run(["sh", "-c", "echo out; echo err >&2; exit 4"], image=IMAGE)
        self.assertEqual((done.stdout, done.stderr, done.exit_code), (b"out\n", b"err\n", 4))
        self.assertEqual(done.result["image"]["name"], IMAGE)
        self.assertEqual(self.kiln.run("echo $((1 + 2))", image=IMAGE).stdout, b"3\n")

    def test_input_may_have_any_length_read_or_not(self) -> None:
        content = bytes(range(256)) * 20_000
        self.assertEqual(self.kiln.run(["cat"], image=IMAGE, input=content).stdout, content)
        unread = self.kiln.run("head -c 3; exit 4", image=IMAGE, input=content)
        self.assertEqual((unread.stdout, unread.exit_code), (content[:3], 4))

    def test_output_comes_while_the_command_runs(self) -> None:
        came: list[tuple[bytes, float]] = []
        done = self.kiln.run(
            "echo one; sleep 1; echo two",
            image=IMAGE,
            on_stdout=lambda piece: came.append((piece, time.monotonic())),
        )
        self.assertEqual(([piece for piece, _ in came], done.stdout), ([b"one\n", b"two\n"], b""))
        self.assertGreater(came[1][1] - came[0][1], 0.5)

    def test_what_a_listener_raises_ends_the_command(self) -> None:
        def fail(piece: bytes) -> None:
            raise RuntimeError(piece.decode())

        with self.assertRaisesRegex(RuntimeError, "one"):
            self.kiln.run("echo one; sleep 60", image=IMAGE, on_stdout=fail)
        self.assertEqual(running("echo one; sleep 60"), [])

    def test_paths_begin_at_the_programs_folder(self) -> None:
        pathlib.Path("in").write_text("hello")
        done = self.kiln.run(
            "cat /in /copied >/tmp/out",
            image=IMAGE,
            workdir="/tmp",
            surroundings={"binds": [{"source": "in", "target": "/in", "readonly": True}]},
            copyIn=[{"source": "./in", "target": "/copied"}],
            artifacts=["out"],
            resultDirectory="results",
            check=True,
        )
        self.assertEqual(done.result["artifacts"], ["out"])
        self.assertEqual(pathlib.Path("results/out").read_text(), "hellohello")

    def test_check_raises_with_the_output(self) -> None:
        with self.assertRaisesRegex(CommandError, "exit status 3.*: no") as raised:
            self.kiln.run("echo no >&2; exit 3", image=IMAGE, check=True)
        self.assertEqual(raised.exception.completed.stderr, b"no\n")

    def test_errors_have_a_code_and_a_hint(self) -> None:
        with self.assertRaises(KilnError) as raised:
            self.kiln.run(["true"], image="nothing")
        self.assertEqual(raised.exception.code, "E_IMAGE_MISSING")
        self.assertTrue(raised.exception.hint)
        with self.assertRaisesRegex(KilnError, "colour has a wrong name"):
            self.kiln.run(["true"], image=IMAGE, colour="red")  # type: ignore[call-arg]
        with self.assertRaisesRegex(KilnError, "binds.target is missing"):
            self.kiln.run(["true"], image=IMAGE, surroundings={"binds": [{"source": "in"}]})  # type: ignore[typeddict-item]
        with self.assertRaisesRegex(KilnError, "no method io.kiln.Foo"):
            self.kiln.call("Foo")
        with self.assertRaises(KilnError) as raised:
            connect("nowhere", start=False)
        self.assertEqual(raised.exception.code, "E_NO_DAEMON")

    def test_several_threads_may_call_at_the_same_time(self) -> None:
        said: list[bytes] = []

        def call(number: int) -> None:
            said.append(self.kiln.run(["echo", str(number)], image=IMAGE).stdout)

        threads = [threading.Thread(target=call, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(sorted(said), [b"0\n", b"1\n", b"2\n", b"3\n"])

    def test_events_and_lists_tell_what_was_run(self) -> None:
        before = int(time.time() * 1000)
        self.kiln.run(["true"], image=IMAGE)
        events = list(self.kiln.events(since=before))
        self.assertTrue(events)
        self.assertEqual([image["name"] for image in self.kiln.images()], [IMAGE])
        self.assertTrue(self.kiln.doctor(["kernel"]))


class Open(unittest.TestCase):
    def setUp(self) -> None:
        self.kiln = connect()
        self.sandbox = self.kiln.open(image=IMAGE)
        self.addCleanup(self.sandbox.close)

    def test_commands_share_the_files_of_their_sandbox(self) -> None:
        self.sandbox.exec("echo 1 >/tmp/x", check=True)
        self.assertEqual(self.sandbox.exec(["cat", "/tmp/x"]).stdout, b"1\n")
        self.assertEqual(self.sandbox.exec("cat; exit 7", input="in").ended["exitCode"], 7)

    def test_files_go_in_and_out_as_they_are(self) -> None:
        content = os.urandom(2_500_000)
        pathlib.Path("long").write_bytes(content)
        os.chmod("long", 0o750)
        self.sandbox.copy_in("long", "/tmp/a/long")
        digest = self.sandbox.exec("sha256sum /tmp/a/long; stat -c %a /tmp/a/long").stdout.split()
        wanted = subprocess.run(["sha256sum", "long"], capture_output=True, check=True).stdout.split()
        self.assertEqual((digest[0], digest[2]), (wanted[0], b"750"))
        self.sandbox.copy_out("/tmp/a/long", "back")
        self.assertEqual(pathlib.Path("back").read_bytes(), content)
        self.sandbox.write_file("/tmp/empty", b"")
        self.assertEqual(self.sandbox.read_file("/tmp/empty"), b"")
        with self.assertRaises(KilnError):
            self.sandbox.copy_out("/tmp/missing", "missing")
        self.assertEqual([name for name in os.listdir() if name.startswith("missing")], [])

    def test_a_command_is_talked_to_while_it_runs(self) -> None:
        with self.sandbox.spawn(["cat"]) as cat:
            output = iter(cat)
            cat.write("one\n")
            self.assertEqual(next(output), ("stdout", b"one\n"))
            cat.write("two\n")
            self.assertEqual(next(output), ("stdout", b"two\n"))
            cat.end_input()
            self.assertEqual(cat.wait()["exitCode"], 0)
        with self.sandbox.spawn("sleep 60") as sleep:
            sleep.send_signal("SIGTERM")
            self.assertEqual(sleep.wait()["signal"], "SIGTERM")
        with self.sandbox.spawn("stty size", terminal={"rows": 12, "columns": 34}) as sizes:
            self.assertEqual(b"".join(piece for _, piece in sizes), b"12 34\r\n")

    def test_the_sandbox_goes_with_its_process(self) -> None:
        script = f"import kiln, os, signal; print(kiln.connect().open(image='{IMAGE}').id, flush=True); "
        script += "os.kill(os.getpid(), signal.SIGKILL)"
        killed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        self.assertEqual(killed.returncode, -signal.SIGKILL, killed.stderr)
        end = time.monotonic() + 60
        while any(row["id"] == killed.stdout.strip() for row in self.kiln.sandboxes()):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.05)

    def test_snapshots_forks_and_rollback(self) -> None:
        first = self.kiln.run("mkdir /w; echo 1 >/w/a", image=IMAGE, user="root", keep=600_000, check=True)
        kept = first.result["sandbox"]
        snapshot = self.kiln.snapshot(kept, name="python")
        self.assertIn(("python", snapshot), [(each.get("name"), each["id"]) for each in self.kiln.snapshots()])
        again = self.kiln.run(["cat", "/w/a"], surroundings={"fromSnapshot": "python"})
        self.assertEqual(again.stdout, b"1\n")
        forks = self.kiln.fork("python", number=2, memory=64 << 20, onDisk=True)
        self.assertEqual(len(set(forks)), 2)
        image = self.kiln.commit_image("python", "committed-by-python")
        self.assertIn(image["id"], [each["id"] for each in self.kiln.images()])
        self.kiln.remove_image(image["id"])
        for fork in forks:
            self.kiln.kill(fork)
        self.assertEqual([each["path"] for each in self.kiln.diff("python").changes], ["w", "w/a"])
        self.assertIn(b"+1", self.kiln.patch("python"))
        self.assertEqual(self.kiln.rollback(kept), snapshot)
        self.kiln.kill(kept)
        self.kiln.remove_snapshot("python")
        self.assertNotIn(snapshot, [each["id"] for each in self.kiln.snapshots()])

    def test_changes_are_taken_after_a_look(self) -> None:
        os.makedirs("project", exist_ok=True)
        bind: Bind = {"source": "project", "target": "/src", "cow": True}
        ran = self.kiln.run(
            "echo new >/src/file",
            image=IMAGE,
            user="root",
            keep=600_000,
            surroundings={"binds": [bind]},
            check=True,
        )
        kept = ran.result["sandbox"]
        self.addCleanup(self.kiln.kill, kept)
        self.assertEqual(os.listdir("project"), [])
        changes = self.kiln.diff(kept, target="/src").changes
        self.assertEqual([(each["change"], each["path"]) for each in changes], [("added", "file")])
        self.assertEqual(self.kiln.apply(kept, "/src")["applied"], 1)
        self.assertEqual(pathlib.Path("project/file").read_text(), "new\n")
        self.kiln.discard(kept, "/src")
        self.assertEqual(self.kiln.diff(kept, target="/src").changes, [])


class Asyncio(unittest.IsolatedAsyncioTestCase):
    async def test_the_same_without_threads(self) -> None:
        found = await kiln.aio.connect()
        runs = (found.run(["echo", str(number)], image=IMAGE) for number in range(3))
        self.assertEqual([done.stdout for done in await asyncio.gather(*runs)], [b"0\n", b"1\n", b"2\n"])
        content = bytes(range(256)) * 20_000
        self.assertEqual((await found.run(["cat"], image=IMAGE, input=content)).stdout, content)
        async with await found.open(image=IMAGE) as sandbox:
            await sandbox.write_file("/tmp/in", "from asyncio")
            self.assertEqual((await sandbox.exec(["cat", "/tmp/in"])).stdout, b"from asyncio")
            async with await sandbox.spawn(["cat"]) as cat:
                await cat.write("one\n")
                async for name, piece in cat:
                    self.assertEqual((name, piece), ("stdout", b"one\n"))
                    break
                await cat.end_input()
                self.assertEqual((await cat.wait())["exitCode"], 0)
            await sandbox.copy_out("/tmp/in", "async-out")
        self.assertEqual(pathlib.Path("async-out").read_text(), "from asyncio")

    async def test_cancelling_ends_the_command(self) -> None:
        found = await kiln.aio.connect()
        with self.assertRaises(TimeoutError):
            await asyncio.wait_for(found.run("sleep 47; echo cancelled", image=IMAGE), 1)
        self.assertEqual(await asyncio.to_thread(running, "sleep 47; echo cancelled"), [])


def running(line: str) -> list[str]:
    """Processes of this machine with these words, once they have had time to end."""
    end = time.monotonic() + 60
    while True:
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = path.read_bytes().split(b"\0")
            except OSError:
                continue
            if line.encode() in words:
                found.append(path.parent.name)
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.05)


if __name__ == "__main__":
    unittest.main()
