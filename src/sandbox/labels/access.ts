import { closeSync, openSync, readFileSync, readSync, writeSync } from 'node:fs';

const SELINUX = '/sys/fs/selinux';

/** An answer is six numbers: security/selinux/selinuxfs.c, sel_write_access. */
const ANSWER_BYTES = 256;

function numberIn(path: string): number {
  return Number(readFileSync(`${SELINUX}/class/process/${path}`, 'latin1'));
}

/** Whether the policy that is loaded lets a process of one context start programs as the other. */
export function mayTransition(from: string, to: string): boolean {
  const fd = openSync(`${SELINUX}/access`, 'r+');
  try {
    writeSync(fd, `${from} ${to} ${numberIn('index')}`);
    const answer = Buffer.alloc(ANSWER_BYTES);
    const [allowed = ''] = answer.toString('latin1', 0, readSync(fd, answer)).split(' ');
    return ((Number.parseInt(allowed, 16) >>> (numberIn('perms/transition') - 1)) & 1) === 1;
  } finally {
    closeSync(fd);
  }
}
