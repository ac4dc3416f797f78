import { type Kiln, openKiln } from '../kiln.ts';
import type { Engine } from '../sandbox/open.ts';

/** The engine that the environment names. Its one connection is made when first needed. */
export interface CliEngine extends Engine, AsyncDisposable {}

export function openEngine(): CliEngine {
  const kiln: Kiln = openKiln();
  return { ...kiln.engine, [Symbol.asyncDispose]: () => kiln.leave() };
}
