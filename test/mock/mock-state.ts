import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { ExecutionContext } from 'ava';
import { execa } from 'execa';
import { debianRepository, type ImageState, imageState } from '../image/image-state.ts';
import { PATIENCE } from '../support/busybox-state.ts';
import { NOARCH_ROOT, type UnpackedSet } from '../support/unpacked-packages.ts';

/** A state directory with a configuration directory of mock's beside it. */
export interface MockState extends ImageState {
  /** Holds `demo.cfg`: a build root of the fixture packages. */
  readonly configs: string;
  /** Runs `kiln-mock -q --configdir … -r demo ARGS`; never rejects. */
  mock(args: readonly string[], options?: CallOptions): Promise<MockResult>;
}

interface CallOptions {
  readonly input?: string;
  /** Instead of `-q`. */
  readonly verbosity?: '-v' | '-q';
  readonly env?: Readonly<Record<string, string>>;
}

export interface MockResult {
  readonly exitCode: number | undefined;
  readonly stdout: string;
  readonly stderr: string;
}

export const KILN_MOCK = join(import.meta.dirname, '../../bin/kiln-mock');

/**
 * Makes the state; disposing of it ends its libvirtd and removes everything.
 * @param set what the root has: enough for noarch packages, or all of `@buildsys-build`
 */
export async function mockState(set: UnpackedSet = 'noarch'): Promise<MockState> {
  const images = await imageState({ unpacked: set });
  const packages = set === 'all' ? '@buildsys-build' : NOARCH_ROOT.join(' ');
  // The bundle where it is up to date: most of a call's time would go into loading the sources.
  const { KILN_FROM_SOURCE = '' } = process.env;
  const state = { ...images, env: { ...images.env, KILN_FROM_SOURCE } };
  const configs = join(state.directory, 'etc-mock');
  await mkdir(join(configs, 'templates'), { recursive: true });
  const { directory, key } = await debianRepository();
  await writeFile(
    join(configs, 'demo.cfg'),
    "config_opts['target_arch'] = 'x86_64'\ninclude('templates/demo.tpl')\n",
  );
  await writeFile(
    join(configs, 'templates/demo.tpl'),
    `config_opts['root'] = 'demo-{{ target_arch }}'
config_opts['description'] = 'Demo of {{ target_arch }}'
config_opts['chroot_setup_cmd'] = 'install ${packages}'
config_opts['macros']['%_buildshell'] = '/bin/bash'
config_opts['macros']['%demo'] = 'of {{ root }}'
config_opts['environment']['DEMO'] = 'two words'
config_opts['files']['etc/motd'] = 'welcome'
config_opts['chrootgid'] = 4321; config_opts['chrootgroup'] = 'packers'
config_opts['extra_chroot_dirs'] = ['/srv/one', '/srv/deep/er']
config_opts['plugin_conf']['compress_logs_enable'] = True
config_opts['dnf.conf'] = """
[main]
gpgcheck=1
[debian]
name=Debian
baseurl=${pathToFileURL(directory)}
gpgkey=${pathToFileURL(key ?? '')}
"""
`,
  );
  const mock = async (args: readonly string[], options: CallOptions = {}) => {
    const { input, verbosity = '-q', env = {} } = options;
    const all = [verbosity, '--configdir', configs, '-r', 'demo', ...args];
    const { exitCode, stdout, stderr } = await execa(KILN_MOCK, all, {
      cwd: state.directory,
      env: { ...state.env, HOME: state.directory, ...env },
      reject: false,
      ...(input === undefined ? { stdin: 'ignore' } : { input }),
      timeout: 240_000 * PATIENCE,
      killSignal: 'SIGKILL',
    });
    return { exitCode, stdout, stderr };
  };
  return { ...state, configs, mock };
}

/** A call ended with a status, and said so. */
export function ends(t: ExecutionContext, result: MockResult, status: number, words: RegExp): void {
  t.is(result.exitCode, status, result.stderr);
  t.regex(result.stderr, words);
}
