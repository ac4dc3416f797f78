/** Ports of the host that users lead into their sandboxes: real servers inside, curl outside. */
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import { eventually } from '../support/eventually.ts';
import { freePort } from '../support/free-port.ts';
import { OTHER, USER, type UserState, userState } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;

test.before(async (t) => {
  t.context = await userState();
});
test.after.always(({ context }) => context[Symbol.asyncDispose]());

const RUN = ['run', '-r', 'busybox'];
const server = (port: number) => ['/bin/busybox', 'httpd', '-f', '-p', `${port}`, '-h', '/tmp'];
const pageAt = (text: string, port: number) => [
  ...['sh', '-c', `echo ${text} >/tmp/page && exec ${server(port).join(' ')}`],
];

/** What anybody on this host reads there; nothing where nobody answers. */
async function page(at: string): Promise<string> {
  const args = ['-sf', '--max-time', '5', `http://${at}/page`];
  return (await execa('curl', args, { reject: false })).stdout;
}

async function listeners(port: number): Promise<string[]> {
  const { stdout } = await execa('ss', ['-Hltn', `sport = :${port}`]);
  return stdout.split('\n').flatMap((line) => line.split(/\s+/)[3] ?? []);
}

test.serial('a user publishes a port of a run, and of a command beside it', async (t) => {
  const { as } = t.context;
  const [first, second, third] = [await freePort(), await freePort(), await freePort()];
  const ports = ['-p', `${first}:8080`, '-p', `[::1]:${second}:8080`];
  const begun = await as(USER, [
    ...RUN,
    ...ports,
    '-d',
    '--name',
    'web',
    '--',
    ...pageAt('mine', 8080),
  ]);
  t.is(begun.exitCode, 0, String(begun.stderr));
  await eventually(async () => (await page(`127.0.0.1:${first}`)) === 'mine');
  t.is(await page(`[::1]:${second}`), 'mine');
  t.deepEqual(await listeners(first), [`127.0.0.1:${first}`]);
  t.regex(String((await as(USER, ['ps'])).stdout), new RegExp(`${first}:8080`));
  t.notRegex(String((await as(OTHER, ['ps', '--all'])).stdout), new RegExp(`${first}`));
  // Beside it, as long as the command runs; by another user not at all.
  const beside = as(USER, ['exec', '-p', `${third}:8081`, 'web', '--', ...server(8081)]);
  await eventually(async () => (await page(`127.0.0.1:${third}`)) === 'mine');
  const stranger = await as(OTHER, ['exec', '-p', `${third}:8080`, 'web', '--', 'true']);
  t.is(stranger.exitCode, 125);
  const taken = await as(OTHER, [...RUN, '-p', `${first}:80`, '--', 'true']);
  t.regex(String(taken.stderr), /E_PUBLISH/);
  t.is((await as(USER, ['kill', 'web'])).exitCode, 0);
  await beside;
  for (const port of [first, second, third]) {
    await eventually(async () => (await listeners(port)).length === 0);
  }
});

test.serial('a user publishes no low port, at no other address, and not many', async (t) => {
  const { as } = t.context;
  const many = Array.from({ length: 40 }, (_, nth) => ['-p', `${20_000 + nth}:80`]).flat();
  for (const words of [['-p', '80:80'], ['-p', '1023:80'], ['-p', '0.0.0.0:8080:80'], many]) {
    const { stdout, stderr, exitCode } = await as(USER, [...RUN, ...words, '--', 'echo', 'ran']);
    t.is(exitCode, 125, words.join(' '));
    t.is(stdout, '');
    t.regex(String(stderr), /users publish \d+ ports at most, each from 1024 on, at the addresses/);
  }
});
