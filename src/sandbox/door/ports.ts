import { some } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { attempt } from '../../host/calls/libc.ts';
import type { SandboxDomain } from '../domain/sandbox-domain.ts';
import { type Publication, publishPort } from '../network/publish.ts';
import { formatPublish, type PublishedPort } from '../policy/network.ts';

/** Ports of this host that lead into a sandbox, as long as somebody holds it. */
export class SandboxPorts {
  readonly #domain: SandboxDomain;
  readonly #isHosts: boolean;
  readonly #published = new Set<Publication>();

  /** @param isHosts whether the sandbox is in the host's network */
  constructor(domain: SandboxDomain, isHosts: boolean) {
    this.#domain = domain;
    this.#isHosts = isHosts;
  }

  /** All of them, or none, until what this returns is disposed of. @throws KilnError E_PUBLISH, E_MACHINE */
  async publish(ports: readonly PublishedPort[]): Promise<AsyncDisposable> {
    if (ports.length > 0 && this.#isHosts) {
      throw new KilnError('E_ARGUMENT', 'a sandbox in the host’s network has its ports already', {
        hint: 'leave out --publish, or --network host',
      });
    }
    const own: Publication[] = [];
    const close = async () => {
      for (const each of own) {
        this.#published.delete(each);
        await each[Symbol.asyncDispose]();
      }
    };
    try {
      for (const port of ports) {
        own.push(await publishPort(port, (inside) => this.#domain.ground.connect(inside)));
      }
      for (const each of own) this.#published.add(each);
      if (own.length > 0) this.#notePorts();
    } catch (error) {
      await close();
      throw error;
    }
    return {
      [Symbol.asyncDispose]: async () => {
        await close();
        // It may be gone by now.
        if (own.length > 0) attempt(() => this.#notePorts());
      },
    };
  }

  #notePorts(): void {
    const ports = [...this.#published].map(({ port }) => formatPublish(port));
    this.#domain.describe({ publish: some(ports) });
    this.#domain.writeRecord();
  }

  async close(): Promise<void> {
    const published = [...this.#published];
    this.#published.clear();
    for (const each of published) await each[Symbol.asyncDispose]();
    this.#domain.describe({ publish: undefined });
  }
}
