import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Argument } from 'commander';
import { type ListedJob, listJobs, titleOf } from '../detached/record.ts';
import { KilnError } from '../errors.ts';
import { packageRoot } from '../host/state/package-root.ts';
import { type StatePaths, statePaths } from '../host/state/paths.ts';
import { seesHost } from '../image/host.ts';
import { visibleImages } from '../image/store/images.ts';
import { type ImageOwner, namesFor } from '../image/store/manifest.ts';
import { listSnapshots } from '../image/store/snapshots.ts';
import { SHIPPED_PROFILES } from '../options/rules.ts';
import { HOST_IMAGE, recipeNames } from '../recipe/named.ts';
import { listSandboxes } from '../sandbox/domain/sandbox-record.ts';
import { CHOSEN_PROFILES } from '../sandbox/seccomp/profile.ts';
import { serviceNames } from '../service/lifecycle/store.ts';
import { seesImage } from '../users/configuration.ts';
import type { Caller } from './caller/caller.ts';
import { KilnCommand } from './options/command.ts';

/** The scripts of dist/completions: scripts/write/completions writes them when kiln is built. */
export const SCRIPTS = { bash: 'kiln.bash', zsh: '_kiln', fish: 'kiln.fish' } as const;

export type Shell = keyof typeof SCRIPTS;

const EXAMPLES = `
Packages of kiln install these scripts. From a checkout:

Examples:
  kiln completion bash >/etc/bash_completion.d/kiln
  kiln completion zsh >"\${fpath[1]}/_kiln"
  kiln completion fish >~/.config/fish/completions/kiln.fish`;

export function completionCommand(caller: Caller): KilnCommand {
  return new KilnCommand('completion')
    .description('Print the script by which a shell completes kiln’s command lines.')
    .addArgument(new Argument('<shell>', 'the shell').choices(Object.keys(SCRIPTS)))
    .addHelpText('after', EXAMPLES)
    .action((shell: Shell) => caller.stdout.write(readScript(SCRIPTS[shell])));
}

function readScript(name: string): string {
  const file = join(packageRoot(), 'dist/completions', name);
  try {
    return readFileSync(file, 'utf8');
  } catch (cause) {
    throw new KilnError('E_INSTALLATION', `${file} cannot be read`, {
      hint: 'run `npm run build` in a checkout, or install kiln again',
      cause,
    });
  }
}

export const LISTED = [
  ...([
    'image',
    'recipe',
    'sandbox',
    'live',
    'job',
    'snapshot',
    'origin',
    'service',
    'profile',
  ] as const),
];
export type Listed = (typeof LISTED)[number];

type Suggestion = readonly [word: string, about: string];

const LISTS: Readonly<
  Record<Listed, (paths: StatePaths, caller: Caller) => Promise<readonly Suggestion[]>>
> = {
  recipe: async (paths) => await recipes(paths),
  image: async (paths, caller) => {
    const { user } = caller;
    const owner = user && {
      uid: user.uid,
      seesOfRoot: (image: ImageOwner) => seesImage(user.policy, image),
    };
    const images = await visibleImages({ paths, owner });
    return [
      ...(seesHost(owner) ? ([[HOST_IMAGE, 'this host’s own /usr']] as const) : []),
      ...(await recipes(paths)),
      ...images.flatMap(({ manifest }) => {
        const words = [...namesFor(paths, manifest, owner), manifest.id.slice(0, 12)];
        return words.map((word) => [word, `image ${manifest.name}`] as const);
      }),
    ];
  },
  sandbox: async (paths, { user }) => sandboxesAndJobs(paths, user, await listJobs(paths, user)),
  live: async (paths, { user }) => {
    const jobs = await listJobs(paths, user);
    const live = jobs.filter(({ state }) => state === 'running');
    return await sandboxesAndJobs(paths, user, live);
  },
  job: async (paths, { user }) => suggestedJobs(await listJobs(paths, user), user),
  snapshot: async (paths, { user }) => await snapshots(paths, user),
  origin: async (paths, { user }) => [
    ...(await snapshots(paths, user)),
    ...(await sandboxesAndJobs(paths, user, [])),
  ],
  profile: async (_, { user }) =>
    (user === undefined ? CHOSEN_PROFILES : SHIPPED_PROFILES.map(String)).map((name) => [
      name,
      'seccomp profile of kiln’s',
    ]),
  service: async (paths, { user }) =>
    user === undefined ? (await serviceNames(paths)).map((name) => [name, 'service']) : [],
};

async function snapshots(paths: StatePaths, user: Caller['user']): Promise<Suggestion[]> {
  const all = await listSnapshots(paths, user);
  return all.map(({ id, record }) => [record.name ?? id, `snapshot of ${record.sandbox}`]);
}

/** Jobs as well: commands for sandboxes take both. */
async function sandboxesAndJobs(
  paths: StatePaths,
  user: Caller['user'],
  jobs: readonly ListedJob[],
): Promise<Suggestion[]> {
  const sandboxes = await listSandboxes(paths, { owner: user });
  // `kiln ps` shows the sandbox of a job under the job's id.
  const ofJobs = new Set(jobs.map(({ record }) => record.sandbox));
  return [
    ...sandboxes
      .filter(({ id, state }) => state !== 'parked' && !ofJobs.has(id))
      .flatMap(({ id, state, record }) =>
        [id, record.name ?? []].flat().map((word) => [word, about(state, record.command)] as const),
      ),
    ...suggestedJobs(jobs, user),
  ];
}

/** A name is known to its own user alone. */
function suggestedJobs(jobs: readonly ListedJob[], user: Caller['user']): Suggestion[] {
  return jobs.map(({ state, record }) => {
    const word = record.owner === user?.uid ? titleOf(record) : record.id;
    return [word, about(state, record.command)];
  });
}

function about(state: string, command: readonly string[] = []): string {
  return [state, ...command].join(' ').slice(0, 60);
}

async function recipes(paths: StatePaths): Promise<Suggestion[]> {
  const names = await recipeNames(paths);
  return names.map((name) => [name, 'recipe']);
}

export function completeCommand(caller: Caller): KilnCommand {
  return new KilnCommand('complete')
    .description('List what a shell completes a word to.')
    .addArgument(new Argument('<kind>', 'what the word is to be').choices(LISTED))
    .examples('kiln complete image')
    .action(async (kind: Listed) => {
      // An image may be called as its recipe is, and a job as one that has ended.
      const found = new Map(await LISTS[kind](statePaths(caller.env), caller));
      const lines = [...found].map(
        ([word, about]) => `${word}\t${about.replaceAll(/\s+/g, ' ')}\n`,
      );
      caller.stdout.say(lines.join(''));
    });
}
