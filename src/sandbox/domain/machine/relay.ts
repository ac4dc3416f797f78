/** The program on the host that stands between kiln and a machine: src/relay. */
import { closeSync, openSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Readable } from 'node:stream';
import { KilnError } from '../../../errors.ts';
import { attempt, readText } from '../../../host/calls/libc.ts';
import { ProcessCgroups } from '../../../host/cgroup/cgroup-files.ts';
import { makeHelperGroups } from '../../../host/cgroup/helper-group.ts';
import { startProgram } from '../../../host/process/child-process.ts';
import {
  isRunning,
  type RecordedProcess,
  recordProcess,
} from '../../../host/process/recorded-process.ts';
import type { IdRange } from '../../../host/state/reservation.ts';
import { awaitedLater } from '../../../promise.ts';
import { machineProgram } from './boot-files.ts';
import { HELPERS_MEMORY } from './memory.ts';

const HELPERS_PIDS = 64;

export interface StartedRelay {
  /** Of two (src/relay/main.c) the outer one, which ends the rest. */
  readonly process: RecordedProcess;
  /** Resolves when the init of the machine listens, or one that is to be saved waits. Rejects with E_MACHINE when the relay has ended before. */
  readonly open: Promise<void>;
}

export const machineFiles = {
  folder: (directory: string) => join(directory, 'machine'),
  /** The number of qemu's process, as long as the relay lives. */
  qemu: (directory: string) => join(directory, 'machine', 'qemu.pid'),
  /** What the guest's kernel said. */
  console: (directory: string) => join(directory, 'machine', 'console.log'),
  /** What relay and virtiofsd said. */
  log: (directory: string) => join(directory, 'machine', 'relay.log'),
};

/** What it is to expect of the machine: src/relay/relay.h. */
export type RelayMode = 'boots' | 'saved' | 'restored';

/** It outlives this process. @throws KilnError E_MACHINE */
export async function startRelay(
  virtiofsd: string,
  place: {
    readonly directory: string;
    /** The name of its cgroups. */
    readonly group: string;
    readonly range: IdRange;
    /** qemu's, who alone may connect. */
    readonly user: number;
  },
  mode: RelayMode,
): Promise<StartedRelay> {
  const { directory, group, range, user } = place;
  const groups = makeHelperGroups(group);
  const log = openSync(machineFiles.log(directory), 'a', 0o600);
  const args = [directory, range.base, range.count, user, virtiofsd, mode, ...groups].map(String);
  const child = startProgram(machineProgram('kiln-relay').path, args, {
    cwd: '/',
    env: {},
    stdio: ['ignore', 'pipe', log],
    detached: true,
  });
  closeSync(log);
  const { pid } = child;
  const lines = new Lines(child.stdout as Readable);
  child.once('error', () => lines.end());
  if ((await lines.next()) !== 'ready' || pid === undefined) throw relayEnded(directory);
  const recorded = recordProcess(pid);
  if (recorded === undefined) throw relayEnded(directory);
  child.unref();
  ProcessCgroups.of(pid).limit(pid, group, { memory: HELPERS_MEMORY, pids: HELPERS_PIDS });
  const open = async () => {
    if ((await lines.next()) !== 'open') throw relayEnded(directory);
  };
  return { process: recorded, open: awaitedLater(open()) };
}

/** What the relay writes, a few short lines, while somebody waits for it. */
class Lines {
  #text = '';
  #ended = false;
  #wake: (() => void) | undefined;

  constructor(stream: Readable) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      this.#text += text;
      this.#wake?.();
    });
    stream.once('close', () => this.end());
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  /** Undefined at the end. */
  async next(): Promise<string | undefined> {
    for (;;) {
      const at = this.#text.indexOf('\n');
      if (at >= 0) {
        const line = this.#text.slice(0, at);
        this.#text = this.#text.slice(at + 1);
        return line;
      }
      if (this.#ended) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

function relayEnded(directory: string): KilnError {
  const last = (path: string) => attempt(() => readFileSync(path, 'utf8').trimEnd().slice(-2000));
  const said = [machineFiles.log(directory), machineFiles.console(directory)]
    .map((path) => last(path) ?? '')
    .filter(Boolean);
  return new KilnError('E_MACHINE', 'the machine ended before its init answered', {
    cause: new Error(said.join('\n')),
    hint: '`kiln doctor` tells what this host lacks',
  });
}

/** Undefined where it has ended. */
export function qemuOf(directory: string, relay: RecordedProcess): number | undefined {
  const pid = Number(readText(machineFiles.qemu(directory)));
  return pid > 0 && isRunning(relay) ? pid : undefined;
}

/** Ends the machine with it: qemu, virtiofsd. */
export function endRelay(relay: RecordedProcess | undefined): void {
  if (relay === undefined || !isRunning(relay)) return;
  // It may end by itself meanwhile.
  attempt(() => process.kill(relay.pid, 'SIGTERM'));
}
