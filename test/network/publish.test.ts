/** Ports of the host that lead into sandboxes: `--publish` of run, shell and exec, and of the API. */
import { once } from 'node:events';
import test from 'ava';
import { execa } from 'execa';
import { connect } from '../../src/api/connect.ts';
import { type BusyboxState, busyboxState, IMAGE } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import { freePort } from '../support/free-port.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});

test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

const run = (...args: readonly string[]) => state.kiln(['run', '-r', IMAGE, ...args]);

/** A server inside, on a port that needs no capability. */
const server = (port = 8080) => ['/bin/busybox', 'httpd', '-f', '-p', `${port}`, '-h', '/etc'];

/** What curl(1) gets: the status of the answer, or 000. */
async function status(port: number, address = '127.0.0.1'): Promise<string> {
  const url = `http://${address}:${port}/`;
  const args = ['-s', '-o', '/dev/null', '-w', '%{http_code}', '--max-time', '5', url];
  return (await execa('curl', args, { reject: false })).stdout;
}

/** Waits for the server: a sandbox runs before its server listens. */
const answers = (port: number) => eventually(async () => (await status(port)) === '404');

/** Where the host listens on a port. */
async function listeners(port: number): Promise<string[]> {
  const { stdout } = await execa('ss', ['-Hltn', `sport = :${port}`]);
  return stdout.split('\n').flatMap((line) => line.split(/\s+/)[3] ?? []);
}

/** What is published by whatever runs. */
const shown = async () => {
  const { stdout } = await state.kiln(['ps', '--json']);
  return (JSON.parse(String(stdout)) as { publish: string[] }[]).flatMap(({ publish }) => publish);
};

test.serial('a port of the host leads to the command, and to no other address', async (t) => {
  const port = await freePort();
  const begun = await run('-p', `${port}:8080`, '--detach', '--name', 'web', '--', ...server());
  t.is(begun.exitCode, 0, String(begun.stderr));
  await answers(port);
  t.deepEqual(await listeners(port), [`127.0.0.1:${port}`]);
  // Nothing but lo is in the sandbox, and in it nobody listens on the host's port.
  const inside = await state.kiln(['exec', 'web', '--', 'cat', '/proc/net/dev', '/proc/net/tcp']);
  t.notRegex(String(inside.stdout), /eth0/);
  t.false(String(inside.stdout).includes(`:${port.toString(16).toUpperCase()} 00000000`));
  t.deepEqual(await shown(), [`${port}:8080`]);
  t.regex(
    String((await state.kiln(['ps'])).stdout),
    new RegExp(`\\bPORTS\\b.*\\b${port}:8080\\b`, 's'),
  );
  const inspected = await state.kiln(['inspect', 'web']);
  t.true(String(inspected.stdout).includes(`"${port}:8080"`));
  await state.kiln(['kill', 'web']);
  await eventually(async () => (await listeners(port)).length === 0);
});

test.serial('an address is chosen, and a port that somebody has is refused', async (t) => {
  const port = await freePort();
  const first = await run(
    ...['--publish', `[::1]:${port}:8080`, '--detach', '--name', 'six', '--', ...server()],
  );
  t.is(first.exitCode, 0, String(first.stderr));
  await eventually(async () => (await status(port, '[::1]')) === '404');
  t.deepEqual(await listeners(port), [`[::1]:${port}`]);
  const second = await run('--publish', `[::1]:${port}:80`, '--', 'echo', 'has run');
  t.is(second.exitCode, 125);
  t.is(second.stdout, '');
  t.regex(
    String(second.stderr),
    /cannot listen on ::1 port \d+: another program has it.*ss -ltnp/s,
  );
  const nowhere = await run('--publish', `192.0.2.1:${port}:80`, '--', 'true');
  t.regex(String(nowhere.stderr), /this host has no such address/);
  const hosts = ['--network', 'host', '--allow-host-network', '-p', `${port}:22`];
  t.regex(String((await run(...hosts, '--', 'true')).stderr), /has its ports already/);
  await state.kiln(['kill', 'six']);
});

test.serial(
  'a kept sandbox has its ports while somebody is in it, exec further ones',
  async (t) => {
    const [port, more] = [await freePort(), await freePort()];
    const kept = await run('-p', `${port}:8080`, '--keep', '--name', 'kept', '--', 'true');
    t.is(kept.exitCode, 0, String(kept.stderr));
    t.deepEqual(await listeners(port), []);
    t.deepEqual(await shown(), []);
    const serving = state.kiln(['exec', 'kept', '--', ...server()]);
    await answers(port);
    // It is entered by a second command, whose port goes with it.
    const second = state.kiln(['exec', '-p', `${more}:8080`, 'kept', '--', 'sleep', '600']);
    await answers(more);
    t.deepEqual(await shown(), [`${port}:8080`, `${more}:8080`]);
    await state.kiln(['exec', 'kept', '--', '/bin/busybox', 'killall', 'sleep']);
    await second;
    await eventually(async () => (await listeners(more)).length === 0);
    t.deepEqual(await shown(), [`${port}:8080`]);
    t.is(await status(port), '404');
    await state.kiln(['kill', 'kept']);
    await serving;
    t.deepEqual(await listeners(port), []);
  },
);

test.serial('many connections at once bring back what they sent', async (t) => {
  const port = await freePort();
  const echo = `import socketserver as s
class Echo(s.BaseRequestHandler):
    def handle(self):
        while part := self.request.recv(65536): self.request.sendall(part)
s.ThreadingTCPServer(('127.0.0.1', 8080), Echo).serve_forever()`;
  const how = ['-p', `${port}:8080`, '--detach', '--name', 'echo'];
  await state.kiln(['run', '-r', 'host', ...how, '--', 'python3', '-c', echo]);
  await eventually(async () => (await listeners(port)).length === 1);
  const script = `import os, socket, sys, threading
def one(n):
    data = os.urandom(300000)
    s = socket.create_connection(('127.0.0.1', ${port}), 20)
    def send():
        s.sendall(data); s.shutdown(socket.SHUT_WR)
    threading.Thread(target=send).start()
    got = b''
    while True:
        part = s.recv(65536)
        if not part: break
        got += part
    good.append(got == data)
good = []
all = [threading.Thread(target=one, args=(n,)) for n in range(20)]
[t.start() for t in all]; [t.join() for t in all]
print(good.count(True))`;
  const echoed = async () => (await execa('python3', ['-c', script], { reject: false })).stdout;
  await eventually(async () => (await echoed()) === '20');
  await state.kiln(['kill', 'echo']);
  t.pass();
});

test.serial('a sandbox of the API has ports', async (t) => {
  const port = await freePort();
  await using kiln = await connect({ state: state.paths.root });
  await using sandbox = await kiln.open({
    image: IMAGE,
    surroundings: { publish: [`${port}:8080`] },
  });
  const [program = '', ...args] = server();
  const command = sandbox.spawn(program, args);
  const ended = once(command, 'error');
  await answers(port);
  await sandbox.close();
  await ended;
  t.deepEqual(await listeners(port), []);
});
