import { isIP } from 'node:net';
import { defined } from '../../defined.ts';
import { parseEgressRules } from '../../egress/rule.ts';
import { KilnError } from '../../errors.ts';
import { isPublicAddress } from '../../host/sockets/unix-socket.ts';
import type { BuildRecipe } from '../../recipe/build-recipe.ts';
import type { Bind, SandboxSpecification } from '../../sandbox/policy/specification.ts';
import type { RecipeReport, RecipeRequest } from './request.ts';
import type { ReadySource } from './sources.ts';

/**
 * The request that a recipe and its caller make of the sandbox. `image` is an image's id, `binds` are the recipe's own.
 * @throws KilnError E_HOST_NOT_ALLOWED when the recipe wants of the host what the caller does not
 * allow.
 */
export function sandboxRequest(
  request: RecipeRequest,
  recipe: BuildRecipe,
  {
    sources,
    binds,
    image,
  }: {
    readonly sources: readonly ReadySource[];
    readonly binds: readonly Bind[];
    readonly image: string;
  },
): RecipeReport['request'] {
  const { sandbox } = recipe;
  if (request.allowHost !== true) refuseHost(request.path, recipe);
  const timeout = request.time?.timeout ?? sandbox.timeout;
  const stallTimeout = request.time?.stallTimeout ?? sandbox['stall-timeout'];
  const disk = request.disk ?? sandbox.disk;
  const { memory, cpus, pids } = { ...defined(sandbox), ...defined(request.limits ?? {}) };
  const ioRead = request.limits?.ioRead ?? sandbox['io-read'];
  const ioWrite = request.limits?.ioWrite ?? sandbox['io-write'];
  return {
    image,
    argv: ['kiln build', request.path],
    env: sandbox.env,
    ...defined({ workdir: sandbox.workdir, user: sandbox.user, hostname: sandbox.hostname }),
    capAdd: [],
    seccomp: sandbox.profile,
    ...(sandbox.profile === 'nested' ? { nested: true } : {}),
    network: networkOf(sandbox.network),
    ...defined({ egress: sandbox.egress }),
    binds: [...binds, ...(request.binds ?? [])],
    ...defined({ allowHostWrite: request.allowHostWrite }),
    tmpfs: sandbox.tmpfs.map(({ target, size = 0 }) => ({ target, bytes: size })),
    limits: defined({ memory, cpus, pids, ioRead, ioWrite }),
    ...defined({ disk }),
    time: defined({ timeout, stallTimeout }),
    copyIn: [],
    artifacts: recipe.artifacts,
    ...defined({
      resultDirectory: request.resultDirectory,
      keepSeconds: request.keepSeconds,
    }),
    caller: request.caller,
    recipe: {
      path: request.path,
      parameters: Object.keys(request.parameters ?? {}),
      allowHost: request.allowHost ?? false,
      sources: sources.map(({ name, sha256, bytes, from }) => ({ name, sha256, bytes, from })),
      steps: recipe.steps.map(withoutValues),
    },
  };
}

function refuseHost(path: string, { sandbox }: BuildRecipe): void {
  const wanted = [
    ...(sandbox.network === 'host' ? ["the host's network"] : []),
    ...parseEgressRules(sandbox.egress ?? [])
      .filter(({ host }) => isIP(host) !== 0 && !isPublicAddress(host))
      .map(({ host, ports }) => `${host} port ${ports.join(' and ')}`),
    ...sandbox.bind.map(({ source }) => source),
  ];
  if (wanted.length === 0) return;
  throw new KilnError('E_HOST_NOT_ALLOWED', `${path} asks for ${wanted.join(', ')} of the host`, {
    hint: 'read the recipe; if you trust it, confirm with --allow-host',
  });
}

function networkOf(name: string): SandboxSpecification['network'] {
  return name === 'private' || name === 'host' ? name : { name };
}

/** Values of the environment may be secrets; result.json is often shown around. */
function withoutValues(step: BuildRecipe['steps'][number]): unknown {
  return typeof step === 'object' && 'env' in step ? { ...step, env: Object.keys(step.env) } : step;
}
