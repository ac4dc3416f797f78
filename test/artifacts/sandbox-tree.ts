import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import {
  type Collection,
  type CollectRequest,
  collectArtifacts,
} from '../../src/artifacts/collect.ts';
import { O_PATH } from '../../src/host/files/at.ts';
import { ownPath } from '../../src/host/files/held.ts';

/** Where a sandbox's ids would start: nobody on the host has them. */
export const BASE = 1_234_500_000;
/** The caller that artifacts go to. */
export const OWNER = { uid: 4321, gid: 8765 };

/** A program that collects, in a process of its own. */
export const CHILD = fileURLToPath(new URL('collect-child.ts', import.meta.url));

/** A tree like a sandbox's root, and an empty folder beside it; both gone after the test. */
export interface SandboxTree {
  readonly root: string;
  readonly out: string;
  /** Runs bash in the root, under `LC_ALL=C`; returns its standard output. */
  bash(script: string): string;
  collect(
    patterns: readonly string[],
    more?: Partial<Omit<CollectRequest, 'rootFd' | 'destination'>> & {
      readonly destination?: string;
    },
  ): Promise<Collection>;
}

export function sandboxTree(t: ExecutionContext): SandboxTree {
  const top = mkdtempSync(join(tmpdir(), 'kiln-artifacts-'));
  const [root, out] = [join(top, 'root'), join(top, 'out')];
  t.teardown(() => rmSync(top, { recursive: true, force: true }));
  bashIn(top, 'mkdir root && chmod 755 .');
  return {
    root,
    out,
    bash: (script) => bashIn(root, script),
    collect: async (patterns, { destination = out, ...more } = {}) => {
      const rootFd = openSync(root, O_PATH);
      try {
        return await collectArtifacts({
          rootFd,
          patterns,
          workdir: '/',
          destination: ownPath(destination),
          owner: OWNER,
          ...more,
        });
      } finally {
        closeSync(rootFd);
      }
    },
  };
}

/** Runs a script; `latin1` output keeps every byte. */
export function bashIn(cwd: string, script: string): string {
  return execFileSync('bash', ['-euc', script], {
    cwd,
    encoding: 'latin1',
    env: { ...process.env, LC_ALL: 'C' },
    maxBuffer: 2 ** 27,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
}
