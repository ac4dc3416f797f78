/** A child that has been taken over: it says that it is done, and has done nothing. */
import { serveConfined } from '../../src/host/confine/child.ts';

serveConfined({ 'rpm-unpack': async () => ({ task: { run: () => undefined } }) }).then(() =>
  process.exit(),
);
