/**
 * Checks a user's command before it does anything: refuses what is not allowed, and fetches the user's files.
 */
import type { Command } from 'commander';
import { KilnError } from '../../errors.ts';
import { isRecipeName } from '../../jobs/recipe/request.ts';
import type { CallerFiles } from '../../users/caller-files.ts';
import { type CallerUser, forbidden } from '../../users/user.ts';
import { isPackageOrSpec } from '../rpmbuild/build-modes.ts';
import { RunElsewhere } from '../run.ts';
import {
  isImageName,
  isOwnImageRecipe,
  type PathKind,
  type Rule,
  USER_COMMANDS,
  type Values,
} from './user-rules.ts';

/** Makes the command pass {@link admit} before it runs. */
export function guard(program: Command, user: CallerUser): void {
  program.hook('preAction', async (_, action) => await admit(action, user));
}

/**
 * Checks every option and argument of a command against the rules, and replaces the caller's files by copies.
 * @throws KilnError E_FORBIDDEN, E_CALLER_FILE, E_BIND, E_RESULTDIR; RunElsewhere where this process takes no files
 */
async function admit(action: Command, user: CallerUser): Promise<void> {
  const words = wordsOf(action);
  const rules = USER_COMMANDS[words];
  if (rules === undefined) throw forbidden(`kiln ${words}`, 'it is root’s');
  const options: Values = action.opts();
  for (const option of action.options) {
    const name = option.attributeName();
    const source = action.getOptionValueSource(name);
    const value = options[name];
    if (value === undefined) continue;
    const rule = rules.options[name];
    // A default is not the user's choice, but it may name a file.
    if (source === 'cli' || (rule !== undefined && isName(rule))) {
      check(option.long ?? name, rule, value, user, options);
    }
  }
  for (const value of action.args) check(value, rules.arguments, value, user, options);
  for (const option of action.options) {
    const name = option.attributeName();
    const rule = rules.options[name];
    const value: unknown = options[name];
    if (rule === 'image' && typeof value === 'string') {
      const fetched = await fetchImage(value, user);
      action.setOptionValueWithSource(name, fetched, action.getOptionValueSource(name) ?? 'cli');
    }
    // Without a wish of the caller's, what a job that goes on leaves waits for `kiln results`.
    if (options.detach === true && name === 'resultdir' && isDefault(action, name)) continue;
    if (rule === undefined || typeof rule === 'string' || rule.kind !== 'path') continue;
    if (value === undefined || (Array.isArray(value) && value.length === 0)) continue;
    const fetched = await fetchAll(value, rule.field, (path) => fetchPath(rule.path, path, user));
    action.setOptionValueWithSource(name, fetched, action.getOptionValueSource(name) ?? 'cli');
  }
  const { arguments: rule } = rules;
  if (rule === 'image')
    action.processedArgs = await fetchAll(action.processedArgs, undefined, (name) =>
      fetchImage(name, user),
    );
  if (typeof rule !== 'string' && rule.kind === 'path') {
    action.processedArgs = await fetchAll(action.processedArgs, undefined, (path) =>
      fetchPath(rule.path, path, user),
    );
  }
}

/** Checks options of a command that came in a file. @throws KilnError E_FORBIDDEN */
export function admitOptions(words: string, options: Values, user: CallerUser): void {
  const rules = USER_COMMANDS[words]?.options ?? {};
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined) check(name, rules[name], value, user, options);
  }
}

/** Refuses a command of workers where root has not made this machine one. @throws KilnError E_FORBIDDEN */
export function admitWorker(words: string, user: CallerUser | undefined): void {
  if (user === undefined || user.policy.farm) return;
  throw forbidden(`kiln ${words}`, 'root has not allowed it', {
    hint: 'in /etc/kiln/kiln.yaml: users.farm: true, where whoever submits chains is trusted; docs/farm.md',
  });
}

function isDefault(action: Command, name: string): boolean {
  return action.getOptionValueSource(name) !== 'cli';
}

/** What a command is called: `image build`. */
export function wordsOf(action: Command): string {
  const words: string[] = [];
  for (let at: Command | null = action; at?.parent; at = at.parent) words.unshift(at.name());
  return words.join(' ');
}

function isName(rule: Rule): boolean {
  return rule === 'image' || (typeof rule !== 'string' && rule.kind === 'path');
}

/** Refuses what a rule does not allow. @throws KilnError E_FORBIDDEN */
export function check(
  what: string,
  rule: Rule | undefined,
  value: unknown,
  { policy }: Pick<CallerUser, 'policy'>,
  options: Values,
): void {
  if (rule === undefined) throw forbidden(what, 'it is root’s');
  if (rule === 'open') return;
  if (rule === 'image') {
    if (isImageName(String(value)) || isOwnImageRecipe(String(value))) return;
    throw forbidden(`the image ${value}`, 'it is neither a name nor a recipe in YAML', {
      hint: 'a lock counts where it lies beside its recipe: name the recipe',
    });
  }
  if (rule.kind === 'path') {
    // Relabelling changes labels on the host with root's rights, whatever the user may do.
    if (Array.isArray(value) && value.some((item) => item?.relabel !== undefined))
      throw forbidden(`z or Z of ${what}`, 'it changes labels of the host’s files');
    return;
  }
  if (rule.kind === 'root') throw forbidden(what, rule.why);
  if (rule.allows(value, policy, options)) return;
  throw forbidden(`${what} ${shown(value)}`, 'root has not allowed it', {
    hint: `in /etc/kiln/kiln.yaml: ${rule.setting}; \`kiln config show\` shows what is allowed`,
  });
}

function shown(value: unknown): string {
  return typeof value === 'string' ? value : JSON.stringify(value);
}

async function fetchAll<Value>(
  value: Value,
  field: string | undefined,
  fetch: (path: string) => Promise<string | number>,
): Promise<Value> {
  if (Array.isArray(value)) {
    const fetched = [];
    for (const item of value) fetched.push(await fetchAll(item, field, fetch));
    return fetched as Value;
  }
  if (typeof value === 'string') return (await fetch(value)) as Value;
  if (field === undefined || typeof value !== 'object' || value === null) return value;
  const path = (value as Record<string, unknown>)[field];
  if (typeof path !== 'string')
    throw new KilnError('E_FORBIDDEN', `not a path: ${JSON.stringify(value)}`);
  const fetched = await fetch(path);
  return {
    ...value,
    ...(typeof fetched === 'number' ? { descriptor: fetched } : { [field]: fetched }),
  };
}

/** An image by its name, or the copy of a recipe of the user's own. */
async function fetchImage(name: string, { files }: CallerUser): Promise<string> {
  if (!isOwnImageRecipe(name)) return name;
  if (files === undefined) throw new RunElsewhere();
  return await files.file(name);
}

/** A copy's path, or the descriptor of what is to be bound. */
export async function fetchPath(
  kind: PathKind,
  path: string,
  { files }: CallerUser,
): Promise<string | number> {
  if (files === undefined) throw new RunElsewhere();
  switch (kind) {
    case 'file':
      return await files.file(path);
    case 'built':
      if (isRecipeName(path)) return await files.recipe(path);
      // The name of a recipe that comes with kiln.
      return isImageName(path) && !isPackageOrSpec(path) ? path : await files.file(path);
    case 'sources':
      return await files.tree(path, 'inside');
    case 'tree':
      return await copiedIn(path, files);
    case 'place':
      return await files.place(path);
    case 'results':
      return await files.results(path);
    case 'result':
      return path === '-' ? path : await files.resultAt(path);
  }
}

/** A slash, or `/.`, at the end changes how it is copied. */
async function copiedIn(path: string, files: CallerFiles): Promise<string> {
  const [end = ''] = /\/\.?\/*$/.exec(path) ?? [];
  return `${await files.tree(path, 'as they are')}${end}`;
}
