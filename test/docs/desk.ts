/** A reader's desk: a folder with the files that the pages' commands name, and a state of its own. */
import { existsSync, globSync } from 'node:fs';
import { cp, mkdir, symlink, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { execa } from 'execa';
import { ensureDebianRpms } from '../../fixtures/debian-rpms/ensure.ts';
import { fixturesRoot } from '../../fixtures/debian-rpms/layout.ts';
import { type BusyboxState, busyboxState, PATIENCE } from '../support/busybox-state.ts';
import { QUICK_PASSPHRASES } from '../support/gnupg-home.ts';
import { isLong } from '../support/long.ts';
import { giveUnpackedPackages } from '../support/unpacked-packages.ts';
import { type Block, Conversation, exchanges, TOP } from './blocks.ts';
import { writeSourceFiles } from './source-files.ts';

export interface Desk extends AsyncDisposable {
  /** Runs a block as a reader would; throws with the output where it fails or says something else. */
  run(block: Block): Promise<void>;
}

/** Makes the state. Disposing ends its daemons and removes everything. */
export async function openDesk(): Promise<Desk> {
  const state = await busyboxState();
  const model = join(state.beside, 'model');
  await furnish(model);
  // Where scripts/fixtures makes them for a user.
  for (const set of isLong ? ['extras', 'services', 'tools'] : ['build'])
    await ensureDebianRpms(set);
  await symlink(fixturesRoot(), join(state.paths.root, 'fixtures'));
  await giveUnpackedPackages(state.paths);
  // As scripts/quickstart does: readers of every page have the image.
  await bash(state, model, 'kiln image build debian-build');
  return {
    run: async (block) => {
      const folder = join(state.beside, block.page.replaceAll('/', '-'));
      if (!existsSync(folder)) await cp(model, folder, { recursive: true, verbatimSymlinks: true });
      const text = block.text.replaceAll('/run/kiln/io.kiln', join(state.paths.root, 'io.kiln'));
      if (block.language === 'sh') await bash(state, folder, text);
      else await converse(state, folder, text);
    },
    [Symbol.asyncDispose]: async () => {
      for (const home of globSync('*/.gnupg', { cwd: state.beside })) {
        await execa('gpgconf', ['--kill', 'all'], { env: { GNUPGHOME: join(state.beside, home) } });
      }
      await state[Symbol.asyncDispose]();
    },
  };
}

/** The files that commands of the pages name. */
async function furnish(folder: string): Promise<void> {
  await mkdir(folder, { mode: 0o755 });
  for (const name of ['bin', 'scripts']) await symlink(join(TOP, name), join(folder, name));
  // Without images: recipes of the working directory would take the place of kiln's own.
  for (const name of ['builds', 'examples', 'services']) {
    await cp(join(TOP, 'recipes', name), join(folder, 'recipes', name), { recursive: true });
  }
  await mkdir(join(folder, '.gnupg'), { mode: 0o700 });
  await writeFile(join(folder, '.gnupg/gpg-agent.conf'), QUICK_PASSPHRASES);
  await writeSourceFiles(folder);
}

async function bash(state: BusyboxState, folder: string, script: string): Promise<string> {
  const { PATH, KILN_STATE, KILN_NODE } = state.env;
  const { all, failed, shortMessage } = await execa('bash', ['-euo', 'pipefail', '-c', script], {
    cwd: folder,
    env: {
      PATH: `${join(TOP, 'bin')}${delimiter}${PATH}`,
      HOME: folder,
      KILN_STATE,
      KILN_NODE,
      KILN_PARKED: '0',
      KILN_IDLE: '10m',
    },
    extendEnv: false,
    stdin: 'ignore',
    all: true,
    reject: false,
    timeout: 280_000 * PATIENCE,
  });
  if (failed) throw new Error(`${shortMessage}\n${all}`);
  return all;
}

/** Runs the commands of a console block one by one, and compares what they print with the page. */
async function converse(state: BusyboxState, folder: string, text: string): Promise<void> {
  const conversation = new Conversation();
  for (const { command, output } of exchanges(text)) {
    conversation.hear(output, await bash(state, folder, conversation.say(command)));
  }
}
