import { openSync, readFileSync, readSync, writeSync } from 'node:fs';
import { KilnError } from '../../errors.ts';
import { closing } from '../../host/calls/descriptor.ts';
import type { StatePaths } from '../../host/state/paths.ts';
import { type Owner, releaseReservation, reserve } from '../../host/state/reservation.ts';
import type { LabelRequest } from '../policy/label-request.ts';
import type { PrepareOperation } from '../wire/table.ts';
import { ensureProfiles } from './apparmor.ts';
import { ownLabel, type SandboxLabels, securityModule, selinuxEnforces } from './module.ts';
import {
  allocatePair,
  atLevel,
  CONTROLLER,
  fileContext,
  levelOf,
  pairDirectory,
  pairOf,
  processContext,
  requireContext,
} from './selinux.ts';

function missingError(what: string, hint: string): KilnError {
  return new KilnError('E_LAYER_MISSING', what, { hint, details: { layer: 'label' } });
}

export function requirePolicy(request: LabelRequest): void {
  if (request.kind === 'none' || securityModule() !== 'selinux') return;
  requireContext(processContext('init', 'c0,c1'));
}

/** Reserves the categories for `owner`. Throws E_LAYER_MISSING when the wanted label cannot be in force, E_NO_MCS. */
export async function reserveLabels(
  paths: StatePaths,
  request: LabelRequest,
  owner: Owner,
): Promise<SandboxLabels | undefined> {
  if (request.kind === 'none') return undefined;
  const module = securityModule();
  if (module === undefined) {
    if (request.kind === 'auto') return undefined;
    throw missingError(
      `--label ${request.kind}: this host has neither SELinux nor AppArmor`,
      'leave the option away to have what the host has; `kiln doctor` tells what that is',
    );
  }
  if (module === 'apparmor') return await apparmorLabels(request);
  if (request.kind !== 'auto' && !selinuxEnforces()) {
    throw missingError(
      `--label ${request.kind}: SELinux only logs on this host`,
      'setenforce 1, or leave the option away to have labels that hold nobody back',
    );
  }
  return await selinuxLabels(paths, request, owner);
}

async function selinuxLabels(
  paths: StatePaths,
  request: Exclude<LabelRequest, { kind: 'none' }>,
  owner: Owner,
): Promise<SandboxLabels> {
  if (request.kind === 'inherit') {
    const whole = ownLabel('selinux') ?? '';
    // Of a range `low-high` kiln keeps the low level (relabel.ts): files have one level.
    const [level = 's0'] = levelOf(whole).split('-');
    const own = atLevel(whole, level);
    if (selinuxEnforces() && !mayTransition(CONTROLLER, own)) {
      throw missingError(
        `--label inherit: SELinux’ policy does not let ${CONTROLLER} start a sandbox as ${own}`,
        'leave the option away to have kiln’s types, or name one with `static:`',
      );
    }
    const files = fileContext(level);
    return { module: 'selinux', init: own, command: own, nested: own, files };
  }
  if (request.kind === 'static') {
    const level = levelOf(request.label);
    requireContext(request.label);
    const pair = pairOf(request.label);
    // Another sandbox may have the pair; the caller asked for exactly this label.
    const reserved = pair !== undefined && (await reserve(pairDirectory(paths), pair, owner));
    return {
      module: 'selinux',
      init: atLevel(processContext('init', ''), level),
      command: request.label,
      nested: request.label,
      files: fileContext(level),
      ...(reserved ? { pair } : {}),
    };
  }
  const base = request.kind === 'dynamic' ? request.label : undefined;
  requirePolicy(request);
  if (base !== undefined) requireContext(base);
  const pair = await allocatePair(paths, owner);
  const of = (type: 'command' | 'nested') =>
    base === undefined ? processContext(type, pair) : atLevel(base, `s0:${pair}`);
  return {
    module: 'selinux',
    init: processContext('init', pair),
    command: of('command'),
    nested: of('nested'),
    files: fileContext(`s0:${pair}`),
    pair,
  };
}

async function apparmorLabels(
  request: Exclude<LabelRequest, { kind: 'none' }>,
): Promise<SandboxLabels> {
  if (request.kind === 'dynamic' && request.label !== undefined) {
    throw missingError(
      `--label dynamic:${request.label}: AppArmor has no categories to add to it`,
      'on this host: auto, dynamic, static:PROFILE, inherit, none',
    );
  }
  if (request.kind === 'inherit') {
    const own = ownLabel('apparmor') ?? 'unconfined';
    return { module: 'apparmor', init: own, command: own, nested: own };
  }
  const profiles = await ensureProfiles(request.kind === 'static' ? request.label : undefined);
  return { module: 'apparmor', ...profiles };
}

export function labelsInside(labels: SandboxLabels, nested: boolean): SandboxLabels {
  return nested ? { ...labels, command: labels.nested } : labels;
}

/** None of its processes may be left. */
export async function releaseLabels(
  paths: StatePaths,
  labels: SandboxLabels | undefined,
  owner: Owner,
): Promise<void> {
  if (labels?.pair === undefined) return;
  await releaseReservation(pairDirectory(paths), labels.pair, owner);
}

export function labelOperation(labels: SandboxLabels | undefined): PrepareOperation[] {
  if (labels === undefined) return [];
  const { module, init, command, files = '' } = labels;
  return [{ op: 'label', module, init, command, files }];
}

const SELINUX = '/sys/fs/selinux';

/** The kernel's answer has six numbers: security/selinux/selinuxfs.c, sel_write_access. */
const ANSWER_BYTES = 256;

function numberIn(path: string): number {
  return Number(readFileSync(`${SELINUX}/class/process/${path}`, 'latin1'));
}

function mayTransition(from: string, to: string): boolean {
  using file = closing(openSync(`${SELINUX}/access`, 'r+'));
  writeSync(file.fd, `${from} ${to} ${numberIn('index')}`);
  const answer = Buffer.alloc(ANSWER_BYTES);
  const [allowed = ''] = answer.toString('latin1', 0, readSync(file.fd, answer)).split(' ');
  return ((Number.parseInt(allowed, 16) >>> (numberIn('perms/transition') - 1)) & 1) === 1;
}
