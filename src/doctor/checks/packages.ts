import { type Check, fail, ok } from '../check.ts';

/** The host's programs and libraries that kiln calls are there. */
export const packages: Check = {
  name: 'packages',
  async run({ host }) {
    const missing = await host.missing(['run']);
    if (missing.length === 0) return ok(`${host.name}: nothing is missing`);
    const names = missing.map((need) => need.package).filter((name) => name !== undefined);
    return fail(
      `${host.name}: no ${missing.map(({ what }) => what).join(', ')}`,
      'kiln calls these',
      host.install([...new Set(names)]),
    );
  },
};
