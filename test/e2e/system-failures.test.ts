import { cp, mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { execa } from 'execa';
import { stopEmbeddedDaemon } from '../../src/host/libvirt/embedded/daemon.ts';
import { statePaths } from '../../src/host/state/paths.ts';
import {
  type BusyboxState,
  busyboxState,
  IMAGE,
  KILN,
  PATIENCE,
} from '../support/busybox-state.ts';

/**
 * What a full or read-only disk and the like come to: a plain error, never an “internal error”. All
 * of it in a mount namespace of its own: the host has no part in it.
 */

let state: BusyboxState;
test.before(async () => {
  state = await busyboxState();
});
test.after.always(async () => {
  await state[Symbol.asyncDispose]();
});

/** What each script begins with: `kiln ARGUMENT…` prints how it ended and what it said on stderr. */
const PRELUDE = `
set -u
kiln() { "$KILN" "$@" 2>"$WORK/err" </dev/null; echo "== $? $*"; cat "$WORK/err"; }
`;

interface Ended {
  readonly status: number;
  readonly said: string;
}

/** Runs a script with a copy of the state in `$STATE`; how each kiln in it ended, by its arguments. */
async function script(t: ExecutionContext, text: string): Promise<Map<string, Ended>> {
  const work = await mkdtemp(join(tmpdir(), 'kiln-failures-'));
  const directory = join(work, 'state');
  const env = { ...state.env, KILN, WORK: work, STATE: directory, KILN_STATE: directory };
  t.teardown(async () => {
    const paths = statePaths(env);
    await stopEmbeddedDaemon(paths);
    await rm(work, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 });
    await rm(paths.run, { recursive: true, force: true });
  });
  await execa('chmod', ['755', work]);
  await mkdir(directory, { mode: 0o755 });
  await cp(state.paths.store, join(work, 'store'), { recursive: true, verbatimSymlinks: true });
  const { stdout, failed, stderr } = await execa('unshare', ['-m', 'sh', '-c', PRELUDE + text], {
    env,
    reject: false,
    timeout: 120_000 * PATIENCE,
  });
  t.false(failed, `${stdout}\n${stderr}`);
  const ends = new Map<string, Ended>();
  for (const part of `\n${stdout}`.split('\n== ').slice(1)) {
    const [, status = '', name = '', said = ''] = /^(\d+) (.*)\n?([\s\S]*)$/.exec(part) ?? [];
    ends.set(name, { status: Number(status), said });
  }
  return ends;
}

function plainFailure(t: ExecutionContext, end: Ended | undefined, message: RegExp): void {
  const what = JSON.stringify(end);
  t.is(end?.status, 125, what);
  const said = end?.said ?? '';
  t.regex(said, message, what);
  t.regex(said, /^ {2}hint: /m, what);
  t.notRegex(said, /internal error|\n {4}at /, what);
}

const SMALL = `
mount -t tmpfs -o size=60m,mode=755 tmpfs "$STATE"
cp -a "$WORK/store" "$STATE/"
`;

test.serial(
  'on a full disk, unwritable caches stop no run, and other failures are reported',
  async (t) => {
    const ends = await script(
      t,
      `${SMALL}
    tar -cf "$WORK/image.tar" -C "$STATE/store/images/${IMAGE}/tree" .
    kiln run -r ${IMAGE} -- true
    rm -rf "$STATE/cache"
    cat /dev/zero > "$STATE/full" 2>/dev/null
    kiln run -r ${IMAGE} -- sh -c 'exit 3'
    kiln run -r ${IMAGE} --seccomp build -- true
    kiln image import "$WORK/image.tar"
    kiln image build debian-minimal
    kiln gc`,
    );
    t.is(ends.get(`run -r ${IMAGE} -- true`)?.status, 0);
    t.is(ends.get(`run -r ${IMAGE} -- sh -c exit 3`)?.status, 3, JSON.stringify([...ends]));
    t.is(ends.get(`run -r ${IMAGE} --seccomp build -- true`)?.status, 0, JSON.stringify([...ends]));
    for (const [name, end] of ends) {
      if (name.startsWith('image'))
        plainFailure(t, end, /^kiln: .*(?:(?:no space|no room) is left|is nearly full)/m);
    }
    t.is(ends.get('gc')?.status, 0, JSON.stringify(ends.get('gc')));
  },
);

test.serial('a read-only state is reported', async (t) => {
  const ends = await script(
    t,
    `${SMALL}
    mount -o remount,ro "$STATE"
    kiln run -r ${IMAGE} -- true
    kiln park -n 1
    kiln image rm ${IMAGE}
    kiln image build debian-minimal
    kiln gc
    kiln ps`,
  );
  t.is(ends.get('ps')?.status, 0);
  ends.delete('ps');
  t.is(ends.size, 5);
  for (const end of ends.values())
    plainFailure(t, end, /^kiln: cannot .*: the file system is read-only \[E_READ_ONLY\]$/m);
});

test.serial('a full /run is named', async (t) => {
  const ends = await script(
    t,
    `cp -a "$WORK/store" "$STATE/"
    mkdir -p /run/kiln
    mount -t tmpfs -o size=64k,mode=711 tmpfs /run/kiln
    cat /dev/zero > /run/kiln/full 2>/dev/null
    kiln run -r ${IMAGE} -- true
    kiln park -n 1`,
  );
  t.is(ends.size, 2);
  for (const end of ends.values()) plainFailure(t, end, /no space is left on .*\/run\/kiln/);
});

test.serial('read-only cgroups are named', async (t) => {
  const ends = await script(
    t,
    `cp -a "$WORK/store" "$STATE/"
    for place in $(awk '/ cgroup2? /{print $5}' /proc/self/mountinfo | sort -r); do
      mount -o remount,bind,ro "$place"
    done
    kiln run -r ${IMAGE} -- true`,
  );
  t.is(ends.size, 1);
  for (const end of ends.values()) plainFailure(t, end, /^kiln: .*(?:\/sys\/fs\/cgroup|cgroup)/m);
});

test.serial('a deleted working directory is reported', async (t) => {
  const ends = await script(
    t,
    `cp -a "$WORK/store" "$STATE/"
    mkdir "$WORK/gone"; cd "$WORK/gone"; rmdir "$WORK/gone"
    kiln run -r ${IMAGE} --bind .:/x -- true
    kiln build x.yaml
    kiln image ls`,
  );
  t.is(ends.get('image ls')?.status, 0);
  ends.delete('image ls');
  t.is(ends.size, 2);
  for (const end of ends.values())
    plainFailure(t, end, /^kiln: the working directory does not exist any more \[E_\w+\]$/m);
});

test.serial(
  'output that cannot be written is an error, but messages that cannot are not',
  async (t) => {
    const ends = await script(
      t,
      `cp -a "$WORK/store" "$STATE/"
    kiln ps >/dev/full; kiln image ls >/dev/full
    kiln --help >/dev/full; kiln build --schema >/dev/full
    kiln run -r ${IMAGE} -- echo hello >/dev/full`.replaceAll(
        /kiln (.*?) >\/dev\/full/g,
        // What kiln prints goes there, not what is said of it.
        (_, words) =>
          `"$KILN" ${words} >/dev/full 2>"$WORK/err" </dev/null; echo "== $? ${words}"; cat "$WORK/err"`,
      ) +
        `
    "$KILN" run -r ${IMAGE} -- sh -c 'exit 4' 2>/dev/full; echo "== $? quiet"`,
    );
    t.is(ends.get('quiet')?.status, 4);
    ends.delete('quiet');
    t.is(ends.size, 5);
    for (const end of ends.values()) plainFailure(t, end, /^kiln: .*(?:output cannot be)/m);
  },
);

test.serial('kilnd makes its run-time folders anew when somebody has removed them', async (t) => {
  const run = ['run', '-r', 'busybox', '--', 'echo', 'here'];
  for (const names of [['libvirt'], ['sandboxes'], ['libvirt', 'sandboxes']]) {
    for (const name of names) {
      await rm(join(state.paths.run, name), { recursive: true, force: true });
    }
    for (let time = 1; time <= 2; time++) {
      const { exitCode, stdout, stderr } = await state.kiln(run);
      t.deepEqual([exitCode, stdout], [0, 'here'], `${names.join()} ${time}: ${stderr}`);
    }
  }
});

test.serial('too few descriptors are reported', async (t) => {
  const ends = await script(
    t,
    `cp -a "$WORK/store" "$STATE/"
    ulimit -n 24
    kiln rpm query "$WORK/none.rpm" "$KILN"
    kiln gc`,
  );
  plainFailure(t, ends.get('gc'), /too many open files/);
  t.notRegex(JSON.stringify([...ends]), /internal error|TypeError/);
});
