import { fstatSync, readSync, statfsSync } from 'node:fs';
import { type CopyInItem, type WrittenFile, writtenFile } from '../../artifacts/copy-in.ts';
import type { Owner } from '../../artifacts/destination.ts';
import type { Warning } from '../../artifacts/warning.ts';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import { hasErrno } from '../../host/calls/libc.ts';
import { O_PATH, openInTree } from '../../host/files/at.ts';
import type { Capability } from '../../host/process/process.ts';
import type { UserIds } from '../../host/process/user-namespace.ts';
import type { SandboxFacts } from '../command/facts.ts';
import type { CommandStdio, SandboxProcess } from '../command/process.ts';
import { startCommand } from '../command/start-command.ts';
import type { FilesInside, ProcessInside } from '../domain/ground.ts';
import type { SandboxDomain } from '../domain/sandbox-domain.ts';
import type { Policies } from '../policy/policy.ts';
import { copyBy, makeFiles } from './make-files.ts';
import { behindLinkError, openFile, readInside } from './open-file.ts';

/** Bytes of a file that are read at a time. */
const READ_MAX = 1 << 20;

/** A piece of a file. */
export interface FileContent {
  /** Base64. */
  readonly data: string;
  /** Of the whole file. */
  readonly size: number;
}

/** Of what makes copied files, as their owner: whatever the modes of the folders. */
const ANYWHERE = ['DAC_OVERRIDE', 'FOWNER'] as const;

/** The files that an open sandbox's commands see. They are hostile, and may change while they are read. */
export class SandboxTree {
  readonly #domain: SandboxDomain;
  readonly #policies: Policies;
  readonly #owner: Owner;
  readonly #facts: SandboxFacts;

  /** @param owner of copied files, as the sandbox numbers it */
  constructor(domain: SandboxDomain, policies: Policies, owner: Owner, facts: SandboxFacts) {
    this.#domain = domain;
    this.#policies = policies;
    this.#owner = owner;
    this.#facts = facts;
  }

  async copyIn(
    items: readonly CopyInItem[],
    warn: (warning: Warning) => void,
    signal?: AbortSignal | undefined,
  ): Promise<void> {
    for (const item of items) {
      signal?.throwIfAborted();
      await copyBy(await this.#maker(ANYWHERE), item, warn, signal);
    }
  }

  /** A mebibyte from the offset on, at the most. @throws what openFile() throws */
  async read({ path, offset }: { path: string; offset: number }): Promise<FileContent> {
    if (this.inside !== undefined) {
      const { bytes, size } = await readInside(this.inside, path, offset, this.hostUser);
      return { data: bytes.toString('base64'), size };
    }
    return await this.withRoot(async (root) => {
      using file = closing(openFile(root, path, this.hostUser));
      const { size } = fstatSync(file.fd);
      const bytes = Buffer.alloc(Math.max(0, Math.min(READ_MAX, size - offset)));
      const read = bytes.length === 0 ? 0 : readSync(file.fd, bytes, 0, bytes.length, offset);
      return { data: bytes.toString('base64', 0, read), size };
    });
  }

  /** @throws KilnError E_ARGUMENT for what is no plain file there, SyscallError */
  async put(file: WrittenFile): Promise<void> {
    const maker = await this.#maker(ANYWHERE);
    const unmade = await makeFiles(maker, (send) => send(writtenFile(file)), undefined);
    if (unmade === undefined) return;
    if ('cause' in unmade && hasErrno(unmade.cause, 'EACCES', 'EPERM'))
      throw behindLinkError(file.path, 'write', unmade.cause);
    if ('cause' in unmade && !hasErrno(unmade.cause, 'EBADF')) throw unmade.cause;
    const why = 'cause' in unmade ? 'it is not a plain file' : 'the sandbox is out of memory';
    throw new KilnError('E_ARGUMENT', `path: ${file.path}: ${why}`, {
      hint: 'name a file in the sandbox; its memory limit counts what is written',
    });
  }

  /** A process that makes files of its input, in the format of src/artifacts/copy-in.ts, as the command's user. */
  async receiver(stdio?: CommandStdio): Promise<SandboxProcess> {
    return await this.#maker([], stdio);
  }

  async #maker(capabilities: readonly Capability[], stdio?: CommandStdio): Promise<SandboxProcess> {
    const { uid, gid } = this.#owner;
    const policy = { user: `${uid}:${gid}`, capabilities, seccomp: 'default' };
    const options = { policy: await this.#policies(policy), workdir: '/', unpacks: true } as const;
    return await startCommand(this.#domain, ['kiln-init'], { ...options, ...stdio });
  }

  /** The command's user, as this host numbers it. */
  get hostUser(): UserIds {
    const { uidMap, gidMap } = this.#facts;
    const { uid, gid } = this.#owner;
    return { uid: uidMap[1] + uid, gid: gidMap[1] + gid, groups: [] };
  }

  /** Whether one of these mount points is full. */
  async isAnyFull(paths: readonly string[]): Promise<boolean> {
    if (this.inside !== undefined) return await this.inside.isAnyFull(paths);
    return await this.withRoot(async (root) => paths.some((path) => isFull(root, path)));
  }

  /** Of a machine; this host has those of a container. */
  async processes(): Promise<readonly ProcessInside[]> {
    return (await this.inside?.processes(true)) ?? [];
  }

  /** Calls `act` with a descriptor of the root directory. Its content is hostile. */
  async withRoot<Result>(act: (rootFd: number) => Promise<Result>): Promise<Result> {
    using root = closing(this.openRoot());
    return await act(root.fd);
  }

  /** See {@link Ground.files}. */
  get inside(): FilesInside | undefined {
    return this.#domain.ground.files;
  }

  /** See {@link Ground.openRoot}. */
  openRoot(): number {
    return this.#domain.ground.openRoot();
  }
}

/** Whether a file system of the sandbox is full; a link on the way leads to none of the host's. */
function isFull(root: number, path: string): boolean {
  using found = openInTree(root, path, O_PATH);
  return found !== undefined && statfsSync(`/proc/self/fd/${found.fd}`).bavail === 0;
}
