/** A step of a chain, done by a user of the group as a worker does it. */

import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { basename, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import anyTest, { type TestFn } from 'ava';
import { execa } from 'execa';
import {
  parseBuildOutcome,
  parseScanOutcome,
  type ScanOutcome,
  type Step,
  serializeStep,
} from '../../src/farm/step.ts';
import { writeRepodata } from '../../src/packages/repository/publish/repodata.ts';
import {
  publishRepository,
  type Snapshot,
} from '../../src/packages/repository/publish/snapshot.ts';
import { type SourceSpec, sourcePackage } from '../build/source-packages.ts';
import { kill } from '../support/killing.ts';
import { ownSeconds } from '../support/processes.ts';
import {
  GROUP,
  leftOfJobs,
  OTHER,
  USER,
  type UserState,
  userState,
} from '../support/second-user.ts';
import { giveUnpackedPackages } from '../support/unpacked-packages.ts';

const test = anyTest as TestFn<UserState>;

/** What root allows. */
const FARM = '  farm: true\n';

/** What the first test has found. */
let scan: ScanOutcome | undefined;

/** An image is made. */
const LONG = { timeout: 600_000 };

test.before(async (t) => {
  const state = await userState(FARM);
  const fixtures = process.env.KILN_FIXTURES ?? join(import.meta.dirname, '../../.cache/fixtures');
  symlinkSync(fixtures, join(state.paths.root, 'fixtures'));
  await giveUnpackedPackages(state.paths);
  t.context = state;
});

test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

function sha256(path: string): string {
  return createHash('sha256').update(readFileSync(path)).digest('hex');
}

/** A folder of the user's with a step and its source packages. */
async function stepFolder(
  { beside, home }: UserState,
  name: string,
  specs: readonly SourceSpec[],
  step: Partial<Step> = {},
): Promise<{ readonly folder: string; readonly step: Step }> {
  const folder = join(home, name);
  mkdirSync(folder);
  const members: Step['members'] = [];
  for (const spec of specs) {
    const made = await sourcePackage(join(beside, 'packages'), spec);
    copyFileSync(made, join(folder, basename(made)));
    members.push({ name: `${spec.name}-1-1`, file: basename(made), sha256: sha256(made) });
  }
  const whole: Step = {
    kind: 'kiln-farm-step',
    format: 1,
    chain: 'abcd',
    task: 'build',
    image: { name: 'debian-build', id: null, lock: null },
    members,
    results: null,
    options: {},
    known: [],
    ...step,
  };
  writeFileSync(join(folder, 'step.json'), serializeStep(whole));
  await own(folder);
  return { folder, step: whole };
}

async function own(folder: string): Promise<void> {
  await execa('chown', ['-R', `${USER.uid}:${USER.gid}`, folder]);
}

function doStep(state: UserState, folder: string, ...options: string[]) {
  return state.as(USER, ['farm', 'step', 'step.json', ...options], { cwd: folder, ...LONG });
}

/** The image as the scan has found it. */
function scanned(): Step['image'] {
  if (scan === undefined) throw new Error('the scan has failed');
  return { name: 'debian-build', ...scan.image };
}

test.serial('a scan reports what source packages require, and the image as a lock', async (t) => {
  const specs = [
    { name: 'liba', provides: ['virtual(a) = 3'] },
    { name: 'app', buildRequires: ['liba-devel'] },
  ];
  const { folder } = await stepFolder(t.context, 'scan', specs, { task: 'scan' });
  const done = await doStep(t.context, folder);
  t.is(done.exitCode, 0, String(done.stderr));
  const outcome = parseScanOutcome(readFileSync(join(folder, 'out/farm.json'), 'utf8'));
  t.deepEqual(
    outcome?.members.map(({ name }) => name),
    ['liba-1-1', 'app-1-1'],
  );
  t.deepEqual(outcome?.members[1]?.requires, ['liba-devel']);
  t.true(
    outcome?.members[0]?.provides.some(
      ({ name, version }) => name === 'virtual(a)' && version === '3',
    ),
  );
  const listed = await t.context.as(USER, ['image', 'ls', '--json']);
  t.true(
    JSON.parse(String(listed.stdout)).some(({ id }: { id: string }) => id === outcome?.image.id),
  );
  scan = outcome;
});

test.serial(
  'a build’s packages, result and provenance are the user’s, and name the worker',
  async (t) => {
    const image = scanned();
    const { folder } = await stepFolder(t.context, 'build', [{ name: 'liba' }], { image });
    const done = await doStep(t.context, folder, '--worker', 'node-7');
    t.is(done.exitCode, 0, String(done.stderr));
    const out = join(folder, 'out');
    const outcome = parseBuildOutcome(readFileSync(join(out, 'farm.json'), 'utf8'));
    t.is(outcome?.state, 'built');
    t.is(outcome?.worker, 'node-7');
    t.deepEqual(outcome?.packages.map(({ file }) => file).sort(), [
      'liba-1-1.noarch.rpm',
      'liba-devel-1-1.noarch.rpm',
    ]);
    for (const { file, sha256: digest } of outcome?.packages ?? [])
      t.is(sha256(join(out, file)), digest);
    for (const name of readdirSync(out)) t.is(statSync(join(out, name)).uid, USER.uid, name);
    const { stdout: worker } = await execa('jq', [
      '-r',
      '.predicate.buildDefinition.internalParameters.worker',
      join(out, 'provenance.json'),
    ]);
    t.is(worker, 'node-7');
    // As a build here has it, whatever file its lock came in.
    const { request } = JSON.parse(readFileSync(join(out, 'result.json'), 'utf8'));
    t.is(request.image, 'debian-build');
    t.false('imageLock' in request);
    const { stdout: named } = await execa('jq', [
      '-r',
      '.predicate.buildDefinition.externalParameters.image',
      join(out, 'provenance.json'),
    ]);
    t.is(named, 'debian-build');
    t.deepEqual(await leftOfJobs(t.context), []);
  },
);

test.serial(
  'a build uses packages of the snapshot, and is not repeated for the same root',
  async (t) => {
    const { beside, home } = t.context;
    const made = join(home, 'build/out/liba-devel-1-1.noarch.rpm');
    const repository = join(beside, 'repository');
    const snapshot = await publishRepository(repository, [{ path: made }]);
    const specs = [{ name: 'app', buildRequires: ['liba-devel'] }];
    const results = { folder: 'results', snapshot: snapshot.id };
    const options = { packages: ['liba-devel-1-1.noarch'] };
    const parts = { image: scanned(), results, options };
    const { folder, step } = await stepFolder(t.context, 'app', specs, parts);
    await execa('cp', ['-a', snapshot.path, join(folder, 'results')]);
    await snapshot[Symbol.asyncDispose]();
    await own(folder);
    const done = await doStep(t.context, folder);
    t.is(done.exitCode, 0, String(done.stderr));
    const outcome = parseBuildOutcome(readFileSync(join(folder, 'out/farm.json'), 'utf8'));
    const script = 'rpm2cpio "$1" | cpio -i --quiet --to-stdout ./usr/share/chain/app';
    const rpm = join(folder, 'out/app-devel-1-1.noarch.rpm');
    t.is((await execa('sh', ['-c', script, 'sh', rpm])).stdout, 'app-1 (liba-1)');
    t.true(outcome?.root?.packages.includes(`sha256:${sha256(made)}`));
    // The same once more, knowing that.
    const [member] = step.members;
    const known = {
      member: member!.name,
      requires: outcome!.requires,
      additionalPackages: options.packages,
      root: outcome!.root!.digest,
    };
    writeFileSync(join(folder, 'step.json'), serializeStep({ ...step, known: [known] }));
    const again = await doStep(t.context, folder, '--resultdir', 'again');
    t.is(again.exitCode, 0, String(again.stderr));
    t.is(
      parseBuildOutcome(readFileSync(join(folder, 'again/farm.json'), 'utf8'))?.state,
      'unchanged',
    );
    t.deepEqual(readdirSync(join(folder, 'again')), ['farm.json']);
  },
);

test.serial(
  'a step ends with 65 if its package fails, lacks a requirement, or is another one',
  async (t) => {
    const image = scanned();
    const failing = await stepFolder(t.context, 'failing', [{ name: 'bad', build: 'exit 3' }], {
      image,
    });
    const failed = await doStep(t.context, failing.folder);
    t.is(failed.exitCode, 65, String(failed.stderr));
    const outcome = parseBuildOutcome(readFileSync(join(failing.folder, 'out/farm.json'), 'utf8'));
    t.is(outcome?.failure?.code, 'E_BUILD_FAILED');
    t.is(outcome?.exitStatus, 1);
    const wanting = await stepFolder(
      t.context,
      'wanting',
      [{ name: 'poor', buildRequires: ['not-there'] }],
      { image },
    );
    t.is((await doStep(t.context, wanting.folder)).exitCode, 65);
    const swapped = await stepFolder(t.context, 'swapped', [{ name: 'other' }], { image });
    writeFileSync(
      join(swapped.folder, 'other-1-1.src.rpm'),
      readFileSync(join(failing.folder, 'bad-1-1.src.rpm')),
    );
    const refused = await doStep(t.context, swapped.folder);
    t.is(refused.exitCode, 65);
    t.regex(String(refused.stderr), /other-1-1\.src\.rpm is not other-1-1/);
  },
);

test.serial(
  'a step ends with 75 for another image, too little memory or a killed sandbox',
  async (t) => {
    const image = scanned();
    const other = await stepFolder(t.context, 'other', [{ name: 'one' }], {
      image: { ...image, id: 'a'.repeat(64) },
    });
    const refused = await doStep(t.context, other.folder);
    t.is(refused.exitCode, 75, String(refused.stderr));
    t.regex(String(refused.stderr), /debian-build is another image on this machine/);
    const greedy = await stepFolder(t.context, 'greedy', [{ name: 'two' }], {
      image,
      options: { memory: 2 ** 50 },
    });
    const forbidden = await doStep(t.context, greedy.folder);
    t.is(forbidden.exitCode, 75, String(forbidden.stderr));
    t.regex(String(forbidden.stderr), /memory .* is not for users/);
    const mark = ownSeconds();
    const unlucky = await stepFolder(
      t.context,
      'unlucky',
      [{ name: 'three', build: `trap 'exit 3' TERM; sleep ${mark} & wait` }],
      { image },
    );
    const step = doStep(t.context, unlucky.folder);
    await kill('init', mark);
    const killed = await step;
    t.is(killed.exitCode, 75, String(killed.stderr));
    t.regex(String(killed.stderr), /E_SANDBOX_GONE/);
  },
);

test.serial(
  'a step cannot bring a repository, a file of the image or a file of others',
  async (t) => {
    const image = scanned();
    const lock = structuredClone(image.lock!);
    // Somebody else's server and files: this machine's recipe counts.
    for (const repository of lock.packages.repositories) {
      repository.source = { kind: 'baseurl', urls: ['http://127.0.0.1:9/'] };
      repository.gpgcheck = false;
    }
    lock.image.files = [
      { path: '/etc/evil', mode: 0o644, owner: 'root', group: 'root', content: 'ZXZpbAo=' },
    ];
    const build = 'test ! -e /etc/evil';
    const { folder } = await stepFolder(t.context, 'evil', [{ name: 'good', build }], {
      image: { ...image, lock },
    });
    const done = await doStep(t.context, folder);
    t.is(done.exitCode, 0, String(done.stderr));
    // A link in the step's folder is opened with the user's rights.
    const secret = join(t.context.beside, 'secret.src.rpm');
    writeFileSync(secret, 'secret');
    chmodSync(secret, 0o600);
    const linked = await stepFolder(t.context, 'linked', [], {
      image,
      members: [{ name: 'x-1-1', file: 'x.src.rpm', sha256: sha256(secret) }],
    });
    symlinkSync(secret, join(linked.folder, 'x.src.rpm'));
    const refused = await doStep(t.context, linked.folder);
    t.not(refused.exitCode, 0);
    t.regex(String(refused.stderr), /you cannot use x\.src\.rpm/);
  },
);

/** A step that needs liba-devel, with a snapshot of it whose metadata says that it is elsewhere. */
async function appElsewhere(
  state: UserState,
  name: string,
  snapshot: Snapshot,
  place: string,
): Promise<string> {
  const { folder } = await stepFolder(state, name, [{ name, buildRequires: ['liba-devel'] }], {
    image: scanned(),
    results: { folder: 'results', snapshot: snapshot.id },
    options: { packages: ['liba-devel-1-1.noarch'] },
  });
  const results = join(folder, 'results');
  await execa('cp', ['-a', snapshot.path, results]);
  rmSync(join(results, 'repodata'), { recursive: true });
  const elements = snapshot.packages.map(({ elements, location }) => ({
    ...elements,
    primary: elements.primary.replace(`href="${location}"`, `href="${place}"`),
  }));
  if (elements[0]?.primary.includes(place) !== true) throw new Error('it has not moved');
  await writeRepodata(results, elements, 1);
  await own(folder);
  return folder;
}

test.serial('only the packages of a snapshot count: no links, no other places', async (t) => {
  const { beside, home } = t.context;
  const made = join(home, 'build/out/liba-devel-1-1.noarch.rpm');
  await using snapshot = await publishRepository(join(beside, 'elsewhere'), [{ path: made }]);
  const file = 'liba-devel-1-1.noarch.rpm';
  const secret = join(beside, 'secret.rpm');
  copyFileSync(made, secret);
  chmodSync(secret, 0o600);
  const asked: unknown[] = [];
  const server = createServer((socket) => {
    asked.push(socket.remotePort);
    socket.destroy();
  });
  await new Promise<void>((listening) => server.listen(0, '127.0.0.1', listening));
  t.teardown(() => server.close());
  const address = server.address();
  const port = typeof address === 'object' ? address?.port : undefined;
  const url = `http://127.0.0.1:${port}/${file}`;
  const wrong = /results does not have the packages that the step means/;

  const away = await appElsewhere(t.context, 'away', snapshot, pathToFileURL(secret).href);
  rmSync(join(away, 'results', file));
  const refused = await doStep(t.context, away);
  t.is(refused.exitCode, 65, String(refused.stderr));
  t.regex(String(refused.stderr), wrong);

  const link = await appElsewhere(t.context, 'link', snapshot, file);
  rmSync(join(link, 'results', file));
  symlinkSync(secret, join(link, 'results', file));
  const linked = await doStep(t.context, link);
  t.is(linked.exitCode, 65, String(linked.stderr));
  t.regex(String(linked.stderr), wrong);

  const served = await appElsewhere(t.context, 'served', snapshot, url);
  const done = await doStep(t.context, served);
  t.is(done.exitCode, 0, String(done.stderr));
  const lock = readFileSync(join(served, 'out/lock.json'), 'utf8');
  t.true(lock.includes(`"${file}"`));
  t.false(lock.includes(url));
  t.deepEqual(asked, []);
});

test.serial('a step’s lock cannot name a package at a URL', async (t) => {
  const image = scanned();
  const lock = structuredClone(image.lock!);
  lock.packages.packages[0]!.location = 'http://127.0.0.1:9/x.rpm';
  const { folder } = await stepFolder(t.context, 'url', [{ name: 'url' }], {
    image: { ...image, lock },
  });
  const refused = await doStep(t.context, folder);
  t.is(refused.exitCode, 75, String(refused.stderr));
  t.regex(String(refused.stderr), /is at http:\/\/127\.0\.0\.1:9\/x\.rpm, not below a repository/);
});

test.serial(
  'a worker advertises what users see, and nothing unless root made it a worker',
  async (t) => {
    const { config, as } = t.context;
    const { id } = scanned();
    const write = (yaml: string) => writeFileSync(config, `users:\n  group: ${GROUP}\n${yaml}`);
    t.teardown(() => write(FARM));
    // The startd asks as a user of its own; images with results of steps are the slot's user's.
    const advertised = async () =>
      String((await as(OTHER, ['farm', 'advertise'], { cwd: '/' })).stdout);
    const all = await advertised();
    t.regex(all, new RegExp(`^KilnImages = ".*${id!.slice(0, 12)}.*"$`, 'm'));
    t.regex(all, /^KilnPackages = "[0-9a-f]{12},.*"$/m);
    write(`${FARM}  images: [other]\n`);
    const none = await advertised();
    t.regex(none, /^KilnImages = ""$/m);
    t.regex(none, /^KilnPackages = ""$/m);
    write('');
    const refused = await as(USER, ['farm', 'advertise']);
    t.not(refused.exitCode, 0);
    t.is(refused.stdout, '');
    t.regex(
      String(refused.stderr),
      /kiln farm advertise is not for users: root has not allowed it \[E_\w+\]\n.*users\.farm: true/,
    );
    const { folder } = await stepFolder(t.context, 'closed', [{ name: 'closed' }], {
      task: 'scan',
    });
    const step = await doStep(t.context, folder);
    t.is(step.exitCode, 75);
    t.regex(
      String(step.stderr),
      /kiln farm step is not for users: root has not allowed it \[E_\w+\]\n.*users\.farm: true/,
    );
    t.false(existsSync(join(folder, 'out')));
  },
);

test.serial('an invalid step is refused with a reason', async (t) => {
  const { folder, step } = await stepFolder(t.context, 'wrong', [{ name: 'three' }]);
  for (const [content, why] of [
    ['{', /Invalid input/],
    [JSON.stringify({ ...step, format: 2 }), /format/],
    [JSON.stringify({ ...step, members: [{ ...step.members[0], file: '../x' }] }), /file/],
    [JSON.stringify({ ...step, options: { network: 'host' } }), /network/],
    [JSON.stringify({ ...step, options: { packages: ['/etc/shadow'] } }), /not a file/],
  ] as const) {
    writeFileSync(join(folder, 'step.json'), content);
    const refused = await doStep(t.context, folder);
    t.is(refused.exitCode, 65, content);
    t.regex(String(refused.stderr), why);
  }
});
