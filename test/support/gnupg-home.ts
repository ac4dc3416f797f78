/** A home of gpg's for a test, at any time of gpg's clock. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';

/** For gpg-agent.conf: else the agent takes a second to find out how slow a passphrase can be made here. */
export const QUICK_PASSPHRASES = 's2k-count 65536\n';

export class GnuPgHome implements AsyncDisposable {
  readonly #home: string;

  private constructor(home: string) {
    this.#home = home;
  }

  static async make(): Promise<GnuPgHome> {
    // gpg's agent has a socket there: the path must be short.
    const home = await mkdtemp(join(tmpdir(), 'kg-'));
    await writeFile(join(home, 'gpg-agent.conf'), QUICK_PASSPHRASES);
    return new GnuPgHome(home);
  }

  async run(...args: readonly string[]): Promise<string> {
    return await this.#gpg(args);
  }

  /** @param day `2010-01-31`: what gpg takes for today. */
  async at(day: string, ...args: readonly string[]): Promise<string> {
    return await this.#gpg([...faked(day), ...args]);
  }

  /** Has gpg edit a key, with what somebody would type. */
  async edit(day: string, key: string, lines: readonly string[]): Promise<void> {
    const input = `${lines.join('\n')}\n`;
    await this.#gpg([...faked(day), '--command-fd', '0', '--edit-key', key], input);
  }

  /** Of the main key, in upper case, as gpg wants it. */
  async fingerprint(name: string): Promise<string> {
    const listed = await this.#gpg(['--with-colons', '--list-keys', name]);
    return /^fpr:+([0-9A-F]+):$/m.exec(listed)?.[1] ?? '';
  }

  /** All public keys, armored. */
  async export(): Promise<string> {
    return await this.#gpg(['--armor', '--export']);
  }

  /** Has rpmsign sign a package. @param extra further options of gpg's. @param options of rpmsign's. */
  async signPackage(
    file: string,
    name: string,
    extra: readonly string[] = [],
    options: readonly string[] = [],
  ): Promise<void> {
    const macros = {
      _gpg_name: name,
      _gpg_path: this.#home,
      __gpg: '/usr/bin/gpg',
      _gpg_sign_cmd_extra_args: ['--passphrase', "''", ...extra.map((arg) => `'${arg}'`)].join(' '),
    };
    const defines = Object.entries(macros).flatMap(([key, value]) => [
      '--define',
      `${key} ${value}`,
    ]);
    await execa('rpmsign', [...defines, ...options, '--addsign', file], {
      env: { GNUPGHOME: this.#home },
    });
  }

  async #gpg(args: readonly string[], input?: string): Promise<string> {
    const fixed = ['--quiet', '--homedir', this.#home, '--pinentry-mode', 'loopback'];
    const quiet = input === undefined ? ['--batch', '--passphrase', ''] : ['--no-tty'];
    const { stdout } = await execa('gpg', [...fixed, ...quiet, ...args], {
      ...(input === undefined ? {} : { input }),
    });
    return stdout;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await execa('gpgconf', ['--homedir', this.#home, '--kill', 'all'], { reject: false });
    await rm(this.#home, { recursive: true, force: true });
  }
}

function faked(day: string): string[] {
  return ['--faked-system-time', `${day.replaceAll('-', '')}T000000!`];
}
