/** A chain of three packages on a pool, told as `kiln build --chain --farm` tells it; it ends at a line on stdin. */
import { createInterface } from 'node:readline';
import { processCaller as caller } from '../../src/cli/caller/process-caller.ts';
import { farmHooks } from '../../src/cli/farm/chain.ts';
import { ChainTable } from '../../src/cli/rpmbuild/build-chain.ts';

type Member = Parameters<ReturnType<typeof farmHooks>['onMember']>[0];

function member(name: string, state: Member['state'], reason?: string): Member {
  const nothing = { source: '', needs: [], packages: [], outcome: undefined };
  const report = {
    ...{ exitStatus: 1, failure: undefined, failedPhase: undefined },
    lastLines: ['the last line'],
  };
  return {
    ...nothing,
    ...{ name, state, reason, resultDirectory: `/out/${name}`, durationMs: 1500 },
    ...{ exitStatus: 0, worker: 'node-1' },
    report: state === 'failed' ? report : undefined,
  };
}

caller.isQuiet = process.argv[2] === 'quiet';
const table = new ChainTable(3, caller);
const { onNote, onBuilding, onMember } = farmHooks(table, caller);
onNote('2 steps submitted');
onBuilding('liba', 'node-1');
onBuilding('libb', 'node-2');
for await (const _ of createInterface({ input: process.stdin })) {
  onMember(member('liba', 'built'));
  onMember(member('libb', 'failed', 'it failed'));
  onMember(member('app', 'skipped', 'it needs libb'));
  break;
}
table[Symbol.dispose]();
caller.stderr.say('the end\n');
process.stdin.destroy();
