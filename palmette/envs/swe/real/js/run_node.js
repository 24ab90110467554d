// Runs a project's test files, each in a process of its own as `node --test` does, and says test by test what came out.
//
// It reads and writes the lines that run_pytest.py reads and writes. What happens inside of a process with tests is in
// in_node.js, whose text stands for "@inside" below. A process with code under test talks on a descriptor of its own;
// nothing that it says can be believed but for its digests (see judge_suite.py).
'use strict'
const { spawn } = require('node:child_process')
const fs = require('node:fs')
const path = require('node:path')
const readline = require('node:readline')

const INSIDE = '@inside'
const FILE_S = 40 // the longest that one file may take
const REPORTER = 'data:text/javascript,export default (source) => globalThis[Symbol.for("palmette")](source)'

const tell = (what) => fs.writeSync(1, JSON.stringify(what) + '\n')

async function main () {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const wanted = JSON.parse(line)
    if ('warm' in wanted) continue
    const late = await run(wanted, Date.now() + 1000 * (wanted.fork || 3600))
    if (!late) tell({ end: 0 })
    if (!wanted.fork) process.exit(0)
    tell({ over: late ? 'late' : 0 })
  }
}

async function run (wanted, ends) {
  const modules = wanted.path.at(-1)
  try { fs.symlinkSync(modules, 'node_modules') } catch {} // as if they were installed here; one is there the second time
  const open = new Set()
  for (const file of wanted.files) {
    const only = wanted.only && wanted.only.filter((test) => test.startsWith(file + '::'))
    if (only && !only.length) continue
    const late = await runFile({ ...wanted, files: undefined, file, only, modules }, open, ends)
    if (late) return true
  }
  tell({ open: [...open].sort((a, b) => a - b) })
  return false
}

function runFile (asked, open, ends) {
  const flags = ['--import', 'data:text/javascript,' + encodeURIComponent(INSIDE)]
  flags.push('--test-reporter', REPORTER, '--test-reporter-destination', 'stdout', '--disable-wasm-trap-handler')
  const env = { ...process.env, NODE_PATH: asked.modules, NODE_ENV: 'test', PALMETTE_ASKED: JSON.stringify(asked) }
  const child = spawn(process.execPath, [...flags, ...asked.options, path.resolve(asked.file)], {
    env, detached: true, stdio: ['ignore', 'ignore', 'pipe', 'pipe']
  })
  let said = ''
  let tests = 0
  let done = false
  let late = false
  const end = () => { try { process.kill(-child.pid, 'SIGKILL') } catch {} }
  const timer = setTimeout(() => { late = true; end() }, Math.min(ends - Date.now(), 1000 * FILE_S))
  child.stderr.on('data', (part) => { said = (said + part).slice(-4000) })
  readline.createInterface({ input: child.stdio[3] }).on('line', (line) => {
    let told
    try { told = JSON.parse(line) } catch { return }
    if (told.open) told.open.forEach((place) => open.add(place))
    if (told.t) { tests++; tell(told) }
    if (told.done) { done = true; setTimeout(end, 300) } // what it has left open keeps it no longer
  })
  return new Promise((resolve) => child.on('close', (code, signal) => {
    clearTimeout(timer)
    end()
    if (!late && (!done || !tests) && !(asked.only && tests)) {
      const why = said.match(/^(?:\w*Error\b|Cannot find).*$/m)
      tell({ e: asked.file, m: (why ? why[0] : said.trim().slice(-400)) || `no tests; it ended with ${signal || code}` })
    }
    resolve(late)
  }))
}

main()
