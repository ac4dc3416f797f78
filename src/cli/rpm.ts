import { Command } from 'commander';
import { queryCommand } from './rpm/query.ts';
import { unpackCommand } from './rpm/unpack.ts';
import { verifyCommand } from './rpm/verify.ts';

/** `kiln rpm`. */
export function command(): Command {
  return new Command('rpm')
    .description('Query, verify and unpack .rpm files, without rpm and without trusting them.')
    .addCommand(queryCommand())
    .addCommand(verifyCommand())
    .addCommand(unpackCommand());
}
