/** The host's own /usr for users who are not root: theirs unless root says no. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import anyTest, { type TestFn } from 'ava';
import { OTHER, USER, type UserState, userState, writeConfig } from '../support/second-user.ts';

const test = anyTest as TestFn<UserState>;

test.before(async (t) => {
  t.context = await userState();
});
test.after.always(async ({ context }) => {
  await context[Symbol.asyncDispose]();
});

test.serial('users run commands on it, and each is told once a day', async (t) => {
  for (const user of [USER, OTHER]) {
    const first = await t.context.as(user, ['run', '--', 'id', '-u'], { cwd: '/' });
    t.is(first.stdout, '1000', String(first.stderr));
    t.regex(String(first.stderr), /^kiln: no image is named, so this runs on the host’s own \/usr/);
    const second = await t.context.as(user, ['run', '--', 'true'], { cwd: '/' });
    t.is(`${second.exitCode}${second.stderr}`, '0');
  }
});

test.serial(
  'a user cannot read files below /usr that are root’s alone, even as root of a sandbox',
  async (t) => {
    const folder = mkdtempSync('/usr/local/lib/kiln-test-');
    t.teardown(() => rmSync(folder, { recursive: true }));
    chmodSync(folder, 0o755);
    writeFileSync(join(folder, 'open'), 'open', { mode: 0o644 });
    writeFileSync(join(folder, 'closed'), 'closed', { mode: 0o640 });
    const words = ['run', '-r', 'host', '--user', 'root', '--', 'sh', '-c'];
    const { stdout } = await t.context.as(USER, [...words, `cat ${folder}/*; id -u`]);
    t.is(stdout, 'open0');
  },
);

test.serial(
  'users.hostImage: false keeps it from users, by any name, and not from root',
  async (t) => {
    const { as, kiln, config } = t.context;
    const listed = await kiln(['image', 'ls', '--json']);
    const images = JSON.parse(String(listed.stdout)) as readonly { id: string; names: string[] }[];
    const id = images.find(({ names }) => names.includes('host'))?.id ?? '';
    t.regex(id, /^[0-9a-f]{64}$/);
    writeConfig(config, '  hostImage: false\n');
    for (const [image, why] of [
      [['-r', 'host'], /host is not for users .*users\.hostImage/s],
      [['-r', id], /E_IMAGE_MISSING/],
      [['-r', id.slice(0, 12)], /E_IMAGE_MISSING/],
      [[], /give an image with -r/],
    ] as const) {
      const refused = await as(USER, ['run', ...image, '--', 'true']);
      t.is(refused.exitCode, 125, image.join(' '));
      t.regex(String(refused.stderr), why);
    }
    // Nor does a program of the host unpack a file for them.
    const unpacks = ['--mount', 'type=image,source=/bin/busybox,target=/x'];
    const unpacked = await as(USER, ['run', '-r', 'busybox', ...unpacks, '--', 'true']);
    t.regex(String(unpacked.stderr), /host is not for users .*users\.hostImage/s);
    const shown = await as(USER, ['image', 'ls', '--json']);
    t.false(String(shown.stdout).includes(id));
    t.is((await kiln(['run', '-r', 'host', '--', 'true'])).exitCode, 0);
  },
);
