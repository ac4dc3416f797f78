/** What of a chain is there already, as its steps see it. */
import { join } from 'node:path';
import { packageFiles } from '../jobs/chain/build-member.ts';
import { type MemberRecord, packagesAreThere, type Records } from '../jobs/chain/records.ts';
import { Results } from '../jobs/chain/results.ts';
import type { FarmChain, FarmFiles, FarmMember } from './chain.ts';

/** The record of an earlier build of this very source, with these options. */
export function recordOf(
  { optionsDigest }: Pick<FarmChain, 'optionsDigest'>,
  { name, sha256 }: Pick<FarmMember, 'name' | 'sha256'>,
  records: Records,
): MemberRecord | undefined {
  const record = records.built(name);
  return record?.source === sha256 && record.options === optionsDigest ? record : undefined;
}

/** Whether a member needs no more building in this round: it did not at its beginning, or its step has ended well. */
export function isDone(files: FarmFiles, { node, current }: FarmMember): boolean {
  if (node === null) return current;
  const outcome = files.outcome(node);
  return outcome !== undefined && outcome.state !== 'failed';
}

/** The chain's repository with the packages of all members that are done. Dispose of it. */
export async function resultsOf(
  chain: FarmChain,
  records: Records,
  done: (member: FarmMember) => boolean,
): Promise<Results> {
  const all = chain.members.flatMap((member) => {
    const record = recordOf(chain, member, records);
    return record === undefined ? [] : [{ member, record }];
  });
  const keep = all.flatMap(({ record }) => record.snapshot ?? []);
  const results = new Results(join(chain.resultDirectory, 'repository'), keep);
  const added: [string, ReturnType<typeof packageFiles>][] = [];
  for (const { member, record } of all) {
    const directory = join(chain.resultDirectory, member.name);
    if (!done(member) || !(await packagesAreThere(directory, record))) continue;
    added.push([member.name, packageFiles(directory, record)]);
  }
  await results.add(added);
  return results;
}
