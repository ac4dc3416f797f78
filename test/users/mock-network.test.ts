/** What a configuration of mock's may not give a user, whoever wrote it. */
import test from 'ava';
import { mockBuildRequest } from '../../src/cli/mock/build-request.ts';
import { commandLine } from '../../src/cli/mock/command-line.ts';
import type { MockSession } from '../../src/cli/mock/session.ts';
import type { Chroot } from '../../src/jobs/mock/chroot.ts';

const CHROOT = { root: 'fedora', recipe: 'fedora', network: true } as unknown as Chroot;
const SOURCE = { kind: 'srpm', path: '/x.src.rpm' } as const;

function session(user: object | undefined): MockSession {
  const line = commandLine('rebuild', ['/x.src.rpm'], []);
  const caller = { user, ids: { uid: 1, gid: 1 }, cwd: () => '/' };
  return { line, caller } as unknown as MockSession;
}

test('a configuration with the host’s network is not for users', (t) => {
  const ask = () => mockBuildRequest(session({ uid: 1 }), CHROOT, SOURCE, '/out');
  t.is((t.throws(ask) as { code?: string }).code, 'E_FORBIDDEN');
});
