// A text as a tree, and what several files ask about trees.
'use strict'
const acorn = require('acorn')
const walk = require('acorn-walk')

const OPTIONS = { ecmaVersion: 'latest', allowHashBang: true, allowReturnOutsideFunction: true, allowAwaitOutsideFunction: true }
const FUNCTION = /^(FunctionDeclaration|FunctionExpression|ArrowFunctionExpression)$/

/** Return the tree of a script or a module, with its tokens where a list for them is given. Throws a SyntaxError. */
function parse (text, tokens) {
  try {
    return acorn.parse(text, { ...OPTIONS, sourceType: 'script', onToken: tokens })
  } catch {
    if (tokens) tokens.length = 0
    return acorn.parse(text, { ...OPTIONS, sourceType: 'module', onToken: tokens })
  }
}

/** Call `visit` with every node and those around it, the outermost first, in the order of the text. */
function visit (tree, each) {
  const found = []
  walk.fullAncestor(tree, (node, _, around) => found.push([node, around.filter((one) => one !== node)]))
  found.sort(([a], [b]) => a.start - b.start || b.end - a.end)
  for (const [node, around] of found) each(node, around)
}

/** Return all nodes of a tree; `pattern` says which of them are targets instead of values. */
function nodes (tree) {
  const found = []
  walk.full(tree, (node, _, type) => found.push({ node, pattern: /Pattern$/.test(type) }))
  return found
}

/** Return the names that trees take the values of, and those that they bind. */
function names (trees) {
  const used = new Set()
  const bound = new Set()
  for (const tree of trees) {
    for (const { node, pattern } of nodes(tree)) {
      if (node.type === 'Identifier') (pattern ? bound : used).add(node.name)
      if (node.id && FUNCTION.test(node.type)) bound.add(node.id.name)
      if (node.type === 'ClassDeclaration') bound.add(node.id.name)
      if (/^Import\w*Specifier$/.test(node.type)) bound.add(node.local.name)
      for (const each of node.type === 'ImportDeclaration' ? node.specifiers : []) bound.add(each.local.name)
      for (const each of node.params ?? []) if (each.type === 'Identifier') bound.add(each.name)
    }
  }
  return { used, bound }
}

/** Return what turns places in a text into places in its bytes. */
function bytes (text) {
  if (/^[\0-\x7f]*$/.test(text)) return (at) => at
  const sums = [0]
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at)
    const surrogate = code >= 0xd800 && code < 0xe000
    sums.push(sums[at] + (code < 0x80 ? 1 : code < 0x800 || surrogate ? 2 : 3))
  }
  return (at) => sums[at]
}

/** Return what a callee is called, such as ["t", "test"]; [] where that is not plain. */
function path (node) {
  if (node.type === 'Identifier') return [node.name]
  if (node.type !== 'MemberExpression' || node.computed || node.property.type !== 'Identifier') return []
  const before = path(node.object)
  return before.length ? [...before, node.property.name] : []
}

module.exports = { FUNCTION, bytes, names, nodes, parse, path, visit }
