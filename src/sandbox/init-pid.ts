import { readFileSync } from 'node:fs';
import type { Domain } from '../libvirt/domain.ts';

/**
 * The pid of the init of a domain that was just started, without connecting to it; undefined where
 * the kernel does not list children (CONFIG_PROC_CHILDREN, proc_tid_children(5)).
 */
export async function initPidOf(domain: Domain): Promise<number | undefined> {
  const controller = await domain.id();
  try {
    const children = readFileSync(`/proc/${controller}/task/${controller}/children`, 'latin1');
    return Number(children.trim().split(' ')[0]) || undefined;
  } catch {
    return undefined;
  }
}
