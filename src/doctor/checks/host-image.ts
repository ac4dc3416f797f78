import { writeHost } from '../../image/host.ts';
import { openWorkDirectory } from '../../image/store/work-directory.ts';
import { planCommand } from '../../sandbox/door/plan.ts';
import { type Check, type CheckContext, type Finding, ok, reason, warn } from '../check.ts';
import { patiently, runPlanned, trialOf } from './sandbox.ts';

/** Whether the host's own programs run in a sandbox: what commands have where no image is named. */
export const hostImage: Check = {
  name: 'host-image',
  run: (context) => patiently(tried(context)),
};

async function tried(context: CheckContext): Promise<Finding> {
  let step = 'make its tree';
  try {
    await using work = await openWorkDirectory(context.paths);
    const plan = planCommand(
      {
        ...trialOf(context),
        ...{ argv: ['true'], env: {}, workdir: undefined, user: undefined },
        ...{ capabilities: [], seccomp: 'default', time: {} },
      },
      writeHost(work.path),
    );
    await runPlanned(context, plan, (next) => {
      step = next;
    });
    return ok('a program of this host ran in a sandbox on its /usr');
  } catch (error) {
    return warn(
      `cannot ${step}: ${reason(error)}`,
      '`kiln run -r host` does not work, and commands need an image to be named',
      'mend what the check `sandbox` names; or set a default image: docs/configuration.md',
    );
  }
}
