// Takes what tests expect out of a text: `assert.equal(f(x), 5)` becomes `void __seen__(17, (f(x)))`. Where the other side
// is no literal the assertion stays and its subject is shown beside it; where only truth is asked for, whether it holds.
'use strict'
const { FUNCTION, names, nodes, parse, path, visit } = require('./parse.js')
const { kind } = require('./tests.js')

const EQUAL = /^(equal|equals|eq|eql|is|strictEqual|deepEqual|deepEquals|deepStrictEqual|same|toBe|toEqual|toStrictEqual|exactly)$/
const TRUTH = { // what becomes of the arguments
  '': '{0}', ok: '{0}', isOk: '{0}', true: '{0}', isTrue: '({0}) === true', isFalse: '({0}) === false', notOk: '{0}', false: '{0}', isNotOk: '{0}',
  isNull: '({0}) === null', isUndefined: '({0}) === undefined', notEqual: '({0}) == ({1})', isDefined: '({0}) === undefined',
  notStrictEqual: '({0}) === ({1})', match: '({1}).test({0})', doesNotMatch: '({1}).test({0})', isArray: 'Array.isArray({0})'
}
const CHAIN = /^(to|be|been|is|that|and|has|have|with|at|of|same|deep|strictly|a|an|not)$/
const CHAIN_TRUTH = { // of what is expected
  true: '({0}) === true', false: '({0}) === false', null: '({0}) === null', undefined: '({0}) === undefined', ok: '{0}',
  toBeTruthy: '{0}', toBeFalsy: '{0}', toBeNull: '({0}) === null', toBeUndefined: '({0}) === undefined', toBeDefined: '({0}) === undefined'
}
const KNOWN = new Set([...Object.getOwnPropertyNames(globalThis), 'require', 'module', 'exports', '__dirname', '__filename'])
const LONGEST = 400 // characters of one declaration in a reproduction

/** Return {text, places: [{number, line, subject, before, free}]}; assertions at places of `open` stay. */
function seal (text, { first, open }) {
  const tree = parse(text)
  const own = asserting(tree)
  const places = []
  const changes = []
  let end = -1
  visit(tree, (node, around) => {
    if (node.start < end || around.some(raises)) return
    const found = assertion(node, own, text)
    if (!found || /^(Await)?YieldExpression$/.test(found.subject.type) || nodes(found.subject).some((each) => each.node.type === 'YieldExpression')) return
    end = node.end
    const number = first + places.length
    const line = text.slice(0, node.start).split('\n').length
    places.push({ number, line, subject: source(text, found.subject), ...reproduction(text, node, found.subject, around, own) })
    if (!open.includes(number)) changes.push(found.change(number))
  })
  let sealed = text
  for (const { at, to, put } of changes.reverse()) {
    const lost = text.slice(at, to).split('\n').length - put.split('\n').length
    sealed = sealed.slice(0, at) + put.slice(0, -1) + '\n'.repeat(Math.max(0, lost)) + put.slice(-1) + sealed.slice(to)
  }
  return { text: sealed, places }
}

/** Return local name -> method of what a module takes out of assert; "" stands for assert itself. */
function asserting (tree) {
  const found = new Map([['assert', '']])
  const assert = /^(node:)?assert(\/strict)?$|^chai$/
  for (const { node } of nodes(tree)) {
    if (node.type === 'ImportDeclaration' && assert.test(node.source.value)) {
      for (const each of node.specifiers) found.set(each.local.name, method(each.imported?.name ?? '', node.source.value))
    }
    if (node.type === 'VariableDeclarator' && node.init) {
      const call = node.init.type === 'MemberExpression' ? node.init.object : node.init
      if (call.type !== 'CallExpression' || path(call.callee)[0] !== 'require' || !assert.test(call.arguments[0]?.value)) continue
      if (node.id.type === 'Identifier') found.set(node.id.name, method(node.init.property?.name ?? '', call.arguments[0].value))
      for (const each of node.id.properties ?? []) {
        if (each.value?.type === 'Identifier') found.set(each.value.name, method(each.key.name, call.arguments[0].value))
      }
    }
  }
  return found
}

function method (name, from) {
  return /^(assert|strict|default)$/.test(name) ? '' : from === 'chai' && !name ? 'chai' : name
}

/** Return {subject, change: number -> what to put where} of a call that asserts something, else undefined. */
function assertion (node, own, text) {
  if (node.type === 'MemberExpression' || node.type === 'CallExpression') {
    const expected = expectation(node, text)
    if (expected) return expected
  }
  if (node.type !== 'CallExpression' || !node.arguments.length || node.arguments.some((each) => each.type === 'SpreadElement')) return
  const called = path(node.callee)
  if (!called.length) return
  const base = called.indexOf('assert') > 0 ? called.indexOf('assert') : 0
  if (base === 0 && !own.has(called[0])) return
  const [name, more] = [...(own.get(called[base]) ? [own.get(called[base])] : []), ...called.slice(base + 1).filter((each) => each !== 'strict')]
  if (more) return
  // a test context counts what is asserted through it
  const counted = base > 0 ? [`${called.slice(0, base + 1).join('.')}.ok([`, '])'] : ['void ', '']
  return whole(node, node.arguments, name ?? '', TRUTH, counted, text)
}

function whole (node, given, name, truth, [open, close], text) {
  const [left, right] = given.map((each) => source(text, each))
  if (EQUAL.test(name) && given.length > 1) {
    const swapped = literal(given[0]) && !literal(given[1])
    const [subject, other] = swapped ? [given[1], given[0]] : given
    if (literal(other)) {
      const shown = swapped ? right : left
      return { subject, change: (n) => ({ at: node.start, to: node.end, put: `${open}__seen__(${n}, (${shown}))${close}` }) }
    }
    if (nodes(other).some((each) => /^(Call|New|Await|Import)Expression$/.test(each.node.type))) return
    return { subject, change: (n) => ({ at: subject.start, to: subject.end, put: `__seen__(${n}, (${left}))` }) }
  }
  if (!Object.hasOwn(truth, name) || (truth[name].includes('{1}') && given.length < 2)) return
  const holds = truth[name].replace('{0}', () => left).replace('{1}', () => right)
  return { subject: given[0], change: (n) => ({ at: node.start, to: node.end, put: `${open}__holds__(${n}, (${holds}))${close}` }) }
}

/** Return the same for `expect(x).to.equal(5)`, `expect(x).toBe(5)`, `x.should.equal(5)` and `expect(x).to.be.true`. */
function expectation (node, text) {
  const called = node.type === 'CallExpression'
  let at = called ? node.callee : node
  if (at.type !== 'MemberExpression') return
  const chain = []
  while (at.type === 'MemberExpression' && !at.computed) {
    chain.unshift(at.property.name)
    if (at.property.name === 'should') break
    at = at.object
  }
  const should = chain[0] === 'should'
  const about = should ? at.object : at.type === 'CallExpression' && path(at.callee).join() === 'expect' ? at.arguments[0] : undefined
  const name = chain.at(-1)
  const words = chain.slice(should ? 1 : 0, -1)
  if (!about || about.type === 'SpreadElement' || !words.every((each) => CHAIN.test(each)) || words.includes('not')) return
  if (called && EQUAL.test(name) && node.arguments.length === 1) {
    if (!literal(node.arguments[0])) return
    return whole(node, [about, node.arguments[0]], name, {}, ['void ', ''], text)
  }
  const right = called ? /^to[A-Z]/.test(name) && !node.arguments.length : !/^to[A-Z]/.test(name)
  return right ? whole(node, [about], name, CHAIN_TRUTH, ['void ', ''], text) : undefined
}

/** Say whether a node stands for the same plain value always. */
function literal (node) {
  switch (node.type) {
    case 'Literal': return !node.regex
    case 'TemplateLiteral': return node.expressions.length === 0
    case 'UnaryExpression': return node.operator !== 'delete' && literal(node.argument)
    case 'Identifier': return /^(undefined|NaN|Infinity)$/.test(node.name)
    case 'ArrayExpression': return node.elements.every((each) => each && literal(each))
    case 'ObjectExpression': return node.properties.every((each) =>
      each.type === 'Property' && each.kind === 'init' && (!each.computed || literal(each.key)) && literal(each.value))
    default: return false
  }
}

/** Return {before, free}: what a test does before an assertion that is one of its own statements (see `Place`). */
function reproduction (text, node, subject, around, own) {
  const untold = { before: null, free: [] }
  const inner = around.filter((each) => each.type !== 'AwaitExpression')
  const number = inner.findLastIndex((each) => FUNCTION.test(each.type))
  const [test, block, statement] = inner.slice(number)
  if (number < 0 || inner.length !== number + 3 || statement.type !== 'ExpressionStatement') return untold
  const aside = (each) => each.type === 'ExpressionStatement' && (kind(bare(each.expression)) || asserts(bare(each.expression), own))
  const steps = block.body.slice(0, block.body.indexOf(statement)).filter((each) => !aside(each))
  const looked = [subject]
  const kept = []
  for (const each of steps.reverse()) {
    const { bound } = names([each])
    const { used } = names(looked)
    if (each.type === 'VariableDeclaration' && ![...bound].some((name) => used.has(name))) continue
    looked.unshift(each)
    kept.unshift(each)
  }
  const needed = new Set()
  const free = new Set()
  const waiting = [...names(looked).used]
  const { bound } = names(looked)
  const outer = around.slice(0, around.indexOf(test)).flatMap((each) => each.type === 'Program' || each.type === 'BlockStatement' ? each.body : [])
  for (const name of waiting) {
    if (bound.has(name) || KNOWN.has(name)) continue
    const made = outer.findLast((each) => binds(each).has(name))
    if (!made || made.end - made.start > LONGEST || (made.type === 'VariableDeclaration' && made.declarations.some((each) => !each.init))) {
      free.add(name)
    } else if (!needed.has(made)) {
      needed.add(made)
      const { used, bound: own } = names([made])
      waiting.push(...[...used].filter((each) => !own.has(each)))
    }
  }
  const said = [...[...needed].sort((a, b) => a.start - b.start).map((each) => near(source(text, each))), ...kept.map((each) => dedented(text, each))]
  return { before: said.join('\n'), free: [...free].sort() }
}

function bare (expression) {
  return expression.type === 'AwaitExpression' ? bare(expression.argument) : expression
}

/** Say whether what stands inside of a call is to throw: it must go on doing so. */
function raises (node) {
  const called = node.type === 'CallExpression' && (node.callee.property ?? node.callee).name
  return /^(throws?|throwsAsync|rejects|doesNotThrow|doesNotReject|toThrow\w*|rejected\w*)$/.test(called || '')
}

function asserts (expression, own) {
  if (expression.type !== 'CallExpression' && expression.type !== 'MemberExpression') return false
  let at = expression
  while (at.type === 'CallExpression' || at.type === 'MemberExpression') {
    if (at.type === 'MemberExpression' && /^(should|assert|plan)$/.test(at.property.name)) return true
    at = at.callee ?? at.object
  }
  return at.type === 'Identifier' && (own.has(at.name) || /^(expect|done)$/.test(at.name))
}

function binds (statement) {
  if (statement.type === 'VariableDeclaration' || statement.type === 'ImportDeclaration') return names([statement]).bound
  return new Set(/^(Function|Class)Declaration$/.test(statement.type) ? [statement.id.name] : [])
}

/** Return an import as it would be written at the top of the project. */
function near (text) {
  if (!/\brequire\(|^import\b/.test(text)) return text
  return text.replace(/(['"])\.\.((?:\/\.\.)*)(\/[^'"]*)?\1/g, (_, quote, more, rest) => `${quote}.${rest && rest !== '/' ? rest : ''}${quote}`)
}

function dedented (text, node) {
  const indent = text.slice(text.lastIndexOf('\n', node.start - 1) + 1, node.start)
  return source(text, node).split('\n').map((line) => line.startsWith(indent) && !indent.trim() ? line.slice(indent.length) : line).join('\n')
}

function source (text, { start, end }) {
  return text.slice(start, end)
}

module.exports = { seal }
