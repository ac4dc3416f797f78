/** What the proxy's process starts: see egress/child.ts. */
import { serveEgress } from '../egress/child.ts';
import { endOnStrayErrors } from '../stray-errors.ts';

// Not awaited: the bundle is CommonJS, which has no top-level await.
endOnStrayErrors();
serveEgress().then(
  () => process.exit(),
  (error) => {
    throw error;
  },
);
