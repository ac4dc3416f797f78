/** Scriptlets and triggers of a header. Source: rpm's lib/rpmscript.cc, include/rpm/rpmds.h. */
import { readDependencies, Sense } from './dependency.ts';
import { rpmError } from './errors.ts';
import type { RpmHeader } from './header.ts';
import type {
  RpmDependency,
  RpmFileTrigger,
  RpmScript,
  RpmScriptlet,
  RpmScriptletKind,
  RpmTrigger,
} from './package.ts';
import {
  fileTriggerTags,
  scriptletTags,
  type TriggerTags,
  transFileTriggerTags,
  triggerTags,
} from './tags.ts';

/** RPMSCRIPT_FLAG_ bits. */
const ScriptFlag = { expand: 1, queryFormat: 2, critical: 4 };

/** What rpm runs a script with when the header names nothing. */
const DEFAULT_INTERPRETER = ['/bin/sh'];
const LUA = '<lua>';
const DEFAULT_PRIORITY = 1000000;

function script(body: string, interpreter: readonly string[], flags: number): RpmScript {
  return {
    interpreter,
    lua: interpreter[0] === LUA,
    body,
    expand: (flags & ScriptFlag.expand) !== 0,
    queryFormat: (flags & ScriptFlag.queryFormat) !== 0,
    critical: (flags & ScriptFlag.critical) !== 0,
  };
}

export function readScriptlets(header: RpmHeader): RpmScriptlet[] {
  const scriptlets: RpmScriptlet[] = [];
  for (const [kind, [bodyTag, programTag, flagsTag]] of Object.entries(scriptletTags)) {
    const body = header.string(bodyTag);
    const program = header.strings(programTag);
    if (body === undefined && program === undefined) continue;
    const rest = script(body ?? '', program ?? DEFAULT_INTERPRETER, header.number(flagsTag) ?? 0);
    scriptlets.push({ kind: kind as RpmScriptletKind, ...rest });
  }
  return scriptlets;
}

/** One script of a family of triggers with the conditions that start it. */
interface Triggered {
  readonly script: RpmScript;
  readonly conditions: readonly RpmDependency[];
  readonly priority: number;
}

function readTriggered(header: RpmHeader, tags: TriggerTags): Triggered[] {
  const bodies = header.strings(tags.scripts) ?? [];
  const programs = header.strings(tags.programs);
  const flags = header.numbers(tags.scriptFlags);
  const priorities = tags.priorities === undefined ? undefined : header.numbers(tags.priorities);
  const conditions = readDependencies(header, [tags.names, tags.flags, tags.versions]);
  const index = header.numbers(tags.index) ?? [];
  if (index.length !== conditions.length || index.some((i) => i >= bodies.length)) {
    throw rpmError('E_RPM_FORMAT', 'the header is broken: triggers and their scripts do not match');
  }
  return bodies.map((body, number) => ({
    script: script(
      body,
      programs?.[number] === undefined ? DEFAULT_INTERPRETER : [programs[number]],
      flags?.[number] ?? 0,
    ),
    conditions: conditions.filter((_, i) => index[i] === number),
    priority: priorities?.[number] ?? DEFAULT_PRIORITY,
  }));
}

/** The kind is in the flags of the conditions; all conditions of a script have the same. */
function triggerKind({ conditions }: Triggered): RpmTrigger['kind'] {
  const flags = conditions[0]?.flags ?? 0;
  if ((flags & Sense.triggerPrein) !== 0) return 'triggerprein';
  if ((flags & Sense.triggerIn) !== 0) return 'triggerin';
  if ((flags & Sense.triggerUn) !== 0) return 'triggerun';
  return 'triggerpostun';
}

export function readTriggers(header: RpmHeader): RpmTrigger[] {
  return readTriggered(header, triggerTags).map((trigger) => ({
    kind: triggerKind(trigger),
    ...trigger.script,
    conditions: trigger.conditions,
  }));
}

export function readFileTriggers(header: RpmHeader): RpmFileTrigger[] {
  const families = [
    ['package', fileTriggerTags],
    ['transaction', transFileTriggerTags],
  ] as const;
  return families.flatMap(([scope, tags]) =>
    readTriggered(header, tags).map((trigger) => ({
      kind: `file${triggerKind(trigger)}` as RpmFileTrigger['kind'],
      ...trigger.script,
      scope,
      priority: trigger.priority,
      prefixes: trigger.conditions.map(({ name }) => name),
    })),
  );
}
