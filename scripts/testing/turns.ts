/**
 * Test files that take turns, since all tests together take longer than CI has. Each commit runs a sixth of these beside
 * all other files; `scripts/test --all` runs every file.
 */
import { execFileSync } from 'node:child_process';

/** So many commits, on the average, run each of them once. */
export const TURNS = 6;

/** The longest first, so that turns are alike. */
export const TAKES_TURNS = [
  ...['mock/as-mock', 'service/boot', 'state/damage'],
  ...['users/build', 'remote/remote', 'mock/roots'],
  ...['users/images', 'service/at-once', 'build/chain'],
  ...['image/names', 'report/views', 'machine/parked'],
  ...['image/debian-build', 'e2e/mistakes', 'solver/solve'],
  ...['image/edge-packages', 'build/core/failures', 'load/load'],
  ...['repository/local', 'mock/every-option', 'mock/builds'],
  ...['doctor/faults', 'e2e/workers', 'service/servers'],
  ...['solver/modules', 'service/silent', 'build/recipe/script'],
  ...['image/store', 'users/own-roots', 'machine/artifacts'],
  ...['build/core/faults', 'farm/step', 'image/archive'],
  ...['e2e/callers-paths', 'e2e/silent-libvirtd', 'scripts/sweep'],
  ...['confine/queue', 'scripts/run', 'repository/remote'],
  ...['build/core/verify', 'caller/umask', 'image/scriptlets'],
  ...['state/names', 'libvirt/embedded', 'cli/reference'],
  ...['users/recipe', 'build/recipe/sandbox', 'rpm/payload'],
  ...['detached/jobs', 'remote/user', 'scripts/package'],
  ...['report/report', 'mock/koji-copr', 'mock/integration'],
  ...['users/defaults', 'build/core/real-packages', 'repository/publish'],
  ...['fixtures/debian-rpms', 'mock/trust', 'mock/campaign'],
  ...['repository/signature', 'daemon/activation', 'e2e/containers'],
  ...['scripts/bootstrap', 'api/users', 'api/connections'],
  ...['doors/doors', 'crash/crash', 'sandbox/cow', 'users/attempts'],
  ...['sandbox/parked', 'e2e/daemon', 'service/life', 'farm/round'],
  ...['sandbox/snapshot', 'users/snapshot', 'users/cow', 'e2e/copy'],
  ...['e2e/exec', 'build/core/build', 'e2e/living', 'image/tag-prune'],
  ...['image/architecture', 'mock/snapshots', 'mock/evaluate'],
  ...['machine/run', 'repository/access', 'repository/distributions'],
  ...['docs/commands', 'python/package', 'sandbox/host-write'],
  ...['recipe/image-recipe', 'e2e/mcp', 'machine/service'],
  ...['image/working-directory', 'sandbox/layers', 'machine/killed'],
  ...['mock/hermetic', 'e2e/result-folders', 'fuzz/metadata'],
  ...['image/allow-host', 'mock/configurations', 'rpm/unpack'],
  ...['machine/users', 'fuzz/stage0', 'repository/download'],
  ...['report/chain', 'rpm/check', 'fuzz/port'],
  ...['machine/hostile', 'fuzz/names', 'events/events'],
  ...['remote/namespaces', 'e2e/system-failures', 'rpm/keyring'],
  ...['fuzz/recipe', 'detached/leave', 'fuzz/guest'],
  ...['fixtures/edge-packages'],
  ...['machine/saved', 'machine/living', 'machine/layers', 'machine/options'],
  ...['machine/saved', 'sandbox/killed-layers'],
];

/** By the commit, so that it has the same result again; without git the first. @returns 0 to TURNS - 1 */
export function turnOf(top: string): number {
  try {
    const commit = execFileSync('git', ['rev-parse', 'HEAD'], { cwd: top, encoding: 'utf8' });
    return Number.parseInt(commit.slice(0, 8), 16) % TURNS;
  } catch {
    return 0;
  }
}

/** The files that have their turn at other commits. @param turn undefined if all have */
export function outOfTurn(turn: string | undefined): string[] {
  if (!turn) return [];
  return TAKES_TURNS.filter((_, index) => index % TURNS !== Number(turn));
}
