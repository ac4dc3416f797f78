import {
  CHANGING,
  callFunction,
  dictMethod,
  joinTexts,
  listMethod,
  operate,
  textMethod,
  Unfit,
} from './operators.ts';
import type { Expression, Statement } from './parse.ts';
import {
  asText,
  ConfigOptions,
  type ConfigValue,
  configError,
  isDict,
  isList,
  isTrue,
  type Place,
} from './values.ts';

interface EvaluationContext {
  readonly options: ConfigOptions;
  readonly file: string;
  readonly include: (name: string, place: Place) => void;
  readonly warn: (message: string, place: Place) => void;
}

export function evaluate(statements: readonly Statement[], context: EvaluationContext): void {
  new Evaluator(context).run(statements);
}

class Evaluator {
  readonly #context: EvaluationContext;
  readonly #variables = new Map<string, ConfigValue>();

  constructor(context: EvaluationContext) {
    this.#context = context;
  }

  run(statements: readonly Statement[]): void {
    for (const statement of statements) {
      const { line } = statement;
      try {
        this.#do(statement);
      } catch (cause) {
        if (!(cause instanceof RangeError)) throw this.#placed(cause, line);
        throw configError(`this asks for too much: ${cause.message}`, this.#at(line), { cause });
      }
    }
  }

  #do(statement: Statement): void {
    const { line } = statement;
    if (statement.kind === 'import') {
      this.#context.warn(`\`${statement.text}\` is left out: nothing is imported`, this.#at(line));
    } else if (statement.kind === 'assign') {
      const { target, add } = statement;
      const value = this.#value(statement.value);
      this.#assign(target, add ? operate('+', this.#value(target), value) : value, line);
    } else if (statement.kind === 'delete') this.#delete(statement.target);
    else this.#effect(statement.expression, line);
  }

  #effect(expression: Expression, line: number): void {
    const callee = expression.kind === 'call' ? expression.callee : undefined;
    if (expression.kind !== 'call' || callee?.kind !== 'name' || callee.name !== 'include') {
      this.#value(expression);
      return;
    }
    const [name] = expression.arguments.map((argument) => this.#value(argument));
    if (typeof name !== 'string') throw new Unfit('include() needs the name of a file');
    this.#context.include(name, this.#at(line));
  }

  #assign(target: Expression, value: ConfigValue, line: number): void {
    if (target.kind === 'name') {
      if (target.name === 'config_opts') {
        throw new Unfit('config_opts as a whole cannot be replaced');
      }
      this.#variables.set(target.name, value);
      return;
    }
    const { owner, key } = this.#itemOf(target);
    if (owner instanceof ConfigOptions) owner.set(String(key), value, this.#at(line));
    else if (isDict(owner)) owner.set(asText(key), value);
    else if (isList(owner) && typeof key === 'number' && key >= 0 && key < owner.length) {
      (owner as ConfigValue[])[key] = value;
    } else throw new Unfit('only items of dicts and lists can be assigned to');
    this.#touch(target, line);
  }

  #delete(target: Expression): void {
    if (target.kind === 'name') {
      this.#variables.delete(target.name);
      return;
    }
    const { owner, key } = this.#itemOf(target);
    if (!(owner instanceof ConfigOptions) && !isDict(owner)) {
      throw new Unfit('only items of dicts can be deleted');
    }
    owner.delete(asText(key));
  }

  #touch(expression: Expression, line: number): void {
    let it = expression;
    while (it.kind === 'item' || it.kind === 'attribute') {
      const { of } = it;
      if (of.kind === 'name' && of.name === 'config_opts') {
        const name = it.kind === 'item' ? this.#value(it.key) : it.name;
        this.#context.options.touch(asText(name), this.#at(line));
        return;
      }
      it = of;
    }
  }

  #itemOf(target: Expression) {
    if (target.kind === 'item') {
      return { owner: this.#owner(target.of), key: this.#value(target.key) };
    }
    if (target.kind === 'attribute') {
      const owner = this.#owner(target.of);
      if (owner instanceof ConfigOptions) return { owner, key: target.name };
    }
    throw new Unfit('only names and items can be assigned to');
  }

  #owner(expression: Expression): ConfigValue | ConfigOptions {
    if (expression.kind === 'name' && expression.name === 'config_opts') {
      return this.#context.options;
    }
    return this.#value(expression);
  }

  #value(expression: Expression): ConfigValue {
    try {
      return this.#evaluate(expression);
    } catch (error) {
      throw 'line' in expression ? this.#placed(error, expression.line) : error;
    }
  }

  #evaluate(expression: Expression): ConfigValue {
    switch (expression.kind) {
      case 'constant':
        return expression.value;
      case 'list':
        return expression.items.map((item) => this.#value(item));
      case 'dict':
        return new Map(
          expression.entries.map(([key, value]) => [asText(this.#value(key)), this.#value(value)]),
        );
      case 'join':
        return joinTexts(
          expression.parts.map((part) => asText(this.#value(part))),
          '',
        );
      case 'name':
        return this.#name(expression.name);
      case 'item':
        return this.#item(this.#owner(expression.of), this.#value(expression.key));
      case 'attribute': {
        const owner = this.#owner(expression.of);
        if (owner instanceof ConfigOptions) return this.#item(owner, expression.name);
        throw new Unfit(`.${expression.name} is not understood`);
      }
      case 'call':
        return this.#call(expression);
      case 'not':
        return !isTrue(this.#value(expression.of));
      case 'negative': {
        const value = this.#value(expression.of);
        if (typeof value === 'number') return -value;
        throw new Unfit('only numbers have a sign');
      }
      case 'choice':
        return this.#value(
          isTrue(this.#value(expression.condition)) ? expression.then : expression.otherwise,
        );
      case 'binary':
        return this.#binary(expression);
    }
  }

  #name(name: string): ConfigValue {
    if (this.#variables.has(name)) return this.#variables.get(name);
    if (name === 'config_opts') {
      throw new Unfit('config_opts is only understood with an item: config_opts[…]');
    }
    throw new Unfit(`${name} is not understood: it was not set before`);
  }

  #item(owner: ConfigValue | ConfigOptions, key: ConfigValue): ConfigValue {
    if (owner instanceof ConfigOptions || isDict(owner)) {
      const name = asText(key);
      if (owner.has(name)) return owner.get(name);
      throw new Unfit(`there is no ${JSON.stringify(name)} yet`);
    }
    if ((isList(owner) || typeof owner === 'string') && typeof key === 'number') {
      const found = owner.at(key);
      if (found !== undefined) return found;
    }
    throw new Unfit('there is no such item');
  }

  #binary(expression: Extract<Expression, { kind: 'binary' }>): ConfigValue {
    const { operator } = expression;
    const left = this.#value(expression.left);
    if (operator === 'and' || operator === 'or') {
      return isTrue(left) === (operator === 'or') ? left : this.#value(expression.right);
    }
    return operate(operator, left, this.#value(expression.right));
  }

  #call({ callee, arguments: given, line }: Extract<Expression, { kind: 'call' }>): ConfigValue {
    const values = given.map((argument) => this.#value(argument));
    if (callee.kind === 'name') return callFunction(callee.name, values);
    if (callee.kind !== 'attribute') throw new Unfit('this call is not understood');
    const owner = this.#owner(callee.of);
    const method = callee.name;
    let result: ConfigValue;
    if (typeof owner === 'string') result = textMethod(owner, method, values);
    else if (owner instanceof ConfigOptions || isDict(owner)) {
      result = dictMethod(owner, method, values, this.#at(line));
    } else if (isList(owner)) result = listMethod(owner as ConfigValue[], method, values);
    if (result === undefined) throw new Unfit(`.${method}() is not understood`);
    if (CHANGING.has(method)) this.#touch(callee.of, line);
    return result;
  }

  #at(line: number): Place {
    return { file: this.#context.file, line };
  }

  #placed(error: unknown, line: number): unknown {
    return error instanceof Unfit ? configError(error.message, this.#at(line)) : error;
  }
}
