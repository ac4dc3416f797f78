import type { ImageManifest } from '../../image/store/manifest.ts';
import { type Plan, planCommand } from '../../sandbox/door/plan.ts';
import type { Engine } from '../../sandbox/open.ts';
import type { RunRequest } from './request.ts';

/** The plan of a request. Throws E_NO_USER, E_EGRESS, E_SECCOMP_PROFILE, E_ARGUMENT. */
export function planRun(
  engine: Pick<Engine, 'allowMissing'>,
  request: RunRequest,
  image: { readonly tree: string; readonly manifest: ImageManifest },
): Plan {
  const { argv, env, workdir, user, capAdd, seccomp, time, caller } = request;
  const { network, egress, binds, tmpfs, hostname, limits, disk } = request;
  return planCommand(
    {
      ...{ argv, env, workdir, user, capAdd, seccomp, time, caller },
      ...{ network, egress, binds, tmpfs, hostname, limits, disk },
      nested: request.nested === true,
      label: request.label ?? { kind: 'auto' },
      allowMissing: request.allowMissing ?? engine.allowMissing(),
      allowHostWrite: request.allowHostWrite === true,
      outlives: request.keepSeconds !== undefined,
      ...{ volumes: [], privateTmp: true, namespaces: 0, boot: false },
    },
    image,
  );
}
