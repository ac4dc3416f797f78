import type { Accelerator } from './machine-xml.ts';
import type { RelayProcess } from './relay.ts';

/** What sandbox.json has of a machine. Bytes. */
export interface MachineRecord {
  readonly relay: RelayProcess;
  /** Whom qemu runs as. */
  readonly user: number;
  readonly accelerator: Accelerator;
  /** Of the guest's kernel. */
  readonly release: string;
  /** What the guest has, and what of it the sandbox may have. */
  readonly memory: number;
  readonly sandboxMemory: number;
}
