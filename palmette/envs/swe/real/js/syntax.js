// Answers what palmette.envs.swe.real.syntax asks about texts in JavaScript: {"do": what, "text": ..., ...}, a line
// each, the answer as a line of JSON. Nothing of the text is run. Acorn is found by NODE_PATH.
'use strict'
const { mutations } = require('./mutate.js')
const { seal } = require('./seal.js')
const { specifiers, without } = require('./tests.js')

const DO = { mutations, seal, specifiers, without }

require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
  const asked = JSON.parse(line)
  let answer
  try {
    answer = { found: DO[asked.do](asked.text, asked) }
  } catch (error) {
    answer = { error: `${error.name}: ${error.message}` } // no JavaScript, or some of a kind that is not understood
  }
  process.stdout.write(JSON.stringify(answer) + '\n')
})
