// Collects `*` from the directory argv[2] into argv[3] in a process that a test can kill.
import { openSync } from 'node:fs';
import { collectArtifacts } from '../../src/artifacts/collect.ts';

const [root = '', destination = ''] = process.argv.slice(2);
await collectArtifacts({
  rootFd: openSync(root, 'r'),
  patterns: ['*'],
  workdir: '/',
  destination,
  owner: { uid: 0, gid: 0 },
});
