/**
 * Has kiln's modules start the bundle's programs, where scripts/test has built it (KILN_FROM_SOURCE is empty): a
 * confined child of sources takes a fifth of a second of a processor to load, and there are thousands. `ava` by
 * itself starts the sources. Tests load it into processes of their own by `--import`.
 */
import { registerHooks } from 'node:module';

const bundle = new URL('../../dist', import.meta.url).href;
const programs = /'(?:\.\.\/)+programs\/(confined|egress-proxy|watch-disk)\.ts'/;

if (process.env.KILN_FROM_SOURCE === '') {
  registerHooks({
    load: (url, context, next) => {
      const loaded = next(url, context);
      if (!url.includes('/src/') || loaded.source == null) return loaded;
      const text = loaded.source.toString();
      return programs.test(text)
        ? { ...loaded, source: text.replace(programs, `'${bundle}/$1.cjs'`) }
        : loaded;
    },
  });
}
