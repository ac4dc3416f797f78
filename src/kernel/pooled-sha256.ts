/** SHA-256 by the OpenSSL that Node brings along, in a thread of Node's pool. Source: EVP_DigestInit(3). */
import { createHash } from 'node:crypto';
import koffi from 'koffi';

/** A digest of what is handed over piece by piece. */
export interface PooledSha256 extends Disposable {
  /**
   * Takes the next piece, one at a time: not before the promise of the one before is fulfilled, and until
   * then nobody may change it.
   */
  update(piece: Buffer): Promise<void>;
  /** The digest of all pieces, hex; once. */
  digest(): string;
}

/** What Node's program exports for its addons, and some builds of it do not. */
function loadOpenssl() {
  const node = koffi.load(null);
  return {
    make: node.func('void *EVP_MD_CTX_new(void)'),
    free: node.func('void EVP_MD_CTX_free(void *context)'),
    sha256: node.func('const void *EVP_sha256(void)'),
    begin: node.func('int EVP_DigestInit_ex(void *context, const void *type, void *engine)'),
    update: node.func('int EVP_DigestUpdate(void *context, const void *data, size_t size)'),
    end: node.func('int EVP_DigestFinal_ex(void *context, void *digest, void *size)'),
  };
}

const BYTES = 32;

/** So few are done sooner than a thread of the pool wakes up. */
const FEW = 64 * 1024;

type Openssl = ReturnType<typeof loadOpenssl>;

let openssl: Openssl | null | undefined;

/**
 * A new one; where Node's OpenSSL cannot be called by others, the caller's own thread does the work.
 * @throws Error if there is no memory for it, or OpenSSL may not compute it
 */
export function pooledSha256(): PooledSha256 {
  if (openssl === undefined) {
    try {
      openssl = loadOpenssl();
    } catch {
      openssl = null;
    }
  }
  return openssl === null ? sha256InThisThread() : sha256Of(openssl);
}

function sha256Of({ make, free, sha256, begin, update, end }: Openssl): PooledSha256 {
  const context: unknown = make();
  if (context === null) throw new Error('there is no memory for a digest');
  const checked = (done: number): void => {
    if (done !== 1) throw new Error('OpenSSL cannot compute SHA-256');
  };
  try {
    checked(begin(context, sha256(), null));
  } catch (error) {
    free(context);
    throw error;
  }
  return {
    update: (piece) =>
      new Promise((resolve, reject) => {
        if (piece.length <= FEW) {
          checked(update(context, piece, piece.length));
          return resolve();
        }
        update.async(context, piece, piece.length, (error: Error | null, done: number) => {
          try {
            if (error) throw error;
            checked(done);
            resolve();
            // Captured, and so kept alive until now: koffi has only its address.
            void piece;
          } catch (failure) {
            reject(failure);
          }
        });
      }),
    digest() {
      const bytes = Buffer.alloc(BYTES);
      checked(end(context, bytes, null));
      return bytes.toString('hex');
    },
    [Symbol.dispose]: () => free(context),
  };
}

/** The same, for where it cannot be done elsewhere. */
export function sha256InThisThread(): PooledSha256 {
  const hash = createHash('sha256');
  return {
    update: async (piece) => void hash.update(piece),
    digest: () => hash.digest('hex'),
    [Symbol.dispose]: () => undefined,
  };
}
