/** `kiln run --explain-refusals`: each option that it names is given, and allows what was refused. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { type BusyboxState, busyboxState } from '../support/busybox-state.ts';

let state: BusyboxState;

test.before(async () => {
  state = await busyboxState();
});
test.after.always(() => state[Symbol.asyncDispose]());

async function run(options: readonly string[], command: string) {
  const words = ['run', '-r', 'busybox', ...options, '--', 'sh', '-c', command];
  const { exitCode, stderr } = await state.kiln(words);
  return { exitCode, stderr: String(stderr) };
}

test.serial('a refused call is told with the option that allows it', async (t) => {
  const command = 'unshare -n true';
  const refused = await run(['--explain-refusals'], command);
  t.not(refused.exitCode, 0);
  t.regex(refused.stderr, /kiln: {3}unshare \(EPERM, once\): .*--profile nested/, refused.stderr);
  t.regex(refused.stderr, /kiln: hosts that the proxy refused: none/);
  t.regex(refused.stderr, /kiln: paths: not recorded/);
  const nested = await run(['--explain-refusals', '--profile', 'nested', '-u', 'root'], command);
  t.notRegex(nested.stderr, /unshare \(/);
});

test.serial('--explain-refusals says “never” of a call that no option allows', async (t) => {
  // On the host's own files, chmod with set-id bits is refused by kiln's guard, whatever the profile is.
  const folder = mkdtempSync(join(tmpdir(), 'kiln-refusals-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  const options = ['--explain-refusals', '--bind', `${folder}:/b`];
  const { stderr } = await run(options, 'echo >/b/f; chmod u+s /b/f');
  t.regex(stderr, /kiln: {3}f?chmod\w* \(EPERM, once\): never: set-id files/, stderr);
});

test.serial(
  '--explain-refusals names the capability that lets a command open packet sockets',
  async (t) => {
    const command = 'arping -c 1 -w 1 -I lo 127.0.0.1';
    const refused = await run(['--explain-refusals', '-u', 'root'], command);
    t.regex(refused.stderr, /kiln: {3}socket \(E\w+, once\): --cap-add NET_RAW for raw and packet/);
    // Said once.
    t.notRegex(refused.stderr, /which may be why/);
    const given = ['--cap-add', 'NET_RAW', '-u', 'root'];
    const allowed = await run(['--explain-refusals', ...given], command);
    t.regex(allowed.stderr, /system calls that the filter refused: none/, allowed.stderr);
  },
);

test.serial('--explain-refusals says that nothing was refused', async (t) => {
  const plain = await run(['--explain', '--explain-refusals'], 'true');
  t.is(plain.exitCode, 0);
  const { stderr, exitCode } = await run(['--explain-refusals'], 'true');
  t.is(exitCode, 0);
  t.regex(stderr, /kiln: system calls that the filter refused: none/);
});

test.serial('learning hosts is said loudly, and not for what goes on unwatched', async (t) => {
  const { stderr } = await run(['--egress-learn'], 'true');
  t.regex(stderr, /^kiln: WARNING: --egress-learn lets the command reach every public host/m);
  t.regex(stderr, /^kiln: it reached no host$/m);
  for (const option of ['--keep', '--detach']) {
    const kept = await run(['--egress-learn', option], 'true');
    t.is(kept.exitCode, 125, option);
    t.regex(kept.stderr, /--egress-learn is for one command that you watch/);
  }
});
