/**
 * Has kiln's modules start the bundle's programs, where scripts/test has built it (KILN_FROM_SOURCE is empty): a
 * confined child of sources takes a fifth of a second of a processor to load, and there are thousands. `ava` by
 * itself starts the sources. Tests load it into processes of their own by `--import`.
 */
import { registerHooks } from 'node:module';

const place = '/src/host/state/paths.ts';
const choice = "const isSource = import.meta.url.endsWith('.ts');";

if (process.env.KILN_FROM_SOURCE === '') {
  registerHooks({
    load: (url, context, next) => {
      const loaded = next(url, context);
      if (!url.endsWith(place) || loaded.source == null) return loaded;
      const text = loaded.source.toString();
      if (!text.includes(choice)) throw new Error(`${place} chooses its programs in another way`);
      return { ...loaded, source: text.replace(choice, 'const isSource = false;') };
    },
  });
}
