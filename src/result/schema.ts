/**
 * result.json: what came of a job, for machines; docs/result.md explains it. Within one `version` fields are
 * only ever added; a reader must ignore those it does not know.
 */

import { z } from 'zod';
import { KilnError } from '../errors.ts';
import { ISOLATION } from '../sandbox/policy/ground-kinds.ts';

const count = z.int().min(0);
const milliseconds = z.number().min(0);
const sha256 = z.string().regex(/^[0-9a-f]{64}$/);

const phase = z
  .object({
    name: z.string().describe('what went on: image, sandbox, start, command, artifacts, …'),
    startMs: milliseconds.describe('from the beginning of the job'),
    durationMs: milliseconds,
  })
  .describe('one part of the job; a failed one is here, too');

const exit = z.union([
  z.object({ code: z.int().min(0).max(255) }).describe('the command ended with this status'),
  z.object({ signal: z.string().regex(/^SIG/) }).describe('a signal ended the command'),
]);

const failure = z
  .object({
    code: z.string().regex(/^E_/).describe('stable, to match on'),
    message: z.string(),
    phase: z.string().describe('the phase it happened in'),
    hint: z.string().optional().describe('what to do next'),
    causes: z.array(z.string()).describe('why, from the nearest cause to the first'),
    details: z.record(z.string(), z.unknown()).optional().describe('facts that depend on the code'),
    lastLines: z.array(z.string()).describe('the end of the log of what failed, oldest first'),
  })
  .describe('kiln itself could not do what was asked');

const mount = z.object({ path: z.string(), type: z.string(), options: z.array(z.string()) });

const limits = z
  .object({
    memory: count.optional().describe('bytes'),
    cpus: z.number().optional().describe('processors’ worth of time'),
    pids: count.optional().describe('processes and threads'),
    io: z
      .array(
        z.object({
          device: z.string().describe('MAJOR:MINOR of a whole disk'),
          read: count.optional(),
          write: count.optional(),
        }),
      )
      .optional()
      .describe('bytes per second, for each disk that the sandbox reaches'),
  })
  .describe('as the files of the sandbox’s cgroups have them; what is absent is unlimited');

const refusedCall = z
  .object({
    syscall: z.string(),
    action: z.string().describe('the errno it got, or KILL'),
    count: z.int().min(1),
  })
  .describe('a kind of system call that the seccomp filter refused');

const refusedPath = z
  .object({
    path: z
      .string()
      .describe('in the sandbox, as the command wrote it where its folder is unknown'),
    syscall: z.string(),
    error: z.string().describe('EACCES, EPERM or EROFS'),
    count: z.int().min(1),
  })
  .describe('a path that the kernel refused to the command or its children');

const label = z
  .object({ module: z.enum(['selinux', 'apparmor']), label: z.string(), enforcing: z.boolean() })
  .nullable()
  .optional();

const policy = z
  .object({
    namespaces: z.array(z.string()).describe('those that are not the host’s'),
    uidMap: z
      .tuple([z.int(), z.int(), z.int()])
      .describe('first id in the sandbox, first id on the host, how many'),
    gidMap: z.tuple([z.int(), z.int(), z.int()]).optional(),
    interfaces: z.array(z.string()).describe('network interfaces in the sandbox'),
    mounts: z.array(mount),
    masked: z.array(z.string()).optional().describe('paths that show nothing'),
    readOnlyPaths: z.array(z.string()).optional().describe('the kernel’s, not to be written to'),
    devices: z.array(z.string()).optional().describe('device nodes in /dev'),
    namespaceLimit: count
      .nullable()
      .optional()
      .describe('how many namespaces of a kind can be made; null is no limit'),
    uid: count,
    gid: count,
    groups: z.array(count),
    noNewPrivileges: z.boolean(),
    seccomp: z.enum(['none', 'strict', 'filter']),
    label: label.describe('a context, or a profile’s name; null on a host with neither'),
    initLabel: label.describe('of the sandbox’s init'),
    landlock: z
      .object({ abi: z.int().min(1), walls: z.array(z.string()) })
      .nullable()
      .optional()
      .describe('tried before the command started; null is none'),
    setIdRefused: z
      .boolean()
      .optional()
      .describe(
        'tried: no file gets a set-id bit; so wherever files of the host can be written to',
      ),
    limits: limits.optional(),
    isolation: z
      .enum(ISOLATION)
      .optional()
      .describe('what the sandbox stands on: the host’s kernel, or one of its own'),
    machine: z
      .object({
        kernel: z.string().describe('release of its kernel'),
        kvm: z.boolean().describe('false: the layer kvm is missing, qemu emulates the processor'),
        label: label.describe('of qemu; null where the host has no security module'),
      })
      .optional()
      .describe('of a vm, as seen from the host'),
    capabilities: z.object({
      bounding: z.array(z.string()),
      effective: z.array(z.string()),
    }),
  })
  .describe(
    'what was measured inside the sandbox before the command started, not what was planned',
  );

const egress = z
  .object({
    host: z.string(),
    port: count,
    refused: z.string().optional().describe('why it was not given; absent: it was'),
    count: count.describe('connections'),
    sentBytes: count,
    receivedBytes: count,
  })
  .describe('a host that the command asked the proxy for');

const resources = z
  .object({
    cpuUserMs: milliseconds.optional(),
    cpuSystemMs: milliseconds.optional(),
    cpuMs: milliseconds.optional().describe('user and system together'),
    peakMemoryBytes: count.optional().describe('page cache and tmpfs included'),
    oomKills: count.optional().describe('processes killed for the memory limit'),
    peakPids: count.optional(),
    forksRefused: count.optional().describe('for the limit of processes'),
    readBytes: count.optional().describe('from block devices'),
    writtenBytes: count
      .optional()
      .describe('to block devices: on cgroup v1 when made dirty, on v2 when written back'),
  })
  .describe('of all processes of the sandbox; a number the kernel does not give is absent');

const sample = z
  .object({
    ms: milliseconds.describe('from the beginning of the job'),
    cpuMs: milliseconds.describe('of processors, until then'),
    memory: count.describe('bytes in use'),
    read: count.describe('bytes from block devices, until then'),
    written: count.describe('bytes to block devices, until then'),
  })
  .describe('what the processes of the sandbox had used at one moment');

const artifact = z.object({
  path: z.string().describe('below the result folder; U+FFFD stands for what is not UTF-8'),
  pathBytes: z.base64().optional().describe('the exact path, only where it is not UTF-8'),
  source: z.string().describe('where it was in the sandbox'),
  type: z.enum(['file', 'directory', 'symlink']),
  size: count.describe('bytes, holes included; 0 for a folder'),
  sha256: sha256.optional().describe('of a file'),
  target: z.string().optional().describe('of a symbolic link'),
  targetBytes: z.base64().optional(),
  mode: z.string().regex(/^0[0-7]{3,4}$/),
  mtime: z.iso.datetime(),
  hardLinkTo: z.string().optional().describe('path of the artifact it is a hard link to'),
  changed: z.literal(true).optional().describe('it changed while being read'),
});

const warning = z.object({
  code: z.string().describe('stable, to match on'),
  message: z.string(),
  path: z.string().optional().describe('the file it is about, in the sandbox'),
  pathBytes: z.base64().optional(),
});

const builtPackage = z.object({
  file: z.string().describe('in the result folder'),
  nevra: z.string().describe('name-[epoch:]version-release.arch, epoch 0 left out'),
  sha256,
  size: count.describe('bytes'),
});

const build = z
  .object({
    name: z.string().describe('of the source package'),
    nvr: z.string().optional().describe('its name, version and release, where it said them'),
    base: z.object({ id: z.string(), name: z.string() }).nullable(),
    buildRequires: z.array(z.string()).describe('static and dynamic, as the spec has them'),
    packages: z.array(builtPackage),
    sourcePackage: builtPackage.nullable(),
    kept: z.boolean().describe('the sandbox is still there: kiln shell ID'),
    differences: z
      .array(
        z.object({
          package: z.string(),
          what: z.string(),
          path: z.string().optional(),
          detail: z
            .array(z.string())
            .optional()
            .describe('of content: what only the first (-) or only the second build (+) has'),
        }),
      )
      .optional()
      .describe('what a second build gave that the first did not: of --verify'),
  })
  .describe('of kiln build: what was made of a source package');

const resultSchema = z
  .object({
    // Goes up when a field changes its meaning or disappears.
    version: z.literal(1),
    kiln: z.string().describe('version of kiln'),
    id: z.string().nullable().describe('of the sandbox; null when there was none'),
    startedAt: z.iso.datetime(),
    durationMs: milliseconds,
    exitStatus: z.int().min(0).max(255).describe('what kiln exited with'),
    exit: exit.nullable().describe('how the command ended; null when it did not start'),
    limitHit: z
      .enum(['timeout', 'stall', 'memory', 'pids', 'disk'])
      .nullable()
      .describe('the limit that ended the command or got in its way'),
    failure: failure.nullable(),
    request: z
      .record(z.string(), z.unknown())
      .describe(
        'what was asked for, as Run and Build of the API call it, in bytes and milliseconds; of environment variables, secrets and parameters only the names',
      ),
    planDigest: sha256.describe('same request, same image: same digest'),
    image: z
      .object({
        id: z.string(),
        name: z.string(),
        arch: z.string().optional().describe('of its packages, as rpm calls it'),
      })
      .nullable(),
    policy: policy.nullable().describe('null when no sandbox was measured'),
    refusedCalls: z
      .array(refusedCall)
      .optional()
      .describe('to the command and its children; 32 kinds at most, absent when nobody counted'),
    refusedPaths: z
      .array(refusedPath)
      .optional()
      .describe('when they were asked for: 100 at most; absent when nobody listened'),
    egress: z
      .array(egress)
      .optional()
      .describe('of --egress: at most 200 hosts, the others together; absent: there was no proxy'),
    phases: z.array(phase).describe('in the order in which they ended'),
    resources,
    samples: z.array(sample).optional().describe('at most 1,000, by time; absent: nobody sampled'),
    artifacts: z.array(artifact).describe('sorted by path'),
    warnings: z.array(warning),
    build: build.optional(),
  })
  .meta({ title: 'kiln result', $id: 'https://kiln.invalid/result.schema.json' });

type Fixed<T> = T extends object ? { readonly [Key in keyof T]: Fixed<T[Key]> } : T;

export type Result = Fixed<z.output<typeof resultSchema>>;

export function resultJsonSchema(): unknown {
  return z.toJSONSchema(resultSchema, { io: 'input', target: 'draft-2020-12' });
}

/** Anybody may have written it. @param path for messages @throws KilnError E_RESULT */
export function readResult(text: string, path: string): Result {
  try {
    return resultSchema.parse(JSON.parse(text));
  } catch (cause) {
    throw new KilnError('E_RESULT', `${path} is not a result of this version of kiln`, {
      cause: cause instanceof z.ZodError ? new Error(z.prettifyError(cause)) : cause,
      hint: 'name a result folder as a job left it',
    });
  }
}
