// The ordinary use of the ollama package, at each host that is named; prints what it got as one JSON object.
import { Ollama } from 'ollama'

const { hosts, model, embedder } = JSON.parse(process.argv[2])
const messages = [{ role: 'user', content: 'Why is the sky blue?' }]
const options = { num_predict: 20, temperature: 0 }
const schema = { type: 'object', properties: { colour: { type: 'string' }, number: { type: 'integer' } }, required: ['colour'] }
const tools = [{
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'The weather of a city',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
}]

async function used(host) {
  const client = new Ollama({ host })
  const whole = await client.chat({ model, messages, options })
  const parts = []
  for await (const part of await client.chat({ model, messages, options, stream: true })) parts.push(part)
  const last = parts.at(-1)

  const called = await client.chat({ model, messages, tools })
  const calls = []
  for await (const part of await client.chat({ model, messages, tools, stream: true })) {
    calls.push(...(part.message.tool_calls ?? []))
  }
  const conversation = [...messages, called.message, { role: 'tool', tool_name: 'get_weather', content: 'sunny' }]
  const answered = await client.chat({ model, messages: conversation, tools, options })

  const generated = await client.generate({ model, prompt: 'Once upon a time', options })
  const structured = await client.chat({ model, messages, format: schema })
  const embedded = await client.embed({ model: embedder, input: ['good day', 'good night'] })
  let error = null
  try {
    await client.chat({ model: 'nope', messages })
  } catch (raised) {
    error = { name: raised.name, status: raised.status_code, text: raised.message }
  }
  return {
    chat: { text: whole.message.content, role: whole.message.role, reason: whole.done_reason, written: whole.eval_count },
    stream: {
      text: parts.map(part => part.message.content).join(''),
      several: parts.length > 10,
      endings: parts.filter(part => part.done).length,
      reason: last.done_reason,
      written: last.eval_count,
      timed: last.total_duration > 0,
    },
    tools: called.message.tool_calls.map(call => call.function),
    streamedTools: calls.map(call => call.function),
    answered: answered.message.content.length > 0 && !answered.message.tool_calls,
    generated: generated.response,
    structured: JSON.parse(structured.message.content),
    embedded: embedded.embeddings.map(vector => [vector.length, vector[0]]),
    models: (await client.list()).models.map(one => one.name).sort(),
    error,
  }
}

const told = host => used(host).catch(raised => ({ failed: raised.stack }))
const results = await Promise.all(hosts.map(told))
console.log(JSON.stringify(Object.fromEntries(hosts.map((host, place) => [host, results[place]]))))
