// Finds tests by their names, and what a text imports.
'use strict'
const { nodes, parse, path, visit } = require('./parse.js')

const TESTS = /^(test|it|specify|xit)$/
const SUITES = /^(describe|suite|context|xdescribe)$/
const MANNER = /^(skip|only|todo)$/

/** Return "test", "suite" or "" for a call, by what it calls: `it(...)`, `test.skip(...)`, `t.test(...)`. */
function kind (call) {
  const said = call.type === 'CallExpression' ? path(call.callee) : []
  if (MANNER.test(said.at(-1))) said.pop()
  const last = said.at(-1) ?? ''
  if (said.length > 2 || !call.arguments?.length) return ''
  return TESTS.test(last) ? 'test' : SUITES.test(last) ? 'suite' : ''
}

/** Return a text without tests; `tests` are full names, their parts joined by " > ". */
function without (text, { tests }) {
  const tree = parse(text)
  const wanted = tests.map((name) => name.replace(/ #\d+$/, ''))
  const gone = []
  visit(tree, (node, around) => {
    if (kind(node) !== 'test') return
    const full = [...around.filter(kind), node].map((call) => pattern(call.arguments[0])).join(' > ')
    const is = new RegExp(`^${full}$`, 's')
    const statement = [...around].reverse().find((each) => each.type === 'ExpressionStatement')
    if (statement && wanted.some((name) => is.test(name))) gone.push(statement)
  })
  let left = text
  let before = Infinity
  for (const { start, end } of gone.sort((a, b) => b.start - a.start || a.end - b.end)) {
    if (end > before) continue
    const first = text.lastIndexOf('\n', start - 1) + 1
    const blank = !text.slice(first, start).trim() && text[end] === '\n'
    left = blank ? left.slice(0, first) + left.slice(end + 1) : left.slice(0, start) + ';' + left.slice(end)
    before = start
  }
  return left
}

/** Return what names of a test look like: those that are made when it runs fit many. */
function pattern (name) {
  const escape = (each) => each.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')
  if (name.type === 'Literal') return escape(String(name.value))
  if (name.type === 'TemplateLiteral') return name.quasis.map((each) => escape(each.value.cooked)).join('.*')
  return '.*'
}

/** Return what a text imports and requires by a plain name. */
function specifiers (text) {
  const found = new Set()
  for (const { node } of nodes(parse(text))) {
    const called = node.type === 'CallExpression' && /^require(\.resolve)?$/.test(path(node.callee).join('.'))
    const source = called ? node.arguments[0] : node.source
    if (source && typeof source.value === 'string') found.add(source.value)
  }
  return [...found]
}

module.exports = { kind, specifiers, without }
