import { isMeant, listJobs } from '../detached/record.ts';
import { isKilnCode, KilnError } from '../errors.ts';
import { isNamed, listSandboxes } from '../sandbox/domain/sandbox-record.ts';
import type { Caller } from './caller/caller.ts';
import { imageJson } from './images/image.ts';
import { KilnCommand } from './options/command.ts';
import { printJson } from './output/print.ts';
import { jsonFormat } from './output/table.ts';
import { jobJson, sandboxJson, shown } from './sandboxes.ts';

export function command(caller: Caller): KilnCommand {
  return new KilnCommand('inspect')
    .description(
      'Print what is known of a sandbox, a job or an image, as a JSON array: each has its `type`. A word that means jobs or sandboxes means no image.',
    )
    .argument('<id...>', 'ids, their first digits, names')
    .rows({ format: jsonFormat('as always') })
    .examples('kiln inspect 3fa9', 'kiln inspect debian-build | jq -r ".[].environment.PATH"')
    .action(async (words: string[]) => {
      const found: object[] = [];
      for (const word of words) found.push(...(await meant(word, caller)));
      printJson(caller.stdout, found, 2);
    });
}

/** Everything that a word means. @throws KilnError E_IMAGE_MISSING, E_IMAGE_AMBIGUOUS */
async function meant(word: string, caller: Caller): Promise<object[]> {
  await using engine = caller.openEngine();
  const { paths, owner } = engine;
  const isId = (id: string) => word !== '' && id.startsWith(word);
  const jobs = (await listJobs(paths, owner)).filter((job) => isMeant(job, word, owner));
  const sandboxes = (await listSandboxes(paths, { owner })).filter(
    (sandbox) =>
      sandbox.state !== 'parked' &&
      (isId(sandbox.id) ||
        isNamed(sandbox, word, owner) ||
        jobs.some(({ record }) => record.sandbox === sandbox.id)),
  );
  const found = [
    ...jobs.map((job) => ({ type: 'job', ...jobJson(job) })),
    ...sandboxes.map((one) => ({ type: 'sandbox', ...sandboxJson(shown(one, paths)) })),
  ];
  if (found.length > 0) return found;
  try {
    return [{ type: 'image', ...(await imageJson(engine, word)) }];
  } catch (cause) {
    if (!isKilnCode(cause, 'E_IMAGE_MISSING')) throw cause;
    throw new KilnError('E_IMAGE_MISSING', `there is no sandbox, job or image ${word}`, {
      hint: '`kiln ps -a` lists sandboxes and jobs, `kiln image ls` images',
      cause,
    });
  }
}
