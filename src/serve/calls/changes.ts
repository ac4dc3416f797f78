/** What kept sandboxes have changed, for programs: as `kiln diff`, `kiln apply` and `kiln discard`. */
import type { DiscardParameters } from '../../api/io-kiln.ts';
import {
  applyLayer,
  changeJson,
  discardLayer,
  type LayerRequest,
  pathJson,
  type Viewed,
  viewChanges,
  viewDifference,
} from '../../cli/layers.ts';
import type { Call } from '../../daemon/call.ts';
import type { OwnEngine } from '../../engine.ts';
import { KilnError } from '../../errors.ts';
import { patchOf } from '../../jobs/changes/patch.ts';
import type { Answer, CallContext } from './context.ts';
import { FIELDS } from './options.ts';

/** Changes of one reply, and bytes of a patch or of names: what a message has room for. */
const MOST = 1000;
const PIECE = 1 << 20;

export const answerDiff: Answer<'Diff'> = async (parameters, context) => {
  const { of, against, target = '/', paths = [], patch = false } = parameters;
  const { call } = context;
  await using engine = context.openEngine();
  const request = requestOf(engine, context, { sandbox: of, target, paths });
  const reply = (viewed: Viewed) => (patch ? patchReply : changesReply)(viewed, call);
  if (against === undefined) return await viewChanges(request, reply);
  if (target !== '/') {
    throw new KilnError('E_ARGUMENT', `against: a snapshot is of a root, and not of ${target}`, {
      hint: 'leave out target',
    });
  }
  return await viewDifference(request, against, reply);
};

async function changesReply({ find }: Viewed, call: Call) {
  const { changes, truncated } = await find();
  let rest = changes.filter(({ isAbove }) => !isAbove).map(changeJson);
  for (;;) {
    const some = fitting(rest);
    rest = rest.slice(some.length);
    if (!call.head.more) return { changes: some, truncated: truncated || rest.length > 0 };
    call.reply({ changes: some });
    if (rest.length === 0) return { truncated };
    await call.room();
  }
}

/** The first ones, as many as a message has room for. */
function fitting<Item extends object>(items: readonly Item[]): Item[] {
  let bytes = 0;
  const over = items.findIndex((item, at) => {
    bytes += Buffer.byteLength(JSON.stringify(item));
    return at === MOST || (at > 0 && bytes > PIECE);
  });
  return items.slice(0, over === -1 ? items.length : over);
}

async function patchReply({ find, sides }: Viewed, call: Call) {
  const { changes, truncated } = await find();
  const wanted = changes.filter(({ isAbove }) => !isAbove);
  let pieces: Buffer[] = [];
  let bytes = 0;
  for await (const piece of patchOf(sides, wanted, call.signal)) {
    if (bytes > 0 && bytes + piece.length > PIECE) {
      if (!call.head.more) throw tooLongError();
      await tellPatch(Buffer.concat(pieces), call);
      [pieces, bytes] = [[], 0];
    }
    pieces.push(piece);
    bytes += piece.length;
  }
  const last = Buffer.concat(pieces);
  if (!call.head.more && last.length > PIECE) throw tooLongError();
  if (!call.head.more) return { patch: last.toString('base64'), truncated };
  await tellPatch(last, call);
  return { truncated };
}

/** The hunks of one file may be longer than a message. */
async function tellPatch(patch: Buffer, call: Call): Promise<void> {
  for (let at = 0; at < patch.length; at += PIECE) {
    call.reply({ patch: patch.toString('base64', at, at + PIECE) });
    await call.room();
  }
}

function tooLongError(): KilnError {
  return new KilnError('E_CHANGES', 'the patch is longer than 1 MiB', {
    hint: 'call Diff with `more`, or name paths',
  });
}

export const answerApply: Answer<'Apply'> = async (parameters, context) => {
  await using engine = context.openEngine();
  const { force = false } = parameters;
  const { source, done, left } = await applyLayer(requestOf(engine, context, parameters), force);
  const all = left.map(({ path, why, isConflict }) => {
    return { ...pathJson(path), why, conflict: isConflict };
  });
  return { source, applied: done.length, left: left.length, leftAlone: fitting(all) };
};

export const answerDiscard: Answer<'Discard'> = async (parameters, context) => {
  await using engine = context.openEngine();
  await discardLayer(requestOf(engine, context, parameters));
  return {};
};

function requestOf(
  engine: OwnEngine,
  { caller, call }: CallContext,
  {
    sandbox,
    target,
    paths = [],
  }: DiscardParameters & { readonly paths?: readonly string[] | undefined },
): LayerRequest {
  if (!target.startsWith('/')) {
    throw new KilnError('E_ARGUMENT', `target: ${target || '""'} is not an absolute path`, {
      hint: FIELDS,
    });
  }
  return { engine, caller, word: sandbox, target, words: paths, signal: call.signal };
}
