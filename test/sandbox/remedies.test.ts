/** What `--explain-refusals` names, compared with the profile that ships, as podman's format has it. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { remedyFor } from '../../src/sandbox/seccomp/explain.ts';

interface Rule {
  readonly names: readonly string[];
  readonly action: string;
  readonly args?: readonly unknown[] | null;
  readonly includes?: { readonly caps?: readonly string[] };
}

const file = join(import.meta.dirname, '../../src/sandbox/seccomp/default.json');
const { syscalls } = JSON.parse(readFileSync(file, 'utf8')) as {
  readonly syscalls: readonly Rule[];
};

test('each capability that the profile asks for is named, and no other', async (t) => {
  for (const call of ['mount', 'bpf', 'syslog', 'acct', 'chroot']) {
    const wanted = syscalls
      .filter(({ names, action, includes }) => {
        return names.includes(call) && action === 'SCMP_ACT_ALLOW' && includes?.caps !== undefined;
      })
      .flatMap(({ includes }) => includes?.caps ?? []);
    const { options } = await remedyFor(call, { profile: 'default', capabilities: [] });
    const named = options.filter((option) => option.startsWith('--cap-add '));
    t.deepEqual(
      new Set(named.map((option) => `CAP_${option.slice('--cap-add '.length)}`)),
      new Set(wanted),
      call,
    );
  }
});

test('remedyFor() names the profile that allows a call, and no option where none does', async (t) => {
  const of = async (call: string, profile = 'default') =>
    await remedyFor(call, { profile, capabilities: [] });
  t.true((await of('ptrace')).options.includes('--seccomp build'));
  t.deepEqual((await of('io_setup')).options, ['--seccomp aio']);
  t.true((await of('shmget', 'strict')).options.includes('--seccomp default'));
  t.deepEqual(await of('kexec_load_none'), { options: [], isGuarded: false });
  t.deepEqual(await of('read'), { options: [], isGuarded: true });
});
