// Collects `*` from the directory argv[2] into argv[3] in a process of its own, and prints the warnings.
import { openSync } from 'node:fs';
import { collectArtifacts } from '../../src/artifacts/collect.ts';
import { ownPath } from '../../src/host/files/held.ts';

const [root = '', destination = ''] = process.argv.slice(2);
const { warnings } = await collectArtifacts({
  rootFd: openSync(root, 'r'),
  patterns: ['*'],
  workdir: '/',
  destination: ownPath(destination),
  owner: { uid: 0, gid: 0 },
});
for (const { code, path } of warnings) process.stdout.write(`${code} ${path}\n`);
