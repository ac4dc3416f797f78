/**
 * What is tried, what should stop it, and what the same attempt does when that is taken away. The
 * attempts themselves are the verbs of probe.c.
 */
import type { Attempt } from './attempt.ts';
import { callAttempts } from './attempts/calls.ts';
import { capabilityAttempts } from './attempts/capabilities.ts';
import { fileAttempts } from './attempts/files.ts';
import { idAttempts } from './attempts/ids.ts';
import { landlockAttempts } from './attempts/landlock.ts';
import { limitAttempts } from './attempts/limits.ts';
import { namespaceAttempts } from './attempts/namespaces.ts';
import { networkAttempts } from './attempts/network.ts';

export const attempts: readonly Attempt[] = [
  ...namespaceAttempts,
  ...fileAttempts,
  ...idAttempts,
  ...capabilityAttempts,
  ...callAttempts,
  ...landlockAttempts,
  ...limitAttempts,
  ...networkAttempts,
];
