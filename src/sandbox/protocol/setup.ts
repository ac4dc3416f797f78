/**
 * The wire format between kiln and the guest init: see src/guest/protocol.h, whose numbers these
 * are. What a box is made of.
 */
import { FieldWriter, flag, text, u32, u64 } from './fields.ts';

const SETUP = 1;
const PREPARE = 14;

/** See src/guest/label.h. */
const LABEL_MODULE = { selinux: 1, apparmor: 2 } as const;

/** Who can write to a bind, and where that lands: see SETUP_BIND in src/guest/protocol.h. */
const ACCESS = { host: 0, readonly: 1, own: 2 } as const;

/** One step of building the box's file system, in order. Paths are absolute, inside the box. */
export type SetupOperation =
  | { readonly op: 'hostname'; readonly name: string }
  /** The image: descriptor number `fd` of the message. */
  | { readonly op: 'lower'; readonly fd: number }
  /** Upper and work directory on a tmpfs of `bytes` (0: half of the memory). */
  | { readonly op: 'scratch-tmpfs'; readonly bytes: number }
  | { readonly op: 'scratch'; readonly fd: number }
  | { readonly op: 'network' }
  | { readonly op: 'tmpfs'; readonly path: string; readonly mode: number; readonly bytes: number }
  | {
      readonly op: 'bind';
      readonly fd: number;
      readonly path: string;
      readonly readonly: boolean;
      /** What is written to it lies on the host, where others than root may find it. */
      readonly host: boolean;
      readonly directory: boolean;
    }
  | { readonly op: 'mask'; readonly path: string }
  | { readonly op: 'readonly'; readonly path: string }
  /** A file of /etc in a layer above the image, which is never written to. */
  | { readonly op: 'etc-file'; readonly name: string; readonly content: string }
  | { readonly op: 'file'; readonly path: string; readonly mode: number; readonly content: string }
  | {
      readonly op: 'directory';
      readonly path: string;
      readonly mode: number;
      readonly uid: number;
      readonly gid: number;
    }
  /** Mandatory access control: the init's label, each command's, and that of the box's files. */
  | {
      readonly op: 'label';
      readonly module: 'selinux' | 'apparmor';
      readonly init: string;
      readonly command: string;
      readonly files: string;
    }
  /** How many namespaces of each kind the box may still make. */
  | { readonly op: 'namespaces'; readonly most: number }
  | {
      readonly op: 'owned-file';
      readonly path: string;
      readonly mode: number;
      readonly uid: number;
      readonly gid: number;
      readonly content: Buffer;
    };

/** MSG_SETUP; the descriptors the operations name travel with it. */
export function encodeSetup(operations: readonly SetupOperation[]): Buffer {
  return encode(operations).message(SETUP);
}

/** What is made in a box before it is known what it is for. */
export type PrepareOperation = Extract<SetupOperation, { op: 'label' | 'mask' | 'readonly' }>;

/**
 * MSG_PREPARE, answered with `done`: the first message, with labels, and rules for /proc that hold if
 * the setup has the same ones in the same order. For `wait` seconds another runner may come with the setup.
 */
export function encodePrepare(
  operations: readonly PrepareOperation[],
  { wait }: { readonly wait: number },
): Buffer {
  const fields = encode(operations);
  if (wait > 0) fields.add(15, u32(wait));
  return fields.message(PREPARE);
}

function encode(operations: readonly SetupOperation[]): FieldWriter {
  const fields = new FieldWriter();
  for (const o of operations) {
    if (o.op === 'hostname') fields.add(1, text(o.name));
    else if (o.op === 'lower') fields.add(2, u32(o.fd));
    else if (o.op === 'scratch-tmpfs') fields.add(3, u64(o.bytes));
    else if (o.op === 'scratch') fields.add(4, u32(o.fd));
    else if (o.op === 'network') fields.add(5, u32(1));
    else if (o.op === 'tmpfs') fields.add(6, u32(o.mode), u64(o.bytes), text(o.path));
    else if (o.op === 'bind') {
      const access = o.readonly ? ACCESS.readonly : o.host ? ACCESS.host : ACCESS.own;
      fields.add(7, u32(o.fd), u32(access), flag(o.directory), text(o.path));
    } else if (o.op === 'mask') fields.add(8, text(o.path));
    else if (o.op === 'readonly') fields.add(9, text(o.path));
    else if (o.op === 'etc-file') fields.add(16, text(o.name), Buffer.from(o.content));
    else if (o.op === 'file') {
      fields.add(10, u32(o.mode), text(o.path), Buffer.from(o.content));
    } else if (o.op === 'directory') {
      fields.add(11, u32(o.mode), u32(o.uid), u32(o.gid), text(o.path));
    } else if (o.op === 'namespaces') fields.add(12, u32(o.most));
    else if (o.op === 'label') {
      const labels = [o.init, o.command, o.files].map(text);
      fields.add(14, u32(LABEL_MODULE[o.module]), ...labels);
    } else fields.add(13, u32(o.mode), u32(o.uid), u32(o.gid), text(o.path), o.content);
  }
  return fields;
}
