/**
 * Shows every promise of src/ that is kept and could reject before anybody listens, which would end
 * the process. `npm run check` runs it. Types decide, not spelling: it asks the compiler.
 */
import { join, relative } from 'node:path';
import { type Node, type SourceFile, SyntaxKind } from 'typescript/unstable/ast';
import * as is from 'typescript/unstable/ast/is';
import { API, type Checker } from 'typescript/unstable/sync';

/** What makes a promise that may be kept: see src/promise.ts. */
const MAKERS = new Set(['awaitedLater', 'deferred']);

/** The promises at fault of the project that `tsconfig` (absolute) describes: `FILE:LINE: why`. */
export function findKeptPromises(tsconfig: string, source: string): string[] {
  const api = new API({ cwd: join(tsconfig, '..') });
  try {
    const [project] = api.updateSnapshot({ openProjects: [tsconfig] }).getProjects();
    if (project === undefined) throw new Error(`${tsconfig} is no project`);
    const found: string[] = [];
    for (const name of project.program.getSourceFileNames()) {
      if (!name.startsWith(`${source}/`) || name === join(source, 'promise.ts')) continue;
      const file = project.program.getSourceFile(name);
      if (file === undefined) continue;
      for (const { node, why } of keptIn(file, project.checker)) {
        const line = file.text.slice(0, node.getStart(file)).split('\n').length;
        found.push(`${relative(join(tsconfig, '..'), name)}:${line}: ${why}`);
      }
    }
    return found;
  } finally {
    api.close();
  }
}

interface Finding {
  readonly node: Node;
  readonly why: string;
}

function keptIn(file: SourceFile, checker: Checker): Finding[] {
  const found: Finding[] = [];
  // As text: asking for the parts of a union makes this version of the compiler panic.
  const isPromise = (node: Node) => {
    const type = checker.getTypeAtLocation(node);
    return type !== undefined && isPromiseText(checker.typeToString(type));
  };
  const keeps = (value: Node, name: string | undefined, statement: Node | undefined) => {
    if (!isPromise(value) || isHandled(value, file)) return;
    if (name !== undefined && statement !== undefined && isAwaitedNext(name, statement, file))
      return;
    found.push({ node: value, why: 'a promise is kept: make it by awaitedLater() or deferred()' });
  };
  const visit = (node: Node): void => {
    if (is.isVariableDeclaration(node) && node.initializer !== undefined) {
      keeps(node.initializer, node.name.getText(file), node.parent.parent);
    } else if (is.isPropertyDeclaration(node) && node.initializer !== undefined) {
      keeps(node.initializer, undefined, undefined);
    } else if (is.isBinaryExpression(node) && isAssignment(node.operatorToken.kind)) {
      keeps(node.right, undefined, undefined);
    } else if (is.isVoidExpression(node) && isPromise(node.expression)) {
      if (!isHandled(node.expression, file)) {
        found.push({ node, why: 'void hides a promise: give it a .catch()' });
      }
    } else if (
      is.isPropertyAccessExpression(node) &&
      node.getText(file) === 'Promise.withResolvers'
    ) {
      found.push({ node, why: 'make it by deferred()' });
    }
    node.forEachChild(visit);
  };
  visit(file);
  return found;
}

function isAssignment(kind: SyntaxKind): boolean {
  return (
    kind === SyntaxKind.EqualsToken ||
    kind === SyntaxKind.QuestionQuestionEqualsToken ||
    kind === SyntaxKind.BarBarEqualsToken
  );
}

/** Of a promise, a union with one, or a list of them. Objects and functions are none. */
function isPromiseText(type: string): boolean {
  return /(?:^|\| )Promise</.test(type) && !/^[({]/.test(type);
}

/** Whether nothing that this expression gives can reject without a listener. */
function isHandled(node: Node, file: SourceFile): boolean {
  if (is.isParenthesizedExpression(node)) return isHandled(node.expression, file);
  if (is.isConditionalExpression(node)) {
    return isHandled(node.whenTrue, file) && isHandled(node.whenFalse, file);
  }
  if (is.isBinaryExpression(node)) {
    return isHandled(node.left, file) && isHandled(node.right, file);
  }
  if (is.isArrayLiteralExpression(node)) {
    return node.elements.every((element) => isHandled(element, file));
  }
  // Made elsewhere, where it was looked at.
  if (is.isIdentifier(node) || is.isPropertyAccessExpression(node)) return true;
  if (is.isNewExpression(node)) {
    // A promise that has no way to reject.
    const [executor] = node.arguments ?? [];
    return executor !== undefined && is.isArrowFunction(executor) && executor.parameters.length < 2;
  }
  if (!is.isCallExpression(node)) return false;
  const callee = node.expression.getText(file);
  if (MAKERS.has(callee) || callee === 'Promise.resolve' || callee.endsWith('.get')) return true;
  const [handler] = node.arguments;
  return /\.catch$/.test(callee) && /^\(\) => undefined$/.test(handler?.getText(file) ?? '');
}

/** Whether the next thing that happens is that it is awaited. */
function isAwaitedNext(name: string, statement: Node, file: SourceFile): boolean {
  const block = statement.parent;
  const siblings: Node[] = [];
  block.forEachChild((child) => void siblings.push(child));
  const next = siblings[siblings.indexOf(statement) + 1]?.getText(file) ?? '';
  const [first = ''] = /\bawait [^;]*/.exec(next) ?? [];
  return new RegExp(`^await (?:Promise\\.\\w+\\(\\[?)?${name}\\b`).test(first);
}

if (import.meta.main) {
  const top = join(import.meta.dirname, '../..');
  const found = findKeptPromises(join(top, 'tsconfig.json'), join(top, 'src'));
  for (const line of found) process.stderr.write(`${line}\n`);
  process.exitCode = found.length === 0 ? 0 : 1;
}
