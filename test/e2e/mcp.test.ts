/** `kiln mcp`, driven by the client of the protocol's own SDK. */
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';
import anyTest, { type TestFn } from 'ava';
import { KILN } from '../support/busybox-state.ts';
import { eventually } from '../support/eventually.ts';
import {
  GROUP,
  kilnForUsers,
  labelForBinds,
  USER,
  type UserState,
  userState,
} from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;

test.before(async (t) => {
  t.context = await userState();
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

interface Served extends AsyncDisposable {
  readonly pid: number;
  tools(): Promise<string[]>;
  /** The text of the result; `!` stands before that of an error. */
  call(name: string, args: Record<string, unknown>): Promise<string>;
}

async function serve(
  state: UserState,
  cwd: string,
  words: readonly string[],
  {
    image = ['-r', 'busybox'],
    program = [KILN],
    ...more
  }: { image?: string[]; program?: readonly string[]; XDG_CONFIG_HOME?: string } = {},
): Promise<Served> {
  const [command = '', ...before] = program;
  const args = [...before, 'mcp', ...image, ...words];
  const env = Object.fromEntries(
    Object.entries({ ...state.env, ...more }).filter(
      (pair): pair is [string, string] => pair[1] !== undefined,
    ),
  );
  const client = new Client({ name: 'test', version: '1' });
  const transport = new StdioClientTransport({ command, args, env, cwd });
  await client.connect(transport);
  return {
    pid: transport.pid ?? 0,
    tools: async () => (await client.listTools()).tools.map(({ name }) => name),
    call: async (name, given) => {
      const { content, isError } = await client.callTool({ name, arguments: given });
      const [first] = content as { type: string; text?: string; resource?: { blob?: string } }[];
      return `${isError === true ? '!' : ''}${first?.text ?? first?.resource?.blob}`;
    },
    [Symbol.asyncDispose]: async () => await client.close(),
  };
}

test.serial('the MCP server ends with its input, of whatever kind that is', async (t) => {
  const { kiln, env, beside } = t.context;
  const ping = '{"jsonrpc":"2.0","id":1,"method":"ping"}\n';
  const file = join(beside, 'asked.json');
  writeFileSync(file, ping);
  for (const [from, said] of [
    [{ stdin: { file: '/dev/null' } }, /^$/],
    [{ stdin: { file } }, /"id":1/],
    [{ stdin: 'pipe', input: ping }, /"id":1/],
  ] as const) {
    const { exitCode, stdout, stderr } = await kiln(['mcp'], { env, ...from });
    t.is(exitCode, 0, String(stderr));
    t.regex(String(stdout), said);
  }
});

test.serial('the MCP server runs commands and copies files, within its options', async (t) => {
  const { kiln, beside } = t.context;
  const place = join(beside, 'mcp');
  mkdirSync(place);
  await using served = await serve(t.context, place, ['--memory', '64M', '--env', 'GIVEN=yes']);
  t.deepEqual((await served.tools()).sort(), [
    ...['build_package', 'checkpoint', 'close_sandbox', 'diff', 'exec_command', 'fetch_artifact'],
    ...['open_sandbox', 'read_file', 'rollback', 'run_command', 'write_file'],
  ]);
  const command = 'cat; echo $GIVEN; tail -n +3 /proc/net/dev | wc -l; echo err >&2; exit 3';
  const ran = await served.call('run_command', { command, stdin: 'in\n' });
  t.is(ran, 'exit status 3\nstdout:\nin\nyes\n1\n\nstderr:\nerr\n');
  // A recipe may name any file of whoever started the server.
  writeFileSync(
    join(place, 'evil.yaml'),
    'packages: []\nfiles: [{ path: /x, source: /etc/shadow }]\n',
  );
  for (const image of ['evil.yaml', 'evil']) {
    t.regex(
      await served.call('run_command', { image, command: 'cat /x' }),
      /^!there is no image evil/,
    );
  }
  // The second import gives the image another name; both mean it.
  const archive = join(place, 'root.tar');
  await kiln(['image', 'export', 'busybox', '-o', archive]);
  for (const name of ['one', 'two']) await kiln(['image', 'import', archive, '--name', name]);
  for (const image of ['busybox', 'one', 'two']) {
    const used = await served.call('run_command', { image, command: 'true' });
    t.regex(used, /^exit status 0/, image);
  }
  const large = 'tail /dev/zero';
  t.regex(await served.call('run_command', { command: large }), /the memory limit was reached/);
  const id = await served.call('open_sandbox', {});
  t.is(
    await served.call('write_file', { sandbox: id, path: '/tmp/a/b', content: 'one\n' }),
    '4 bytes',
  );
  t.regex(
    await served.call('exec_command', { sandbox: id, command: 'cat /tmp/a/b' }),
    /stdout:\none\n/,
  );
  t.is(await served.call('read_file', { sandbox: id, path: '/tmp/a/b' }), 'one\n');
  t.regex(await served.call('read_file', { sandbox: id, path: '/tmp/none' }), /^!.*does not exist/);
  await served.call('exec_command', { sandbox: id, command: 'printf "\\377\\376" >/tmp/bytes' });
  t.is(await served.call('read_file', { sandbox: id, path: '/tmp/bytes' }), '//4=');
  // A character that the bound cuts in two.
  const cut = 'head -c 1048575 /dev/zero | tr "\\0" a >/tmp/cut; printf "\\303\\244" >>/tmp/cut';
  await served.call('exec_command', { sandbox: id, command: cut });
  const shown = await served.call('read_file', { sandbox: id, path: '/tmp/cut' });
  t.regex(shown.slice(-40), /a\n\[1 byte left out\]$/);
  t.is(await served.call('close_sandbox', { sandbox: id }), 'closed');
  t.regex(await served.call('exec_command', { sandbox: id, command: 'id' }), /^!.*no open sandbox/);
  // One that the server did not open.
  const other = await kiln(['run', '-r', 'busybox', '--keep', '--', 'true']);
  const [, kept = ''] = /kept as (\w+)/.exec(String(other.stderr)) ?? [];
  t.regex(
    await served.call('exec_command', { sandbox: kept, command: 'id' }),
    /^!.*no open sandbox/,
  );
  await kiln(['kill', kept]);
  const make = 'cd /tmp; echo text >t; printf "\\377\\376" >b; ln -s /etc/passwd l';
  const made = await served.call('run_command', { command: make, artifacts: ['/tmp/*'] });
  const [, folder = ''] = /artifacts:\n(call-\w+)\//.exec(made) ?? [];
  const at = (name: string) => made.split('\n').find((line) => line.endsWith(`/${name}`)) ?? '';
  t.is(await served.call('fetch_artifact', { path: at('t') }), 'text\n', made);
  t.is(await served.call('fetch_artifact', { path: at('b') }), '//4=');
  symlinkSync('/etc/passwd', join(place, 'kiln-results', folder, 'out'));
  // Nobody learns which paths the host has: whatever is there, the answer is the same.
  symlinkSync('/etc/no-such-file', join(place, 'kiln-results', folder, 'none'));
  symlinkSync('../../../beside.spec', join(place, 'kiln-results', folder, 'up'));
  writeFileSync(join(beside, 'outside.spec'), '');
  for (const [there, absent] of [
    [`${folder}/out`, `${folder}/none`],
    ['/etc/passwd', '/etc/no-such-file'],
    ['/etc', '/no-such-folder'],
    ['/etc/passwd/x', '/etc/no-such-file/x'],
    ['/root/.ssh', '/root/.no-such'],
    ['../../../../../../../../etc/passwd', '../../../../../../../../etc/no-such-file'],
    ['../mcp', '../no-such-folder'],
    [`${folder}/../../../outside.spec`, `${folder}/../../../no-such.spec`],
    [`${folder}/up`, `${folder}/no-such`],
  ] as const) {
    const said = async (path: string) => {
      const text = await served.call('fetch_artifact', { path });
      t.regex(text, /^!there is no file/, path);
      return text.replace(path, 'PATH');
    };
    t.is(await said(there), await said(absent), there);
  }
  for (const [there, absent] of [
    ['../outside.spec', '../no-such.spec'],
    [join(beside, 'outside.spec'), join(beside, 'no-such.spec')],
  ] as const) {
    const said = async (source: string) => {
      const text = await served.call('build_package', { source });
      t.regex(text, /^!there is no file/, source);
      return text.replace(source, 'PATH');
    };
    t.is(await said(there), await said(absent), there);
  }
});

test.serial('a time limit ends a command, but not its sandbox', async (t) => {
  await using served = await serve(t.context, '/tmp', ['--timeout', '2s']);
  const sandbox = await served.call('open_sandbox', {});
  for (const command of [
    'echo begun; sleep 60',
    'trap "" TERM; echo begun; while :; do stay=1; done',
  ]) {
    const ended = await served.call('exec_command', { sandbox, command });
    t.regex(ended, /^exit status 124\nstdout:\nbegun\n[\s\S]*ended after 2 s.*\(--timeout\)/);
  }
  await served.call('exec_command', { sandbox, command: 'mknod /tmp/fifo p' });
  const [file, content] = [{ sandbox, path: '/tmp/fifo' }, 'x'];
  t.regex(await served.call('read_file', file), /^!.*not a plain file/);
  t.regex(await served.call('write_file', { ...file, content }), /^!.*not a plain file/);
  const left = async () =>
    await served.call('exec_command', { sandbox, command: 'ps | grep -c "[s]tay=1"' });
  t.true(await eventually(async () => /^exit status 1\nstdout:\n0\n/.test(await left())));
});

test.serial('the MCP server’s sandboxes end with it, however it ends', async (t) => {
  const { beside, kiln } = t.context;
  const served = await serve(t.context, beside, []);
  await served.call('open_sandbox', {});
  const running = async () => {
    const { stdout } = await kiln(['ps', '--json']);
    return (JSON.parse(String(stdout)) as { state: string }[]).length;
  };
  // The daemon removes those of earlier calls after it has answered them.
  t.true(await eventually(async () => (await running()) === 1));
  process.kill(served.pid, 'SIGKILL');
  t.true(await eventually(async () => (await running()) === 0));
});

test.serial('kiln.yaml gives the MCP server the options it was not given', async (t) => {
  const XDG_CONFIG_HOME = join(t.context.beside, 'config');
  mkdirSync(XDG_CONFIG_HOME);
  const text = 'defaults: { image: busybox, memory: 64M, timeout: 1s }\n';
  writeFileSync(join(XDG_CONFIG_HOME, 'kiln.yaml'), text);
  const words = ['--timeout', '50s'];
  await using served = await serve(t.context, '/tmp', words, { image: [], XDG_CONFIG_HOME });
  const ran = await served.call('run_command', { command: 'sleep 2; tail /dev/zero' });
  t.regex(ran, /the memory limit was reached/);
});

test.serial('a user’s MCP server opens sandboxes with files of the user', async (t) => {
  const { beside, home, run } = t.context;
  const place = join(beside, 'installed');
  kilnForUsers(place);
  const bound = join(home, 'bound');
  await run(USER, ['sh', '-c', `mkdir ${bound} && echo bound >${bound}/file`]);
  labelForBinds(bound);
  const who = [`--reuid=${USER.uid}`, `--regid=${USER.gid}`, `--groups=${GROUP}`];
  const program = ['setpriv', ...who, '--', join(place, 'bin/kiln')];
  const words = ['--bind', 'bound:/bound', '--copy-in', 'bound/file:/tmp/copied'];
  await using served = await serve(t.context, home, words, { program });
  const ran = await served.call('run_command', { command: 'cat /bound/file /tmp/copied' });
  t.is(ran, 'exit status 0\nstdout:\nbound\nbound\n');
  const sandbox = await served.call('open_sandbox', {});
  const command = 'cat /bound/file /tmp/copied - >/bound/new';
  const stdin = 'stdin\n';
  t.is(await served.call('exec_command', { sandbox, command, stdin }), 'exit status 0');
  t.is(await served.call('read_file', { sandbox, path: '/bound/new' }), 'bound\nbound\nstdin\n');
  const file = { sandbox, path: '/bound/written', content: 'written' };
  t.is(await served.call('write_file', file), '7 bytes');
  t.is(readFileSync(join(bound, 'written'), 'utf8'), 'written');
  t.is(await served.call('close_sandbox', { sandbox }), 'closed');
});

test.serial('a sandbox that has ended makes room for another', async (t) => {
  const { kiln } = t.context;
  await using served = await serve(t.context, '/tmp', []);
  const ids = await Promise.all(Array.from({ length: 8 }, () => served.call('open_sandbox', {})));
  t.is(await served.call('open_sandbox', {}), '!8 sandboxes are open: close one');
  await kiln(['kill', ids[0] ?? '']);
  t.true(await eventually(async () => !(await served.call('open_sandbox', {})).startsWith('!')));
});

test.serial('fetch_artifact of what is not there says so, and what to do', async (t) => {
  const { beside } = t.context;
  const words = ['--resultdir', 'none-yet', '--sources', 'missing'];
  await using served = await serve(t.context, beside, words);
  t.regex(
    await served.call('fetch_artifact', { path: 'call-x/file' }),
    /^!there is no file yet: .*none-yet is missing; run_command with `artifacts` and build_package make it$/,
  );
  t.regex(
    await served.call('build_package', { source: 'a.spec' }),
    /^!there is no file a\.spec below .*missing: .*--sources$/,
  );
});

test.serial('programs read the outcome of a command, and hear that it goes on', async (t) => {
  const { env, beside } = t.context;
  const client = new Client({ name: 'test', version: '1' });
  const set = Object.entries(env).filter((pair): pair is [string, string] => pair[1] !== undefined);
  const args = ['mcp', '-r', 'busybox'];
  await client.connect(
    new StdioClientTransport({ command: KILN, args, env: Object.fromEntries(set), cwd: beside }),
  );
  const heard: number[] = [];
  const command = 'echo out; echo err >&2; sleep 6; exit 3';
  const { structuredContent } = await client.callTool(
    { name: 'run_command', arguments: { command } },
    { onprogress: ({ progress }) => heard.push(progress) },
  );
  await client.close();
  t.deepEqual(structuredContent, { status: 3, stdout: 'out\n', stderr: 'err\n', artifacts: [] });
  t.true(heard.length > 0 && heard.every((seconds) => seconds >= 4), heard.join());
});

test.serial('a server for an image that is not there ends at once', async (t) => {
  const { kiln, env } = t.context;
  const { exitCode, stderr } = await kiln(['mcp', '-r', 'nosuch'], { env, stdin: 'pipe' });
  t.is(exitCode, 125);
  t.regex(String(stderr), /there is no image and no recipe called nosuch \[E_IMAGE_MISSING\]/);
});

test.serial(
  'an assistant keeps the files of a sandbox, looks at changes and goes back',
  async (t) => {
    const { beside, kiln } = t.context;
    const place = join(beside, 'mcp-checkpoints');
    mkdirSync(place);
    await using served = await serve(t.context, place, ['--user', 'root']);
    const sandbox = await served.call('open_sandbox', {});
    const run = async (command: string) => await served.call('exec_command', { sandbox, command });
    await run('echo one >/root/a; echo keep >/root/b');
    const checkpoint = await served.call('checkpoint', { sandbox });
    t.regex(checkpoint, /^[0-9a-f]{10}$/);
    await run('echo two >>/root/a; rm /root/b; echo new >/root/c');
    const since = await served.call('diff', { sandbox, checkpoint });
    t.regex(since, /^changed "root\/a"\nremoved "root\/b"\nadded "root\/c"\n\n/);
    t.regex(since, /^ one\n\+two$/m);
    const all = await served.call('diff', { sandbox });
    t.regex(all, /^added "root\/a"\nadded "root\/c"\n/);
    // What the diffs were made of is gone.
    const listed = async () =>
      JSON.parse(String((await kiln(['snapshot', 'ls', '--json'])).stdout));
    t.deepEqual(
      (await listed()).map(({ id }: { id: string }) => id),
      [checkpoint],
    );
    await run('sleep 1000 >/dev/null 2>&1 & true');
    t.is(await served.call('rollback', { sandbox, checkpoint }), 'done');
    t.is(await run('cat /root/a /root/b; ls /root'), 'exit status 0\nstdout:\none\nkeep\na\nb\n');
    t.regex(await served.call('diff', { sandbox, checkpoint }), /^\n/);
    // Another snapshot of the caller's is none of this sandbox.
    const other = await served.call('open_sandbox', {});
    const refused = await served.call('rollback', { sandbox: other, checkpoint });
    t.regex(refused, /^!there is no checkpoint/);
    t.regex(await served.call('diff', { sandbox: other, checkpoint }), /^!there is no checkpoint/);
    await served.call('close_sandbox', { sandbox });
    t.deepEqual(await listed(), []);
  },
);
