/** Each command line of docs/virt-sandbox.md, which stands for an option of 2012, is run. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';
import { createNetwork, virsh } from '../support/libvirt-network.ts';

const PAGE = join(import.meta.dirname, '../../docs/virt-sandbox.md');

/** The lines of the tables, each once. */
const LINES = [
  ...new Set(
    readFileSync(PAGE, 'utf8')
      .split('\n')
      .filter((line) => line.startsWith('|'))
      .map((line) => line.split('|')[2] ?? '')
      .flatMap((line) => [...line.matchAll(/`(kiln [^`]+)`/g)].map(([, words = '']) => words)),
  ),
];

/** What needs more than a small image, and who runs it. */
const ELSEWHERE: Readonly<Record<string, string>> = {
  'kiln service reload NAME': 'test/service/servers.test.ts has a unit that reloads',
  'kiln service logrotate NAME': 'test/service/servers.test.ts has an image with logrotate',
  'kiln image rm OTHER': 'test/image removes images that nobody needs afterwards',
  'kiln service upgrade NAME': 'test/service/servers.test.ts makes an image anew',
  'kiln run --network NET,filter=clean-traffic -- id':
    'test/network/networks.test.ts has a rule set of its own',
  'kiln --host ssh://HOST run -- id': 'test/remote has another machine',
  'kiln image pull docker://NAME': 'test/image has a registry',
  'kiln service create -r debian-apache -P apache2 -C -u apache2.service NAME':
    'test/service/owners.test.ts has an image of packages',
  'kiln service create -r debian-apache -P apache2 -u apache2.service NAME':
    'test/service/owners.test.ts has an image of packages',
};

const NET = 'kiln-test-2012';

let state: BusyboxState;
let hasNetwork = false;

test.before(async () => {
  state = await busyboxState();
  const units = join(state.paths.images, IMAGE, 'tree/usr/lib/systemd/system');
  mkdirSync(units, { recursive: true });
  writeFileSync(join(units, 'web.service'), '[Service]\nExecStart=/bin/sleep 100\n');
  const folder = join(state.beside, 'desk');
  for (const name of ['', 'source', 'units']) mkdirSync(join(folder, name));
  writeFileSync(join(folder, 'source/file'), 'text\n');
  const disk = [join(folder, 'source'), join(folder, 'disk.img'), '16M'];
  await execa('mke2fs', ['-q', '-t', 'ext4', '-d', ...disk]);
  await state.kiln(['run', '-r', IMAGE, '--', 'true']);
  const dhcp = "<dhcp><range start='10.93.7.50' end='10.93.7.90'/></dhcp>";
  const network = { name: NET, bridge: 'virbr-k2012', host: '10.93.7.1', dhcp };
  await createNetwork(state.paths, network);
  hasNetwork = true;
});
test.after.always(async () => {
  await state.kiln(['service', 'stop', 'name']);
  if (hasNetwork) await virsh(state.paths, 'net-destroy', NET);
  await state[Symbol.asyncDispose]();
});

/** With something in place of the page's words in capitals. */
function meant(line: string): string {
  return line
    .replaceAll('debian-apache', IMAGE)
    .replaceAll('apache2.service', 'web.service')
    .replaceAll(/\bIMAGE\b/g, IMAGE)
    .replaceAll(/\bSRC\b/g, 'source')
    .replaceAll(/\bFILE\.yaml\b/g, 'job.yaml')
    .replaceAll(/\bFILE\.img\b/g, 'disk.img')
    .replaceAll(/(?<!\/tmp\/)\bFILE\b/g, 'source/file')
    .replaceAll(/\bDIR\b/g, 'units')
    .replaceAll(/\bNET\b/g, NET)
    .replaceAll(/\bOTHER\b/g, 'other')
    .replaceAll(/\bNAME\b/g, 'name');
}

async function shell(script: string) {
  const { exitCode, all } = await execa('sh', ['-c', script], {
    cwd: join(state.beside, 'desk'),
    env: { ...state.env, PATH: `${join(KILN, '..')}:${process.env.PATH}`, KILN_IMAGE: IMAGE },
    stdin: 'ignore',
    all: true,
    reject: false,
    timeout: 60_000 * PATIENCE,
  });
  return { exitCode, all };
}

test.serial('each command line in the tables of docs/virt-sandbox.md runs', async (t) => {
  t.timeout(300_000 * PATIENCE);
  t.true(LINES.length > 35, `${LINES.length} lines`);
  const failed: string[] = [];
  for (const line of LINES) {
    if (Object.hasOwn(ELSEWHERE, line)) continue;
    // Machines take long to start: test/machine starts them.
    const words = line.includes('--isolation vm') ? line.replace(' -- ', ' --explain -- ') : line;
    // Each makes the same name anew; the last one is what the lines after it are about.
    if (line.includes('service create')) await shell('kiln service delete --volumes name');
    const { exitCode, all } = await shell(meant(words));
    if (exitCode !== 0) failed.push(`${line}: ${all}`);
  }
  t.deepEqual(failed, []);
  t.deepEqual(
    Object.keys(ELSEWHERE).filter((line) => !LINES.includes(line)),
    [],
  );
});
