/** What kiln.yaml says beside `users:`: values of options that nobody gives, and where downloads come from. */
import { z } from 'zod';
import { HOST_PIDS, pidNamespace } from '../host/process/process.ts';
import { leaveKeys } from '../options/leave-keys.ts';
import { LIMITS, SANDBOX } from '../options/sandbox.ts';
import * as texts from '../options/texts.ts';
import { keysOf, yaml } from '../options/yaml.ts';

/** A folder that a file is read in has no meaning for a default: the caller may be anywhere. */
const image = z
  .string()
  .min(1)
  .refine((name) => name.startsWith('/') || !/\/|\.(?:ya?ml|json|cfg)$/.test(name), {
    message: 'neither the name or id of an image nor an absolute path',
  });

const network = yaml(texts.network).refine((name) => name !== 'host', {
  message: 'host takes the isolation of the network away: give --network host where it is needed',
});

export const defaultsSchema = z.strictObject({
  image: image.optional().describe('As -r and KILN_IMAGE'),
  ...keysOf(LIMITS),
  isolation: yaml(SANDBOX.isolation.kind).optional().describe('As --isolation of `kiln run`'),
  network: network.optional().describe('As --network of `kiln run`'),
  'detach-keys': yaml(leaveKeys).optional().describe('As --detach-keys of `kiln attach`'),
  parked: z
    .int()
    .min(0)
    .max(100)
    .optional()
    .describe('How many sandboxes kilnd keeps parked, as KILN_PARKED; root’s file only'),
  'parked-vms': z
    .int()
    .min(0)
    .max(100)
    .optional()
    .describe('How many machines kilnd keeps parked, as KILN_PARKED_VMS; root’s file only'),
});

/**
 * How many sandboxes kilnd keeps parked unless somebody says otherwise: none in a container, where all ends at once
 * with the first process. A controller of libvirt's that dies while its domain asks it for /proc/meminfo leaves a
 * process that nobody can kill, and the container never ends.
 */
export function usuallyParked(): number {
  return pidNamespace() === HOST_PIDS ? 2 : 0;
}

export type DefaultKey = keyof z.output<typeof defaultsSchema>;

/** The last character is a slash: `https://a.example` is not the beginning of `https://a.example.org`. */
const base = z.string().transform((text, context) => {
  const url = URL.parse(text);
  if (url !== null && /^https?:$/.test(url.protocol) && `${url.username}${url.search}` === '') {
    return url.href.endsWith('/') ? url.href : `${url.href}/`;
  }
  const message = `not the beginning of URLs, as https://HOST/FOLDER/ without a login: ${text}`;
  context.addIssue({ code: 'custom', message });
  return z.NEVER;
});

const proxy = z
  .string()
  .refine((text) => /^https?:$/.test(URL.parse(text)?.protocol ?? ''), 'not a URL of a proxy')
  .optional();

export const repositoriesSchema = z.strictObject({
  mirrors: z
    .record(base, z.array(base).min(1, 'name a place, or leave it out').max(50))
    .default({})
    .describe('Where to download what lies below a URL: the places instead, tried in turn'),
  proxy: z
    .strictObject({
      http: proxy,
      https: proxy,
      no_proxy: z.array(z.string().regex(/^[^\s,]+$/, 'a host, without , and space')).optional(),
    })
    .prefault({})
    .describe('As http_proxy, https_proxy and no_proxy, which count first'),
});

export type Repositories = z.output<typeof repositoriesSchema>;
