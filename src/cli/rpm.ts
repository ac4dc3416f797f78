import { Command } from 'commander';
import type { Caller } from './caller/caller.ts';
import { queryCommand } from './rpm/query.ts';
import { unpackCommand } from './rpm/unpack.ts';
import { verifyCommand } from './rpm/verify.ts';

/** `kiln rpm`. */
export function command(caller: Caller): Command {
  return new Command('rpm')
    .description('Query, verify and unpack .rpm files in a confined process, without rpm.')
    .addHelpText(
      'after',
      `
Examples:
  kiln rpm query bash-5.2.37-2.x86_64.rpm
  kiln rpm verify --keyring RPM-GPG-KEY-vendor *.rpm
  kiln rpm unpack -C root *.rpm`,
    )
    .addCommand(queryCommand(caller))
    .addCommand(verifyCommand(caller))
    .addCommand(unpackCommand(caller));
}
