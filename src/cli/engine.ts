import { type Kiln, openKiln } from '../kiln.ts';
import type { Engine } from '../sandbox/open.ts';

export interface CliEngineOptions {
  /**
   * The command's end is not to wait until libvirtd has put away what belonged to its box: cgroups
   * are there for a fifth of a second more.
   */
  readonly hurry?: boolean;
}

/** The engine that the environment names. Its one connection is made when first needed. */
export interface CliEngine extends Engine, AsyncDisposable {}

export function openEngine({ hurry = false }: CliEngineOptions = {}): CliEngine {
  const kiln: Kiln = openKiln();
  return { ...kiln.engine, [Symbol.asyncDispose]: () => (hurry ? kiln.leave() : kiln.close()) };
}
