/** The part of Python that mock's configuration files are written in, as trees. */

/** An expression. */
export type Expression =
  | { readonly kind: 'constant'; readonly value: string | number | boolean | null }
  | { readonly kind: 'name'; readonly name: string; readonly line: number }
  | { readonly kind: 'list'; readonly items: readonly Expression[] }
  | {
      readonly kind: 'dict';
      readonly entries: readonly (readonly [Expression, Expression])[];
      readonly line: number;
    }
  /** Adjacent literals and f-strings' parts: joined as text. */
  | { readonly kind: 'join'; readonly parts: readonly Expression[] }
  | {
      readonly kind: 'item';
      readonly of: Expression;
      readonly key: Expression;
      readonly line: number;
    }
  | {
      readonly kind: 'attribute';
      readonly of: Expression;
      readonly name: string;
      readonly line: number;
    }
  | {
      readonly kind: 'call';
      readonly callee: Expression;
      readonly arguments: readonly Expression[];
      readonly line: number;
    }
  | { readonly kind: 'not'; readonly of: Expression }
  | { readonly kind: 'negative'; readonly of: Expression; readonly line: number }
  | {
      readonly kind: 'binary';
      readonly operator: BinaryOperator;
      readonly left: Expression;
      readonly right: Expression;
      readonly line: number;
    }
  | {
      readonly kind: 'choice';
      readonly condition: Expression;
      readonly then: Expression;
      readonly otherwise: Expression;
    };

export type BinaryOperator =
  | 'and'
  | 'or'
  | '=='
  | '!='
  | '<'
  | '<='
  | '>'
  | '>='
  | 'in'
  | 'not in'
  | '+'
  | '%';

/** A statement. */
export type Statement =
  | {
      readonly kind: 'assign';
      readonly target: Expression;
      readonly value: Expression;
      /** `+=` */
      readonly add: boolean;
      readonly line: number;
    }
  | { readonly kind: 'expression'; readonly expression: Expression; readonly line: number }
  | { readonly kind: 'delete'; readonly target: Expression; readonly line: number }
  /** An import: ignored, and its uses are reported. */
  | { readonly kind: 'import'; readonly text: string; readonly line: number };
