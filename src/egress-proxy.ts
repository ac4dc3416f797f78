/** What the proxy's process starts: see egress/child.ts. */
import { serveEgress } from './egress/child.ts';

// Not awaited: the bundle is CommonJS, which has no top-level await.
serveEgress().then(
  () => process.exit(),
  (error) => {
    process.stderr.write(`${error}\n`);
    process.exit(1);
  },
);
