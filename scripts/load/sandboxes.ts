/** Sandboxes by the dozen: all at once, or one after the other. */
import { execa } from 'execa';
import { embeddedFiles } from '../../src/host/libvirt/embedded/files.ts';
import type { Kiln, OpenSandbox } from '../../test/support/kiln.ts';

/** Runs a command in a sandbox; gives what it wrote. */
async function say(sandbox: OpenSandbox, words: string): Promise<string> {
  const command = await sandbox.spawn('echo', [words]);
  let text = '';
  command.stdout.on('data', (chunk: Buffer) => {
    text += chunk;
  });
  command.stderr.resume();
  command.stdin.end();
  await new Promise((resolve) => command.once('close', resolve));
  return text.trim();
}

/**
 * Opens so many sandboxes, has each say its number while all are there, asks virsh how many that are,
 * calls `meanwhile`, and closes them. Gives what is wrong, a line each.
 */
export async function allAtOnce(
  kiln: Kiln,
  image: string,
  count: number,
  meanwhile: () => Promise<void>,
): Promise<string[]> {
  const opened = await Promise.allSettled(
    Array.from({ length: count }, () => kiln.open({ image })),
  );
  const wrong = opened.flatMap((one) => (one.status === 'rejected' ? [`open: ${one.reason}`] : []));
  const sandboxes = opened.flatMap((one) => (one.status === 'fulfilled' ? [one.value] : []));
  try {
    const said = await Promise.allSettled(sandboxes.map((sandbox, n) => say(sandbox, `I am ${n}`)));
    for (const [n, one] of said.entries()) {
      const text = one.status === 'fulfilled' ? one.value : String(one.reason);
      if (text !== `I am ${n}`) wrong.push(`sandbox ${n} of ${count} said ${JSON.stringify(text)}`);
    }
    const { uri } = embeddedFiles(kiln.paths);
    const { stdout } = await execa('virsh', ['-q', '-c', uri, 'list', '--name']);
    const seen = stdout.split('\n').filter((name) => sandboxes.some(({ id }) => name.endsWith(id)));
    if (seen.length !== count) wrong.push(`virsh lists ${seen.length} of ${count} sandboxes`);
    const ranges = new Set(sandboxes.map(({ facts }) => facts.uidMap[1]));
    if (ranges.size !== sandboxes.length)
      wrong.push(`${sandboxes.length} sandboxes share ${ranges.size} ranges`);
    await meanwhile();
  } finally {
    const closed = await Promise.allSettled(sandboxes.map((sandbox) => sandbox.close()));
    for (const one of closed) if (one.status === 'rejected') wrong.push(`close: ${one.reason}`);
  }
  return wrong;
}

/** Opens, uses and closes sandboxes one after the other. Gives what is wrong, a line each. */
export async function oneByOne(kiln: Kiln, image: string, count: number): Promise<string[]> {
  const wrong: string[] = [];
  for (let n = 0; n < count; n++) {
    try {
      await using sandbox = await kiln.open({ image });
      const text = await say(sandbox, `I am ${n}`);
      if (text !== `I am ${n}`) wrong.push(`sandbox ${n} said ${JSON.stringify(text)}`);
    } catch (error) {
      wrong.push(`sandbox ${n}: ${error}`);
    }
  }
  return wrong;
}
