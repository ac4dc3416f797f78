/**
 * Machines, against a guest that qemu alone starts: what kiln adds, wherever the processor comes from. An emulated one
 * is so slow that less is moved; the names of the sides say how much.
 */
import { readFileSync } from 'node:fs';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { awaitedLater } from '../../../src/promise.ts';
import { domainPrefix } from '../../../src/sandbox/domain/sandbox-record.ts';
import { type Bed, KILN } from '../bed.ts';
import { type Ground, Guest, groundOf } from '../guest/guest.ts';
import { execute, figures, type Side } from '../measure.ts';
import { descendants, memoryOf, processesWith } from '../memory.ts';
import { phase, type Row } from '../row.ts';

const SIZES = {
  kvm: { megabytes: 1024, files: 10_000, sources: 40, functions: 40, parked: 10 },
  tcg: { megabytes: 32, files: 300, sources: 1, functions: 8, parked: 10 },
} as const;

const VM = ['--isolation', 'vm', '--allow-missing', 'kvm'] as const;

const park = (bed: Bed, count: number, ...more: readonly string[]) =>
  execute([...KILN, 'park', '--isolation', 'vm', '-n', String(count), ...more], bed.env);

const parkNone = (bed: Bed) => execute([...KILN, 'park', '--isolation', 'vm', '--none'], bed.env);

function kilnRun(bed: Bed, ...args: readonly string[]): Side {
  const run = () => execute([...KILN, 'run', ...VM, '-r', bed.image, ...args], bed.env);
  return { name: 'kiln run --isolation vm', before: () => park(bed, 1), run };
}

/** Of a claimed machine, milliseconds of a phase. */
function phaseOf(bed: Bed, name: string, what: string, ...args: readonly string[]): Side {
  const results = join(bed.scratch, 'machine-results');
  const { before, run } = kilnRun(bed, '--resultdir', results, ...args);
  return {
    name: `kiln run --isolation vm: ${what}`,
    before: async () => {
      await rm(results, { recursive: true, force: true });
      await before?.();
    },
    run: async () => {
      await run();
      return await phase(results, name);
    },
  };
}

/** Made when a row first asks for it, once for each bed. */
function once<Made>(make: (bed: Bed) => Promise<Made>): (bed: Bed) => Promise<Made> {
  const all = new WeakMap<Bed, Promise<Made>>();
  return (bed) => {
    const made = all.get(bed) ?? awaitedLater(make(bed));
    all.set(bed, made);
    return made;
  };
}

const ground: (bed: Bed) => Promise<Ground> = once(groundOf);

/** One guest takes the scripts of all rows. */
const bareGuest = once(async (bed) => {
  const guest = await Guest.start(bed, await ground(bed), 'bare', await boundFolder(bed));
  bed.atEnd(() => guest[Symbol.asyncDispose]());
  return guest;
});

const inGuest = async (bed: Bed, what: string, script: string, bytes?: number): Promise<Side> => {
  const guest = await bareGuest(bed);
  return { name: `a bare guest: ${what}`, run: () => guest.run(script, bytes) };
};

/** Small files in folders, and a project in C. */
const boundFolder = once(async (bed) => {
  const folder = join(bed.scratch, 'bound');
  const { files, sources, functions } = SIZES[(await ground(bed)).accelerator];
  for (let number = 0; number < files; number++) {
    const inner = join(folder, 'files', String(number % 100));
    if (number < 100) await mkdir(inner, { recursive: true });
    await writeFile(join(inner, String(number)), `${number}\n`.repeat(100));
  }
  await mkdir(join(folder, 'project'));
  for (let number = 0; number < sources; number++) {
    await writeFile(join(folder, 'project', `part${number}.c`), sourceText(number, functions));
  }
  return folder;
});

const sourceText = (number: number, functions: number) => `#include <stdio.h>
#include <stdlib.h>
#include <string.h>
${Array.from({ length: functions }, (_, index) => functionText(number * 100 + index)).join('')}`;

const functionText = (id: number) => `
int work_${id}(const char *text, int *found, int most) {
  int count = 0;
  for (size_t i = 0, n = strlen(text); i < n && count < most; i++)
    if ((text[i] ^ ${id & 0x7f}) % 7 == 3) found[count++] = (int)i * ${id};
  for (int i = 1; i < count; i++)
    for (int j = i; j > 0 && found[j - 1] > found[j]; j--) {
      int other = found[j];
      found[j] = found[j - 1], found[j - 1] = other;
    }
  return count > 0 ? printf("%d %s\\n", found[count / 2], getenv("HOME")) : -1;
}
`;

/** Objects in a folder of the guest's own: memory, in both. */
const compile = (folder: string) =>
  `rm -rf /tmp/o && mkdir /tmp/o && for f in ${folder}/project/*.c; do gcc -O2 -c "$f" -o "/tmp/o/$(basename "$f").o" || exit 1; done`;

const readAll = (folder: string) => `find ${folder}/files -type f -exec cat {} + > /dev/null`;

/** Of qemu, relay and virtiofsd, MB for each machine. */
function parkedMemory(bed: Bed, count: number): number {
  const { run, sandboxes } = bed.kiln.paths;
  const qemu = processesWith(`guest=${domainPrefix(bed.kiln.paths)}`);
  const relays = processesWith(`kiln-relay\0${sandboxes}`);
  if (qemu.length !== count || relays.length === 0) {
    throw new Error(`${qemu.length} machines are parked, with ${relays.length} relays, in ${run}`);
  }
  const parts = new Set([...qemu, ...relays, ...relays.flatMap((pid) => descendants(pid))]);
  return memoryOf([...parts]) / count;
}

export const machineRows: readonly Row[] = (
  [
    {
      id: 'vm-run-parked',
      title:
        '`kiln run --isolation vm -- true`, a machine parked, by a command sent to a bare guest',
      goal: { kind: 'ratio', max: 1.5 },
      sides: async (bed) => [kilnRun(bed, '--', 'true'), await inGuest(bed, 'true', 'true')],
    },
    {
      id: 'vm-run-cold',
      title:
        '`kiln run --isolation vm -- true`, nothing parked, by a boot to stage 0 by qemu alone',
      goal: { kind: 'ratio', max: 1.25 },
      sides: async (bed) => {
        const on = await ground(bed);
        const boot = async () => {
          const start = performance.now();
          await using _ = await Guest.start(bed, on, 'kiln’s stage 0');
          return performance.now() - start;
        };
        const before = () => parkNone(bed);
        return [
          { ...kilnRun(bed, '--', 'true'), before },
          { name: `qemu (${on.accelerator})`, before, run: boot },
        ];
      },
    },
    {
      id: 'vm-compile',
      title: 'a project in C compiled in a machine, by the same in a bare guest',
      goal: { kind: 'ratio', max: 1.05 },
      sides: async (bed) => {
        const { sources, functions } = SIZES[(await ground(bed)).accelerator];
        const bind = ['--bind', `${await boundFolder(bed)}:/b:ro`];
        const what = `sources: ${sources}, each of ${functions} functions`;
        return [
          phaseOf(bed, 'command', what, ...bind, '--', 'sh', '-c', compile('/b')),
          await inGuest(bed, what, compile('/mnt')),
        ];
      },
    },
    {
      id: 'vm-stdout',
      title: 'stdout of a machine, by a bare virtio-serial port',
      goal: { kind: 'ratio', max: 1.2 },
      sides: async (bed) => {
        const { megabytes } = SIZES[(await ground(bed)).accelerator];
        const script = `dd if=/dev/zero bs=1M count=${megabytes} status=none`;
        const what = `${megabytes} MB`;
        return [
          phaseOf(bed, 'command', what, '--', 'sh', '-c', script),
          await inGuest(bed, what, script, megabytes * 2 ** 20),
        ];
      },
    },
    {
      id: 'vm-artifact',
      title: 'an artifact of a machine, by a bare virtio-serial port',
      goal: { kind: 'ratio', max: 1.2 },
      sides: async (bed) => {
        const { megabytes } = SIZES[(await ground(bed)).accelerator];
        const make = `dd if=/dev/urandom of=/tmp/big bs=1M count=${megabytes} status=none`;
        const guest = await bareGuest(bed);
        await guest.run(make);
        const what = `${megabytes} MB`;
        return [
          phaseOf(bed, 'artifacts', what, '--artifact', '/tmp/big', '--', 'sh', '-c', make),
          await inGuest(bed, what, 'cat /tmp/big', megabytes * 2 ** 20),
        ];
      },
    },
    {
      id: 'vm-bind',
      title: 'files of a bound folder read in a machine, by virtiofs alone',
      goal: { kind: 'ratio', max: 1.2 },
      sides: async (bed) => {
        const { files } = SIZES[(await ground(bed)).accelerator];
        const bind = ['--bind', `${await boundFolder(bed)}:/b:ro`];
        const guest = await bareGuest(bed);
        const what = `${files} files`;
        return [
          phaseOf(bed, 'command', what, ...bind, '--', 'sh', '-c', readAll('/b')),
          {
            name: `a bare guest: ${what}`,
            // A claimed machine has read none of them before.
            before: async () => void (await guest.run('echo 3 > /proc/sys/vm/drop_caches')),
            run: () => guest.run(readAll('/mnt')),
          },
        ];
      },
    },
    {
      id: 'vm-memory',
      title:
        'memory of a parked machine that is given 512 MB, with qemu, relay and virtiofsd, KSM off',
      goal: { kind: 'memory', max: 110 },
      measure: async (bed) => {
        if (readFileSync('/sys/kernel/mm/ksm/run', 'utf8').trim() === '1') {
          throw new Error('KSM is on: machines share what they would not share without');
        }
        const { accelerator } = await ground(bed);
        const { parked } = SIZES[accelerator];
        await parkNone(bed);
        await park(bed, parked, '--memory', '512M');
        const memory = parkedMemory(bed, parked);
        await parkNone(bed);
        return [figures(`one of ${parked} (${accelerator})`, [memory])];
      },
    },
  ] satisfies readonly Row[]
).map((row) => ({ ...row, isolation: 'vm', slow: true, warmUps: 0 }));
