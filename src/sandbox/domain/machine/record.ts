import type { RecordedProcess } from '../../../host/process/recorded-process.ts';
import type { Accelerator } from './machine-xml.ts';

/** What sandbox.json has of a machine. Bytes. */
export interface MachineRecord {
  readonly relay: RecordedProcess;
  /** Whom qemu runs as. */
  readonly user: number;
  readonly accelerator: Accelerator;
  /** Of the guest's kernel. */
  readonly release: string;
  /** What the guest has, and what of it the sandbox may have. */
  readonly memory: number;
  readonly sandboxMemory: number;
}
