/**
 * Loaded into ava itself (`--import`): its TAP reporter (supertap 3) throws, and the run ends without a result,
 * when an error has a field that is undefined, as an error without a second line of its stack has.
 */
import { createRequire } from 'node:module';

const supertap = new URL('../../node_modules/supertap/dist/index.js', import.meta.url);
const yaml = createRequire(supertap)('js-yaml') as {
  safeDump: (value: unknown, options?: object) => string;
};
const { safeDump } = yaml;
yaml.safeDump = (value, options) => safeDump(value, { ...options, skipInvalid: true });
