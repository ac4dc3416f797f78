import { Command } from 'commander';
import { storeUsage } from '../image/store/gc.ts';
import { cacheUsage } from '../packages/repository/prune.ts';
import type { Caller } from './caller/caller.ts';
import { printJson } from './output/print.ts';
import {
  type Columns,
  formatOption,
  type ListOptions,
  printRows,
  sizeText,
} from './output/table.ts';

const EXAMPLES = `
UNUSED is the size of images that are not in use, of packages without an image, and of all downloads. Files
that images share with packages count for the packages.

Examples:
  kiln df
  kiln df --json | jq '.[] | {type, bytes}'`;

interface Usage {
  readonly type: 'images' | 'packages' | 'downloads';
  readonly count: number;
  readonly bytes: number;
  readonly unusedBytes: number;
}

const COLUMNS: Columns<Usage> = [
  ['TYPE', ({ type }) => type],
  ['COUNT', ({ count }) => String(count)],
  ['SIZE', ({ bytes }) => sizeText(bytes)],
  ['UNUSED', ({ unusedBytes }) => sizeText(unusedBytes)],
];

/** `kiln df`. */
export function command(caller: Caller): Command {
  return new Command('df')
    .description('Show the size of images, packages and downloads on the disk.')
    .option('--json', 'print one JSON array instead of a table')
    .addOption(formatOption())
    .addHelpText('after', EXAMPLES)
    .action(async (options: ListOptions) => {
      await using engine = caller.openEngine();
      const { images, imagesNotInUse, packages, packagesWithoutImage } = await storeUsage(
        engine.paths,
      );
      const { files, bytes } = await cacheUsage(engine.paths);
      const rows: Usage[] = [
        { type: 'images', ...images, unusedBytes: imagesNotInUse.bytes },
        { type: 'packages', ...packages, unusedBytes: packagesWithoutImage.bytes },
        { type: 'downloads', count: files, bytes, unusedBytes: bytes },
      ];
      if (options.json === true) printJson(caller.stdout, rows);
      else printRows(caller.stdout, COLUMNS, rows, options);
    });
}
