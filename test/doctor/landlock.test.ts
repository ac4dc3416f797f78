/** Landlock really goes away: a seccomp filter answers its system call as a kernel without it does. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { execa } from 'execa';
import { landlockFinding } from '../../src/doctor/checks/kernel.ts';

const kiln = join(import.meta.dirname, '../../bin/kiln');
const SYS_landlock_create_ruleset = 444;
const EOPNOTSUPP = 95;

/**
 * prctl(PR_SET_NO_NEW_PRIVS), prctl(PR_SET_SECCOMP) with a filter of four instructions: load the
 * call's number, compare, refuse, allow (seccomp(2), linux/bpf_common.h); then what follows.
 */
const WITHOUT_LANDLOCK = `
  my $prctl = (POSIX::uname())[4] eq "x86_64" ? 157 : 167;
  my $code = pack("SCCL" x 4, 0x20,0,0,0, 0x15,0,1,${SYS_landlock_create_ruleset},
    0x06,0,0,0x00050000|${EOPNOTSUPP}, 0x06,0,0,0x7fff0000);
  syscall($prctl, 38, 1, 0, 0, 0) == 0 or die $!;
  syscall($prctl, 22, 2, pack("Sx6P", 4, $code), 0, 0) == 0 or die $!;
  exec @ARGV;`;

async function doctor(without: boolean, env: NodeJS.ProcessEnv = {}) {
  const folder = await mkdtemp(join(tmpdir(), 'kiln-landlock-'));
  try {
    const command = [kiln, 'doctor', '--json', 'landlock'];
    const under = without ? ['perl', '-MPOSIX', '-e', WITHOUT_LANDLOCK] : ['env'];
    const [file = 'perl', ...args] = [...under, ...command];
    const { stdout, stderr, exitCode } = await execa(file, args, {
      env: { KILN_STATE: folder, KILN_ALLOW_MISSING: undefined, ...env },
      reject: false,
    });
    return { ...JSON.parse(stdout || stderr).checks[0], exitCode };
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

test.serial('without Landlock in the kernel every job fails, unless that is allowed', async (t) => {
  const missing = await doctor(true);
  t.is(missing.status, 'fail');
  t.is(missing.exitCode, 1);
  t.is(missing.found, 'the kernel has no Landlock');
  t.regex(missing.problem, /refuses/);
  t.regex(missing.mend, /landlock in lsm=.*KILN_ALLOW_MISSING=landlock/);
  const allowed = await doctor(true, { KILN_ALLOW_MISSING: 'landlock' });
  t.is(allowed.status, 'warn');
  t.is(allowed.exitCode, 0);
  t.regex(allowed.problem, /nothing else stops/);
});

test.serial('the ABI is the one that the system call reports', async (t) => {
  const raw = await execa('perl', ['-e', `print syscall(${SYS_landlock_create_ruleset}, 0, 0, 1)`]);
  const abi = Number(raw.stdout);
  const check = await doctor(false);
  t.is(check.status, abi < 1 ? 'fail' : abi < 6 ? 'warn' : 'ok');
  if (abi > 0) t.true(check.found.startsWith(`Landlock, ABI ${abi}`), check.found);
});

test('an older ABI is reported with the walls it lacks, and what they are for', (t) => {
  const old = landlockFinding(3, false);
  t.is(old.status, 'warn');
  t.regex(old.problem ?? '', /--seccomp strict.*--network host.*no-tcp, abstract-sockets/);
  t.regex(old.mend ?? '', /6\.12/);
  const newer = landlockFinding(5, false);
  t.notRegex(newer.problem ?? '', /strict/);
  t.regex(newer.problem ?? '', /--network host/);
  t.is(landlockFinding(6, false).status, 'ok');
});
