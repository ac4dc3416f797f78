import { existsSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { landlockAbi } from '../../host/process/process.ts';

/** Of every sandbox: kiln goes on without one of these only if `--allow-missing` names it. */
export const OPTIONAL_LAYERS = [
  'landlock',
  'time-namespace',
  'memory-limit',
  'cpu-limit',
  'pids-limit',
  'io-limit',
] as const;

/** Those, and what a machine alone has; other layers can never be missing. */
export const ALLOWABLE_LAYERS = [...OPTIONAL_LAYERS, 'kvm', 'qemu-label'] as const;

export type OptionalLayer = (typeof ALLOWABLE_LAYERS)[number];

export function parseLayer(text: string): OptionalLayer {
  const found = ALLOWABLE_LAYERS.find((layer) => layer === text);
  if (found !== undefined) return found;
  throw new KilnError('E_ARGUMENT', `${text} is not a layer that may be missing`, {
    hint: `there are ${ALLOWABLE_LAYERS.join(', ')}`,
  });
}

/** The layers that `KILN_ALLOW_MISSING` names, separated by commas. Throws E_ARGUMENT. */
export function allowedMissing(env: NodeJS.ProcessEnv): OptionalLayer[] {
  const text = env.KILN_ALLOW_MISSING ?? '';
  return text.split(',').filter(Boolean).map(parseLayer);
}

export function whyUnavailable(layer: OptionalLayer): string | undefined {
  if (layer === 'landlock' && landlockAbi() === 0) {
    return 'the kernel has no Landlock (CONFIG_SECURITY_LANDLOCK, and landlock in lsm=)';
  }
  if (layer === 'time-namespace' && !existsSync('/proc/self/ns/time')) {
    return 'the kernel has no time namespaces (CONFIG_TIME_NS)';
  }
  return undefined;
}

export function requireLayer(layer: OptionalLayer, allowed: readonly OptionalLayer[]): boolean {
  const why = whyUnavailable(layer);
  if (why === undefined) return true;
  if (allowed.includes(layer)) return false;
  throw layerMissingError(layer, why);
}

export function layerMissingError(layer: string, why: string, cause?: unknown): KilnError {
  const optional = ALLOWABLE_LAYERS.some((name) => name === layer);
  return new KilnError('E_LAYER_MISSING', `layer ${layer} is not in force: ${why}`, {
    hint: optional
      ? `\`kiln doctor\` tells what this host lacks; to go on without: KILN_ALLOW_MISSING=${layer} in the environment, or --allow-missing ${layer} of \`kiln run\``
      : '`kiln doctor` tells what this host lacks',
    details: { layer },
    cause,
  });
}
