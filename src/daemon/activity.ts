import { EventEmitter } from 'node:events';

/** Whether anybody wants anything of the daemon: connections, commands, sandboxes that stay open. */
export class Activity extends EventEmitter<{ idle: [isIdle: boolean] }> {
  #held = 0;

  /** Something is wanted, until disposed of. */
  hold(): Disposable {
    this.#held++;
    if (this.#held === 1) this.emit('idle', false);
    const held = new DisposableStack();
    held.defer(() => {
      this.#held--;
      if (this.#held === 0) this.emit('idle', true);
    });
    return held;
  }
}
