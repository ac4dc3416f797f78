/** Runs a command under a filter that refuses system calls: `without-calls-child.ts CALL[,CALL…] COMMAND…`. */
import { spawnSync } from 'node:child_process';
import { refuseSystemCalls } from '../../src/host/process/seccomp.ts';

const [calls = '', command = '', ...args] = process.argv.slice(2);
refuseSystemCalls(calls.split(','))();
process.exitCode = spawnSync(command, args, { stdio: 'inherit' }).status ?? 1;
