// Small changes of functions, each as somebody might get it wrong; all other bytes stay as they are.
'use strict'
const { FUNCTION, bytes, parse, visit } = require('./parse.js')

const COMPARE = { '===': '!==', '!==': '===', '==': '!=', '!=': '==' }
const BOUNDARY = { '<': '<=', '<=': '<', '>': '>=', '>=': '>' }
const BOOLEAN = { '&&': '||', '||': '&&', '??': '||' }
const ARITHMETIC = { '+': '-', '-': '+', '*': '/', '/': '*', '%': '*', '<<': '>>', '>>': '<<', '&': '|', '|': '&', '**': '*' }
const ASSIGN = { '+=': '-=', '-=': '+=', '*=': '/=', '/=': '*=', '|=': '&=', '&=': '|=' }
const UPDATE = { '++': '--', '--': '++' }
const ERRORS = { TypeError: 'RangeError', RangeError: 'TypeError', Error: 'TypeError', SyntaxError: 'Error' }
const METHODS = {
  startsWith: 'endsWith', endsWith: 'startsWith', indexOf: 'lastIndexOf', lastIndexOf: 'indexOf', some: 'every', every: 'some',
  push: 'unshift', unshift: 'push', pop: 'shift', shift: 'pop', min: 'max', max: 'min', floor: 'ceil', ceil: 'floor', filter: 'map',
  toLowerCase: 'toUpperCase', toUpperCase: 'toLowerCase', padStart: 'padEnd', padEnd: 'padStart', keys: 'values', trimStart: 'trimEnd', trimEnd: 'trimStart'
}

/** Return [{kind, function, line, start, end, new}]; places are bytes. */
function mutations (text) {
  const tokens = []
  const tree = parse(text, tokens)
  const at = bytes(text)
  const found = []
  visit(tree, (node, around) => {
    const number = around.findLastIndex((each) => FUNCTION.test(each.type))
    if (number < 0) return
    const owner = around[number]
    for (const [kind, start, end, put] of changes(node, owner, around.at(-1), text, tokens)) {
      if (text.slice(start, end) === put || !parses(text.slice(0, start) + put + text.slice(end))) continue
      const begin = around[number - 1]?.value === owner ? around[number - 1].start : owner.start
      const line = text.slice(0, begin).split('\n').length
      found.push({ kind, function: called(owner, around[number - 1]), line, start: at(start), end: at(end), new: put })
    }
  })
  return found
}

function parses (text) {
  try { return !!parse(text) } catch { return false }
}

function called (owner, above) {
  return owner.id?.name ?? above?.key?.name ?? above?.id?.name ?? above?.left?.property?.name ?? ''
}

/** Yield [kind, start, end, what to put there] for a node. */
function * changes (node, owner, above, text, tokens) {
  const of = ({ start, end }) => text.slice(start, end)
  const operator = (kind, table, left, right) => {
    const put = table[node.operator]
    const token = put && tokens.find((each) => each.start >= left && each.end <= right && each.value === node.operator)
    return token ? [[kind, token.start, token.end, put]] : []
  }
  const whole = (kind, put) => [kind, node.start, node.end, put]
  switch (node.type) {
    case 'BinaryExpression':
      yield * operator('comparison', COMPARE, node.left.end, node.right.start)
      yield * operator('boundary', BOUNDARY, node.left.end, node.right.start)
      if (!worded(node.left) && !worded(node.right)) yield * operator('arithmetic', ARITHMETIC, node.left.end, node.right.start)
      break
    case 'LogicalExpression':
      yield * operator('boolean', BOOLEAN, node.left.end, node.right.start)
      break
    case 'AssignmentExpression':
      if (!worded(node.right)) yield * operator('arithmetic', ASSIGN, node.left.end, node.right.start)
      break
    case 'UpdateExpression':
      if (above.type !== 'ForStatement') yield * operator('arithmetic', UPDATE, node.start, node.end)
      break
    case 'UnaryExpression':
      if (node.operator === '!') yield whole('boolean', of(node.argument))
      if (node.operator === '-' && node.argument.type !== 'Literal') yield whole('arithmetic', of(node.argument))
      break
    case 'Literal':
      if (above.type === 'AssignmentPattern' || /^(Property|MethodDefinition)$/.test(above.type) && above.key === node) break
      yield * constant('constant', node)
      break
    case 'AssignmentPattern':
      if (node.right.type === 'Literal') yield * constant('default', node.right)
      break
    case 'Identifier': {
      const own = owner.params.filter((each) => each.type === 'Identifier').map((each) => each.name)
      if (own.length > 1 && own.includes(node.name) && !owner.params.includes(node) && !/^Property$/.test(above.type)) {
        yield whole('variable', own[(own.indexOf(node.name) + 1) % own.length])
      }
      break
    }
    case 'CallExpression':
    case 'NewExpression':
      yield * call(node, above, of)
      break
    case 'AwaitExpression':
      yield whole('await', of(node.argument))
      break
    case 'ChainExpression':
      if (of(node).includes('?.') && !/\?\.[[(]/.test(of(node))) yield whole('optional', of(node).replace('?.', '.'))
      break
    case 'ConditionalExpression':
      yield ['branch', node.consequent.start, node.alternate.end, of(node.alternate) + text.slice(node.consequent.end, node.alternate.start) + of(node.consequent)]
      break
    case 'IfStatement':
      if (!node.alternate && above.type === 'BlockStatement' && leaves(node.consequent)) yield whole('guard', '')
      if (node.alternate?.type === 'BlockStatement') yield ['branch', node.test.start, node.test.end, `!(${of(node.test)})`]
      break
    case 'ReturnStatement':
      if (node.argument && !/^(Literal|Identifier|ThisExpression)$/.test(node.argument.type)) yield whole('return', 'return')
      break
    case 'BreakStatement':
    case 'ContinueStatement':
      if (!node.label && above.type !== 'SwitchCase') yield whole('loop', node.type === 'BreakStatement' ? 'continue' : 'break')
  }
}

function * call (node, above, of) {
  const [first, second] = node.arguments
  const name = node.callee.property
  if (second && first.type !== 'SpreadElement' && second.type !== 'SpreadElement' && ![first, second].some((each) => FUNCTION.test(each.type))) {
    yield ['arguments', first.start, second.end, `${of(second)}, ${of(first)}`]
  }
  if (node.type === 'NewExpression') {
    if (ERRORS[node.callee.name] && above.type === 'ThrowStatement') yield ['exception', node.callee.start, node.callee.end, ERRORS[node.callee.name]]
  } else if (name && !node.callee.computed) {
    if (Object.hasOwn(METHODS, name.name)) yield ['method', name.start, name.end, METHODS[name.name]]
    if (/^(slice|substring|substr)$/.test(name.name) && first) {
      if (second) yield ['slice', first.end, second.end, '']
      else yield ['slice', first.start, first.end, `${of(first)} + 1`]
    }
  }
}

function * constant (kind, { value, start, end, raw, regex }) {
  if (typeof value === 'number') yield [kind, start, end, String(value + 1)]
  if (typeof value === 'boolean') yield [kind, start, end, String(!value)]
  if (regex && /[gi]/.test(regex.flags)) yield ['flags', start, end, raw.replace(/[gi]([a-z]*)$/, '$1')]
}

/** Say whether a node is text for certain, which cannot be reckoned with. */
function worded (node) {
  if (node.type === 'BinaryExpression') return worded(node.left) || worded(node.right)
  return node.type === 'TemplateLiteral' || (node.type === 'Literal' && typeof node.value === 'string')
}

function leaves (node) {
  const last = node.type === 'BlockStatement' ? node.body.at(-1) : node
  return !!last && /^(Return|Throw|Continue)Statement$/.test(last.type)
}

module.exports = { mutations }
