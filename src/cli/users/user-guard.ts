/** Checks a user's command before it does anything: refuses what is not allowed, and fetches the user's files. */
import { dirname } from 'node:path';
import type { Command, Option } from 'commander';
import { defined } from '../../defined.ts';
import { KilnError } from '../../errors.ts';
import { currentAction } from '../../events/action.ts';
import { below, type HeldPath, openedPath } from '../../host/files/held.ts';
import { isImageName } from '../../image/find.ts';
import { isRecipeName } from '../../jobs/recipe/request.ts';
import { addedPaths } from '../../jobs/rpmbuild/request.ts';
import { inUnits } from '../../options/measures.ts';
import { type Rows, usersRule } from '../../options/row.ts';
import { EGRESS, NETWORK, type PathKind, type Rule, type Values } from '../../options/rules.ts';
import type { BuildRecipe } from '../../recipe/build-recipe.ts';
import type { Bind } from '../../sandbox/policy/specification.ts';
import { type CallerPaths, heldBinds } from '../../users/caller-paths.ts';
import { type CallerUser, forbiddenError, type UserPolicy } from '../../users/configuration.ts';
import type { PathCaller } from '../caller/caller.ts';
import { RowOption, wordsOf } from '../options/command.ts';
import { isOwnImageRecipe, ROOT_COMMANDS, USER_COMMANDS } from './user-rules.ts';

export function guard(program: Command, caller: PathCaller): void {
  program.hook('preAction', async (_, action) => {
    const given = { words: wordsOf(action), args: action.args };
    action.processedArgs = await admit(action, caller, given, action.processedArgs);
    currentAction()?.admitted();
  });
}

/**
 * Checks every option and argument of a user's command against the rules, and has the caller's own process open what
 * they name to be read. What is written is opened by the command, once it knows that there is something to do.
 * @param words the command's name, by which the rules know it
 * @returns the arguments, `processed` by their parsers, with what was opened
 * @throws KilnError E_FORBIDDEN, E_CALLER_FILE, E_BIND
 */
export async function admit<Processed>(
  action: Command,
  { user, paths }: PathCaller,
  { words, args = [] }: { readonly words: string; readonly args?: readonly string[] },
  processed: Processed,
): Promise<Processed> {
  const ofArguments = argumentsRule(words, user);
  const options: Values = action.opts();
  for (const option of user === undefined ? [] : action.options) {
    const name = option.attributeName();
    const value = options[name];
    if (value === undefined) continue;
    const rule = ruleOf(option, user);
    const source = action.getOptionValueSource(name);
    // What is built in is not the user's choice, but it may name a file. What kiln.yaml says is as if it were given.
    const isChosen = source !== undefined && source !== 'default';
    if (user !== undefined && (isChosen || fetchingOf(rule, { user, paths }) !== undefined)) {
      await fromSource(source, () => check(option.long ?? name, rule, value, user, options));
    }
  }
  if (user !== undefined) for (const value of args) check(value, ofArguments, value, user, options);
  // Another program takes the paths, by their names.
  if (options.farm === true || words === 'mcp') return processed;
  for (const option of action.options) {
    const name = option.attributeName();
    const fetching = fetchingOf(ruleOf(option, user), { user, paths });
    const value: unknown = options[name];
    const source = action.getOptionValueSource(name) ?? 'cli';
    if (fetching === undefined || value === undefined) continue;
    if (Array.isArray(value) && value.length === 0) continue;
    const fetched = await fromSource(source, () => fetchAll(value, fetching));
    action.setOptionValueWithSource(name, fetched, source);
  }
  const fetching = fetchingOf(ofArguments, { user, paths });
  return fetching === undefined ? processed : await fetchAll(processed, fetching);
}

/** Root's words are held to no rule. */
function ruleOf(option: Option, user: CallerUser | undefined): Rule | undefined {
  if (!(option instanceof RowOption)) return undefined;
  return user === undefined ? option.row.kind.opens : usersRule(option.row);
}

function argumentsRule(words: string, user: CallerUser | undefined): Rule | undefined {
  const rule = USER_COMMANDS[words];
  if (user === undefined) return ROOT_COMMANDS[words] ?? rule;
  if (rule === undefined) throw forbiddenError(`kiln ${words}`, 'it is root’s');
  return rule;
}

/** Names the place of a default in kiln.yaml, which is the value's source then, if `act` fails. */
async function fromSource<Value>(
  source: string | undefined,
  act: () => Value | Promise<Value>,
): Promise<Value> {
  try {
    return await act();
  } catch (error) {
    if (!(error instanceof KilnError) || !source?.includes(': defaults.')) throw error;
    const { code, message, hint, details } = error;
    throw new KilnError(code, `${source}: ${message}`, {
      cause: error,
      ...defined({ hint, details }),
    });
  }
}

/** What is opened by the command itself, once it knows that there is something to write. */
export const OUTPUTS: readonly PathKind[] = ['results', 'lone results', 'result'];

interface Fetching {
  readonly field?: string | undefined;
  readonly fetch: (path: string) => Promise<string>;
}

function fetchingOf(rule: Rule | undefined, { user, paths }: PathCaller): Fetching | undefined {
  if (rule === 'image') return user && { fetch: (name) => fetchImage(name, paths) };
  if (typeof rule !== 'object' || rule.kind !== 'path') return undefined;
  const { path: kind, where } = rule;
  if (OUTPUTS.includes(kind)) return undefined;
  const isPath = where ?? (() => true);
  const fetch = async (path: string) => (isPath(path) ? await fetchPath(kind, path, paths) : path);
  return { field: rule.field, fetch };
}

/** Whether options of a user's command name files, which only a process of the user's own opens. */
export function namesFiles(table: Rows, options: Values): boolean {
  const isFile = (rule: Rule | undefined, value: unknown) => {
    if (rule === 'image') return isOwnImageRecipe(String(value));
    if (typeof rule !== 'object' || rule.kind !== 'path') return false;
    return typeof value !== 'string' || (rule.where?.(value) ?? true);
  };
  return Object.entries(table).some(([name, row]) =>
    [options[name] ?? []].flat().some((each) => isFile(usersRule(row), each)),
  );
}

export function admitOptions(table: Rows, options: Values, user: CallerUser): void {
  for (const [name, row] of Object.entries(table)) {
    const value = options[name];
    if (value !== undefined) check(name, usersRule(row), value, user, options);
  }
}

export function admitWorker(words: string, user: CallerUser | undefined): void {
  if (user === undefined || user.policy.farm) return;
  throw forbiddenError(`kiln ${words}`, 'root has not allowed it', {
    hint: 'in /etc/kiln/kiln.yaml: users.farm: true, where whoever submits chains is trusted; docs/farm.md',
  });
}

export function check(
  what: string,
  rule: Rule | undefined,
  value: unknown,
  { policy }: { readonly policy: UserPolicy },
  options: Values,
): void {
  if (rule === undefined) throw forbiddenError(what, 'it is root’s');
  if (rule === 'open') return;
  if (rule === 'image') {
    if (isImageName(String(value)) || isOwnImageRecipe(String(value))) return;
    throw forbiddenError(`the image ${value}`, 'it is neither a name nor a recipe in YAML', {
      hint: 'a lock counts where it lies beside its recipe: name the recipe',
    });
  }
  if (rule.kind === 'path') {
    // Relabelling changes labels on the host with root's rights, whatever the user may do.
    if (Array.isArray(value) && value.some((item) => item?.relabel !== undefined))
      throw forbiddenError(`z or Z of ${what}`, 'it changes labels of the host’s files');
    return;
  }
  if (rule.kind === 'root') throw forbiddenError(what, rule.why);
  if (rule.allows(value, policy, options)) return;
  if (rule === NETWORK && value === 'host')
    throw forbiddenError(`${what} host`, 'it takes the network’s isolation away');
  const allowed = `in /etc/kiln/kiln.yaml: ${rule.setting}; \`kiln config show\` shows what is allowed`;
  const said = rule.shown?.(value) ?? shown(value, rule.units);
  throw forbiddenError(`${what} ${said}`, 'root has not allowed it', {
    hint: rule.instead ?? allowed,
  });
}

/** As the caller has written it. */
function shown(value: unknown, units: Readonly<Record<string, number>> = {}): string {
  if (typeof value === 'number') return String(inUnits(value, units));
  if (!Array.isArray(value)) return String(value);
  const items = value.map((item) => {
    if (typeof item !== 'object' || item === null) return item;
    return Object.values(item)
      .map((part) => shown(part, units))
      .join(':');
  });
  return items.join(', ');
}

async function fetchAll<Value>(value: Value, fetching: Fetching): Promise<Value> {
  const { field, fetch } = fetching;
  if (Array.isArray(value)) {
    const fetched = [];
    for (const item of value) fetched.push(await fetchAll(item, fetching));
    return fetched as Value;
  }
  if (typeof value === 'string') return (await fetch(value)) as Value;
  if (field === undefined || typeof value !== 'object' || value === null) return value;
  const path = (value as Record<string, unknown>)[field];
  if (typeof path !== 'string')
    throw new KilnError('E_FORBIDDEN', `not a path: ${JSON.stringify(value)}`);
  // A bind is told of by its name; of all else there is no other.
  const isBind = 'target' in value && 'readonly' in value;
  return { ...value, [isBind ? 'place' : field]: await fetch(path) };
}

export async function fetchImage(name: string, paths: CallerPaths): Promise<string> {
  return isOwnImageRecipe(name) ? await paths.recipe(name) : name;
}

/** Above a folder that is named, which may be a link: what `../` at the beginning means, is known. */
function leadsUp(path: string): boolean {
  return `${path.replace(/^(?:\.{1,2}\/+)+/, '')}/`.includes('/../');
}

export async function fetchPath(
  kind: PathKind,
  path: string,
  paths: CallerPaths,
): Promise<HeldPath> {
  switch (kind) {
    case 'file':
      return await paths.file(path);
    case 'text':
      return await paths.text(path);
    case 'content':
      return await paths.content(path);
    case 'built':
      if (isRecipeName(path)) return await paths.recipe(path);
      return await (path.endsWith('.rpm') ? paths.file(path) : paths.text(path));
    case 'sources':
      return await paths.tree(path, 'inside');
    case 'tree':
      return await copiedIn(path, paths);
    case 'place':
      return await paths.place(path);
    case 'results':
      return await paths.results(path);
    case 'lone results':
      return await paths.loneResults(path);
    case 'result':
      return await paths.resultAt(path);
    case 'repository':
      for (const named of addedPaths(path)) await paths.holdName(named);
      return openedPath(path);
    case 'package':
      // To open each of thousands would take as long as to read them.
      if (leadsUp(path)) return await paths.file(path);
      await paths.holdName(dirname(path));
      return openedPath(path);
  }
}

async function copiedIn(path: string, paths: CallerPaths): Promise<HeldPath> {
  const [end = ''] = /\/\.?\/*$/.exec(path) ?? [];
  const held = await paths.tree(path, 'as they are');
  return end === '' ? held : below(held, end.slice(1));
}

/**
 * Checks a user's recipe, and has the binds of a recipe opened if its caller allows the host: if not, the plan refuses
 * them. @throws KilnError E_FORBIDDEN, E_CALLER_FILE, E_BIND
 */
export async function admitRecipe(
  recipe: BuildRecipe,
  { user, paths }: PathCaller,
  options: { readonly allowHost?: boolean; readonly image?: string },
): Promise<readonly Bind[]> {
  if (user !== undefined) checkRecipe(recipe, user, options);
  return options.allowHost === true ? await heldBinds(recipe.sandbox.binds, paths) : [];
}

function checkRecipe(
  { image, sandbox }: BuildRecipe,
  user: CallerUser,
  { image: given }: { readonly image?: string },
): void {
  const { network, egress, profile } = sandbox;
  if (given === undefined && image !== undefined && !isImageName(image)) {
    throw forbiddenError(`the image ${image} of a recipe`, 'it is no name', {
      hint: 'name an image recipe of your own with -r',
    });
  }
  check('sandbox.network', NETWORK, network, user, {});
  if (egress.length > 0) check('sandbox.egress', EGRESS, egress, user, {});
  if (profile === 'nested')
    throw forbiddenError(
      `sandbox.profile ${profile}`,
      'sandboxes in a sandbox need its whole /proc',
    );
}
