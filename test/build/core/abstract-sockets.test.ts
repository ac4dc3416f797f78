import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { NETWORK_PHASES } from '../../../src/build/request.ts';
import {
  type AbstractSocket,
  abstractSocket,
  CLOSED,
  compileAbstractProbe,
} from '../../support/abstract-socket.ts';
import { PATIENCE } from '../../support/busybox-state.ts';
import { type BuildState, buildState, resultFile } from './build-state.ts';

let state: BuildState;
let socket: AbstractSocket;
let probe: string;

test.before(async (t) => {
  t.timeout(300_000 * PATIENCE);
  state = await buildState();
  socket = await abstractSocket();
  const program = join(await state.fresh(), 'probe');
  await compileAbstractProbe(program);
  probe = (await readFile(program)).toString('base64');
});
test.after.always(async () => {
  await socket?.[Symbol.asyncDispose]();
  await state?.[Symbol.asyncDispose]();
});

test('no phase of a build with the host’s network reaches the host’s abstract sockets', async (t) => {
  t.timeout(300_000 * PATIENCE);
  const unpack = 'base64 -d %{SOURCE0} > /tmp/probe; chmod 755 /tmp/probe';
  const look = (phase: string) => `echo "${phase} $(/tmp/probe ${socket.name})"`;
  const report = await state.build(
    {
      name: 'sockets',
      sources: { 'probe.base64': probe },
      prep: `${unpack}; ${look('prep')}`,
      buildrequires: `${unpack} >&2; ${look('buildrequires')} >&2`,
      build: `${unpack}; ${look('build')}`,
      install: `${unpack}; ${look('install')}; cp /tmp/probe %{buildroot}/usr/share/sockets/`,
      check: `${unpack}; ${look('check')}`,
      sections: `%post\necho "post $(/usr/share/sockets/probe ${socket.name})"`,
    },
    {
      network: { use: 'host', phases: NETWORK_PHASES },
      postinstall: true,
    },
  );
  t.is(report.failure, undefined, String(report.failure));
  const logs = await Promise.all(['build.log', 'root.log'].map((name) => resultFile(report, name)));
  const said = logs.join('\n');
  for (const phase of ['prep', 'buildrequires', 'build', 'install', 'check', 'post']) {
    const found = said.match(new RegExp(`^${phase} (.*)$`, 'm'))?.[1];
    t.is(found, CLOSED, phase);
  }
});
