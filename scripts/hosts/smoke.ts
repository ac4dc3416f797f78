/** scripts/test-hosts --smoke: kiln's .deb, an image, a spec, and smoke.sh, which uses them on each kind of host. */
import { copyFile, mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { execa } from 'execa';
import { makeDeb } from '../packaging/deb.ts';
import { ensureHostDisk } from './base.ts';
import { type HostKind, NO_SYSTEM_LIBVIRTD } from './kinds.ts';
import type { Limit } from './limit.ts';
import { runMachine } from './machine.ts';
import { makeJobDisk, onOwnState, saveLogs } from './payload.ts';
import { type Counts, collect } from './results.ts';

/** Small, since it is unpacked under emulation; rpm builds in it what needs no compiler. */
const IMAGE = `extends: debian-minimal
packages: [file, patch, mount]
files: [{ path: /etc/rpm/macros.kiln, content: "%_buildshell /bin/bash\\n" }]
`;

const SPEC = `Name: smoke
Version: 1
Release: 1
Summary: A package of scripts/test-hosts
License: MIT
BuildArch: noarch
%description
%install
mkdir -p %{buildroot}/usr/share
echo smoke >%{buildroot}/usr/share/smoke
%files
/usr/share/smoke
`;

/** For reading the results of a machine, ms. */
const READING_MS = 30_000;

/** What the host runs, before and after it has booted again. */
function jobScript(name: HostKind['name']): string {
  return `set -u
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
cd /root
stage=
if [ -e /srv/results/tap.txt ]; then
  # The kernel may have crashed: then the results lack their end.
  [ -e /srv/rebooted ] || exit 1
  stage=booted
fi
/bin/sh /srv/smoke.sh ${name} $stage
if [ -e /srv/reboot ]; then touch /srv/rebooted; fi
${saveLogs}`;
}

/** Makes the disks, one for each kind of host; returns their paths, in order. */
async function makeSmokeDisks(
  kinds: readonly HostKind[],
  { top, folder, fixtures }: Places,
  limit: Limit,
): Promise<string[]> {
  const tree = join(folder, 'tree');
  await mkdir(join(tree, 'results'), { recursive: true });
  const deb = makeDeb(top, join(folder, 'deb'), join(tree, 'kiln.deb'));
  await limit.step('kiln’s .deb', 3, deb);
  await onOwnState(fixtures, async (env) => {
    const run = execa({ env, cwd: top, stdio: ['ignore', 'inherit', 'inherit'] });
    const recipe = join(folder, 'smoke.yaml');
    await writeFile(recipe, IMAGE);
    const plain = ['--compress', 'none', '-o', join(tree, 'image')];
    const image = run('bin/kiln', ['image', 'export', ...plain, recipe]);
    await limit.step('an image', 5, image);
  });
  await writeFile(join(tree, 'smoke.spec'), SPEC);
  await copyFile(join(top, 'scripts/hosts/smoke.sh'), join(tree, 'smoke.sh'));
  const disks: string[] = [];
  for (const { name } of kinds) {
    await writeFile(join(tree, 'job.sh'), jobScript(name));
    disks.push(await makeJobDisk(tree, join(folder, `job-${name}.img`)));
  }
  await rm(tree, { recursive: true });
  return disks;
}

/** Where things are. */
export interface Places {
  readonly top: string;
  readonly cache: string;
  /** For what goes afterwards. */
  readonly folder: string;
  /** With `debian-rpms`, as KILN_FIXTURES names it. */
  readonly fixtures: string;
}

/**
 * What a user does first, on all hosts at once: one processor for each emulates more than two do for one.
 * @throws Error where a step before the machines fails, or takes too long
 */
export async function smoke(
  kinds: readonly HostKind[],
  places: Places,
  limit: Limit,
): Promise<Counts[]> {
  const { top, cache, folder } = places;
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  try {
    const [host, disks] = await Promise.all([
      limit.step('the hosts’ disk', 10, ensureHostDisk(top, cache)),
      makeSmokeDisks(kinds, places, limit),
    ]);
    process.stdout.write(
      `==> booting ${kinds.map(({ title }) => title).join(' and ')}, emulated\n`,
    );
    return await Promise.all(
      kinds.map(async (kind, index) => {
        const machine = join(folder, kind.name);
        await mkdir(machine);
        const job = disks[index] ?? '';
        // It is killed in time for what it has done so far to be read.
        const options = { processors: 1, limit: Math.max(1, limit.left() - READING_MS) };
        const boot = `${kind.boot} ${NO_SYSTEM_LIBVIRTD}`;
        const running = runMachine(host, boot, job, machine, options);
        const poweredOff = await limit.step(kind.title, 60, running);
        return await collect(kind, job, machine, cache, poweredOff);
      }),
    );
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
