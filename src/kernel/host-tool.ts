import { execa, type Options } from 'execa';
import { keepDescriptors } from './own-descriptors.ts';
import { withoutOrders } from './own-node.ts';

/**
 * execa() for a tool of the host, which gets what child-process.ts gives to programs, and no more: with
 * `extendEnv: false` nothing but `env`.
 */
export function hostTool<Given extends Options>(
  program: string,
  args: readonly string[],
  options: Given,
) {
  keepDescriptors();
  const inherited = options.extendEnv === false ? {} : withoutOrders(process.env);
  const env = { ...inherited, ...options.env };
  return execa<Given>(program, args, { ...options, env, extendEnv: false });
}
