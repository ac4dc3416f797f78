import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';

const top = join(import.meta.dirname, '../..');
const rpm = join(top, 'fixtures/rpms/signed/RPMS-v4-rpm-basic-2.3.4-5.el9.noarch.rpm');

test('untrusted files are read by a kiln that lies where root alone may pass', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'kiln-passage-'));
  try {
    await mkdir(join(folder, 'kiln'));
    await chmod(folder, 0o700);
    // The whole checkout, with its Node, as a clone in /root would be.
    const script = 'mount --bind "$1" "$2/kiln"; exec "$2/kiln/bin/kiln" rpm query --json "$3"';
    const args = ['--mount', 'sh', '-ec', script, 'sh', top, folder, rpm];
    const { stdout } = await execa('unshare', args, { env: { KILN_NODE: undefined } });
    const [found] = [JSON.parse(stdout)].flat() as { name: string; version: string }[];
    const oracle = await execa('rpm', ['-qp', '--nosignature', '--qf', '%{NAME} %{VERSION}', rpm]);
    t.is(`${found?.name} ${found?.version}`, oracle.stdout);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});
