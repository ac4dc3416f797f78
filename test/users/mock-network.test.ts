/** What a configuration of mock's may not give a user, whoever wrote it. */
import test from 'ava';
import { commandLine } from '../../src/cli/mock/command-line.ts';
import { mockBuildRequest } from '../../src/jobs/mock/build-request.ts';
import type { Chroot } from '../../src/jobs/mock/chroot.ts';
import type { ChrootSession } from '../../src/jobs/mock/session.ts';

const CHROOT = { root: 'fedora', recipe: 'fedora', network: true } as unknown as Chroot;
const SOURCE = { kind: 'srpm', path: '/x.src.rpm' } as const;

function session(owner: object | undefined): ChrootSession {
  const line = commandLine('rebuild', ['/x.src.rpm'], []);
  const caller = { ids: { uid: 1, gid: 1 } };
  return {
    line,
    caller,
    engine: { owner, cwd: () => '/' },
    chroot: CHROOT,
  } as unknown as ChrootSession;
}

test('a configuration with the host’s network is not for users', (t) => {
  const ask = () => mockBuildRequest(session({ uid: 1 }), SOURCE, '/out');
  t.is((t.throws(ask) as { code?: string }).code, 'E_FORBIDDEN');
});
