import { connect } from '../libvirt/connect.ts';
import type { Connection } from '../libvirt/connection.ts';
import type { Engine } from '../sandbox/open.ts';
import { statePaths } from '../state/paths.ts';

/** The engine that the environment names. Its one connection is made when first needed. */
export interface CliEngine extends Engine, AsyncDisposable {}

export function openEngine(): CliEngine {
  const paths = statePaths();
  let connection: Promise<Connection> | undefined;
  return {
    paths,
    connect: () => {
      connection ??= connect({ paths });
      return connection;
    },
    [Symbol.asyncDispose]: async () => {
      await (await connection?.catch(() => undefined))?.close();
    },
  };
}
