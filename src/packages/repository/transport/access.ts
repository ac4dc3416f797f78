/** Logs in at a repository's servers. Secrets are never written anywhere. */
import * as https from 'node:https';
import { KilnError } from '../../../errors.ts';
import { readUserFile } from '../../../host/files/user-file.ts';
import type { Reach } from './reach.ts';

/** A password or token has one line, a certificate some KiB, a bundle of all authorities 300. */
const MAX_FILE = 4 << 20;

/** dnf's options of a repository (dnf.conf(5)), with files for secrets. Paths are absolute. */
export interface AccessOptions {
  readonly username?: string | undefined;
  readonly password?: string | undefined;
  readonly passwordFile?: string | undefined;
  readonly tokenFile?: string | undefined;
  readonly certificate?: string | undefined;
  readonly key?: string | undefined;
  readonly authorities?: string | undefined;
  readonly verify: boolean;
  /** A folder out of which no link leads to these files. */
  readonly below?: string | undefined;
}

/**
 * The login of one repository. Names and passwords are sent only to the hosts that the configuration names;
 * certificates are used for every connection of the repository. Nothing of it can be printed or serialized.
 */
export class RepositoryAccess {
  readonly #repository: string;
  readonly #origins: ReadonlySet<string>;
  readonly #options: AccessOptions;
  readonly #agents = new Map<Reach, https.Agent>();
  #authorization: string | undefined;

  constructor(repository: string, urls: readonly string[], options: AccessOptions) {
    this.#repository = repository;
    this.#origins = new Set(urls.map((url) => new URL(url).origin));
    this.#options = options;
  }

  /** Nothing: serialized data is read by many. */
  toJSON(): undefined {
    return undefined;
  }

  authorization(url: URL): string | undefined {
    if (!this.#origins.has(url.origin)) return undefined;
    this.#authorization ??= this.#readAuthorization();
    return this.#authorization === '' ? undefined : this.#authorization;
  }

  agent(reach: Reach, usual: https.AgentOptions): https.Agent | undefined {
    const { authorities, certificate, key, verify } = this.#options;
    if (verify && authorities === undefined && certificate === undefined) return undefined;
    let agent = this.#agents.get(reach);
    if (agent === undefined) {
      const own = certificate && {
        cert: this.#read('sslclientcert', certificate),
        key: this.#read('sslclientkey', key ?? certificate),
      };
      agent = new https.Agent({
        ...usual,
        rejectUnauthorized: verify,
        ...own,
        ...(authorities && { ca: this.#read('sslcacert', authorities) }),
      });
      this.#agents.set(reach, agent);
    }
    return agent;
  }

  #readAuthorization(): string {
    const { username, password, passwordFile, tokenFile } = this.#options;
    if (tokenFile !== undefined) return `Bearer ${this.#readLine('token_file', tokenFile)}`;
    if (username === undefined) return '';
    const secret =
      passwordFile === undefined ? (password ?? '') : this.#readLine('password_file', passwordFile);
    return `Basic ${Buffer.from(`${username}:${secret}`).toString('base64')}`;
  }

  #readLine(option: string, path: string): string {
    const [line = ''] = this.#read(option, path).toString('utf8').split(/\r?\n/, 1);
    if (line !== '' && !/[\u0000-\u001f\u007f]/.test(line)) return line;
    throw this.#accessError(`${option} ${path} has no line of text to begin with`);
  }

  #read(option: string, path: string): Buffer {
    try {
      return readUserFile(path, MAX_FILE, 'file', this.#options.below);
    } catch (cause) {
      throw this.#accessError(`${option} ${path} cannot be read`, cause);
    }
  }

  #accessError(why: string, cause?: unknown): KilnError {
    return new KilnError('E_REPOSITORY_ACCESS', `repository ${this.#repository}: ${why}`, {
      hint: 'put the file there, readable for root, or change the option',
      cause,
    });
  }
}

/** The logins of a lock's repositories by id. A written lock contains none of it. */
export class LockAccess extends Map<string, RepositoryAccess> {
  toJSON(): undefined {
    return undefined;
  }
}

export function lockAccess(
  repositories: readonly { readonly id: string; readonly access?: RepositoryAccess | undefined }[],
): { readonly access?: LockAccess } {
  const byId = new LockAccess();
  for (const { id, access } of repositories) if (access !== undefined) byId.set(id, access);
  return byId.size === 0 ? {} : { access: byId };
}
