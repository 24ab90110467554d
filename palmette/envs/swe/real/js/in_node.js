// Goes before a test file in its process: watches node's test runner and takes down what sealed tests see. Tests in the
// manner of mocha (describe, it, before, done) are handed to node's runner.
import crypto from 'node:crypto'
import fs from 'node:fs'
import inspector from 'node:inspector'
import path from 'node:path'
import test from 'node:test'
import { fileURLToPath } from 'node:url'
import util from 'node:util'

const asked = JSON.parse(process.env.PALMETTE_ASKED)
delete process.env.PALMETTE_ASKED
const top = process.cwd() + path.sep
const IDLE_MS = 1500
const only = asked.only && new Set(asked.only)
const running = [] // tests that run, the innermost last
const ran = new Map() // name -> tests of that name, in the order in which they ran
const open = new Set()
const out = (what) => fs.writeSync(3, JSON.stringify(what) + '\n')

// ---- what tests see

class Opaque extends Error {}

function canonical (value, depth = 0) {
  if (value === null) return 'N'
  const inner = (each) => canonical(each, depth + 1)
  switch (typeof value) {
    case 'undefined': return 'Nu'
    case 'boolean': return value ? 'B1' : 'B0'
    case 'number': return 'n' + value // 0 and -0 are one
    case 'bigint': return 'i' + value
    case 'string': return 's' + JSON.stringify(value)
    case 'object': break
    default: throw new Opaque()
  }
  if (depth > 30 || value instanceof Promise || value instanceof WeakMap || value instanceof Error) throw new Opaque()
  if (Array.isArray(value)) return 'l[' + Array.from(value, inner) + ']'
  if (value instanceof Date) return 'D' + value.getTime()
  if (value instanceof RegExp) return 'r' + value
  if (value instanceof Map) return 'm[' + Array.from(value, ([k, v]) => inner(k) + ':' + inner(v)).sort() + ']'
  if (value instanceof Set) return 'u[' + Array.from(value, inner).sort() + ']'
  if (ArrayBuffer.isView(value)) {
    return 'b' + Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString('hex')
  }
  return 'd[' + Object.keys(value).sort().map((key) => JSON.stringify(key) + ':' + inner(value[key])) + ']'
}

function plain (value) {
  try { return canonical(value) } catch { return '?' }
}

function shown (value) {
  try {
    return util.inspect(value, { depth: 8, breakLength: Infinity, maxStringLength: 300 }).slice(0, 300)
  } catch (error) { return error.name }
}

function see (place, text, value) {
  if (text === '?') open.add(place)
  const test = running.at(-1)
  if (!test) return
  test.values += !'?NB'.includes(text[0])
  test.digest.update(text + '\n')
  if (asked.values && test.seen.length < 400) test.seen.push([place, text.slice(0, 2000), shown(value)])
}

globalThis.__seen__ = (place, value) => { see(place, plain(value), value); return value }
globalThis.__holds__ = (place, value) => { see(place, value ? 'B1' : 'B0', !!value) }

// ---- which functions a test calls

const session = asked.trace && new inspector.Session()
const lines = new Map() // address of a script -> where its lines begin
if (session) {
  session.connect()
  session.post('Profiler.enable')
  session.post('Profiler.startPreciseCoverage', { callCount: true, detailed: false })
}

function called () {
  const found = new Set()
  if (!session) return found
  session.post('Profiler.takePreciseCoverage', (_, { result }) => {
    for (const { url, functions } of result) {
      const file = url.startsWith('file:') && fileURLToPath(url)
      if (!file || !file.startsWith(top) || file.includes('node_modules')) continue
      for (const { ranges: [range] } of functions) {
        if (range.count && range.startOffset) found.add(`${file.slice(top.length)}:${line(file, range.startOffset)}`)
      }
    }
  })
  return found
}

function line (file, offset) {
  if (!lines.has(file)) lines.set(file, [...fs.readFileSync(file, 'utf8').matchAll(/\n/g)].map((each) => each.index))
  const ends = lines.get(file)
  let [low, high] = [0, ends.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if (ends[middle] < offset) low = middle + 1
    else high = middle
  }
  return low + 1
}

// ---- node's test runner

test.beforeEach((context) => {
  const one = { name: context.fullName, digest: crypto.createHash('sha256'), values: 0, seen: [], calls: new Set() }
  ran.set(one.name, [...(ran.get(one.name) ?? []), one])
  running.push(one)
  called()
})
test.afterEach(() => {
  const one = running.pop()
  if (one) one.calls = called()
})

globalThis[Symbol.for('palmette')] = async function * (source) {
  const names = []
  const parents = new Set()
  const counts = new Map()
  let waiting = 0
  let idle
  for await (const { type, data } of source) {
    waiting += (type === 'test:enqueue') - (type === 'test:pass' || type === 'test:fail')
    clearTimeout(idle) // a server that is left open keeps the process, and the runner then does not end
    if (!waiting) idle = setTimeout(finish, IDLE_MS).unref()
    if (type === 'test:start') {
      names.length = data.nesting
      names.push(data.name)
      parents.delete(data.nesting)
    } else if (type === 'test:pass' || type === 'test:fail') {
      const full = [...names.slice(0, data.nesting), data.name].join(' > ')
      const parent = parents.has(data.nesting)
      if (data.nesting) parents.add(data.nesting - 1)
      if (data.details.type === 'suite' || parent) continue
      const number = counts.get(full) ?? 0
      counts.set(full, number + 1)
      report(full, number, type === 'test:pass', data)
    }
  }
  finish()
  yield ''
}

function finish () {
  out({ open: [...open] })
  out({ done: 1 })
}

function report (full, number, passed, data) {
  const name = `${asked.file}::${full}` + (number ? ` #${number + 1}` : '')
  if (only && !only.has(name)) return
  const one = ran.get(full)?.[number]
  const told = { t: name, o: passed ? 'passed' : 'failed', d: one ? one.digest.digest('hex').slice(0, 16) : '' }
  if (data.skip !== undefined || data.todo !== undefined || (passed && !one)) told.o = 'skipped'
  told.v = one ? one.values : 0
  if (!passed) told.m = message(data.details.error)
  if (asked.trace) told.c = one ? [...one.calls].sort() : []
  if (asked.values) told.s = one ? one.seen : []
  out(told)
}

function message (error) {
  const cause = error?.cause ?? error
  if (!(cause instanceof Error) && !cause?.message) return shown(cause)
  const own = cause.code === 'ERR_ASSERTION' || /Assertion/.test(cause.name)
  return (own ? 'assert: ' : `${cause.name}: `) + String(cause.message).slice(0, 3000)
}

// ---- the manner of mocha

const shared = { timeout () { return this }, slow () { return this }, retries () { return this } }
const SKIP = Symbol('skip')
shared.skip = () => { throw SKIP }

function body (run) {
  if (typeof run !== 'function') return undefined
  return async (context) => {
    try {
      if (!run.length) return await run.call(shared)
      await new Promise((resolve, reject) => {
        const done = (error) => error ? reject(error) : resolve()
        const answer = run.call(shared, Object.assign(done, { fail: reject }))
        if (answer && answer.then) answer.then(resolve, reject)
      })
    } catch (error) {
      if (error !== SKIP) throw error
      context.skip?.()
    }
  }
}

const suite = (kind) => (name, run) => kind(String(name), () => { if (run) run.call(shared) })
const single = (kind) => (name, run) => run ? kind(String(name), body(run)) : test.it.skip(String(name))
const hook = (kind) => (name, run) => kind(body(run ?? name))
const each = (make, kind) => Object.assign(make(kind), { skip: make(kind.skip), only: make(kind) })
const manner = {
  describe: each(suite, test.describe),
  it: each(single, test.it),
  before: hook(test.before),
  after: hook(test.after),
  beforeEach: hook(test.beforeEach),
  afterEach: hook(test.afterEach)
}
Object.assign(manner, { context: manner.describe, suite: manner.describe, specify: manner.it, test: manner.it })
Object.assign(manner, { setup: manner.beforeEach, teardown: manner.afterEach })
Object.assign(manner, { suiteSetup: manner.before, suiteTeardown: manner.after })
Object.assign(manner, { xit: manner.it.skip, xdescribe: manner.describe.skip })
Object.assign(globalThis, manner)

