// The ordinary use of the openai package, at each host that is named; prints what it got as one JSON object.
import OpenAI from 'openai'

const { hosts, model, embedder } = JSON.parse(process.argv[2])
const messages = [{ role: 'user', content: 'Why is the sky blue?' }]
const short = { max_tokens: 20, temperature: 0 }
const schema = { type: 'object', properties: { colour: { type: 'string' }, number: { type: 'integer' } }, required: ['colour'] }
const format = { type: 'json_schema', json_schema: { name: 'answer', strict: true, schema } }
const tools = [{
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'The weather of a city',
    parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  },
}]

async function streamed(client, more) {
  // The package puts the pieces together itself, and raises if they are out of order.
  const runner = client.chat.completions.stream({ model, messages, ...more, stream_options: { include_usage: true } })
  let pieces = 0
  runner.on('content', () => { pieces += 1 })
  const whole = await runner.finalChatCompletion()
  return { pieces, message: whole.choices[0].message, reason: whole.choices[0].finish_reason, usage: whole.usage }
}

async function used(host) {
  const client = new OpenAI({ baseURL: `${host}/v1`, apiKey: 'none', maxRetries: 0 })
  const whole = await client.chat.completions.create({ model, messages, ...short })
  const pieces = await streamed(client, short)
  const called = await client.chat.completions.create({ model, messages, tools })
  const calls = await streamed(client, { tools })
  const call = called.choices[0].message.tool_calls[0]
  const conversation = [...messages, called.choices[0].message, { role: 'tool', tool_call_id: call.id, content: 'sunny' }]
  const answered = await client.chat.completions.create({ model, messages: conversation, tools, ...short })
  const structured = await client.chat.completions.create({ model, messages, response_format: format })
  const embedded = await client.embeddings.create({ model: embedder, input: ['good day', 'good night'] })
  let error = null
  try {
    await client.chat.completions.create({ model: 'nope', messages })
  } catch (raised) {
    error = { kind: raised.constructor.name, status: raised.status, type: raised.type }
  }
  const models = []
  for await (const one of await client.models.list()) models.push(one.id)
  return {
    chat: {
      text: whole.choices[0].message.content,
      reason: whole.choices[0].finish_reason,
      written: whole.usage.completion_tokens,
    },
    stream: {
      text: pieces.message.content,
      several: pieces.pieces > 10,
      reason: pieces.reason,
      written: pieces.usage.completion_tokens,
    },
    tools: called.choices[0].message.tool_calls.map(one => [one.type, one.function.name, JSON.parse(one.function.arguments)]),
    ids: called.choices[0].message.tool_calls.every(one => one.id.length > 0),
    reason: called.choices[0].finish_reason,
    streamedTools: calls.message.tool_calls.map(one => [one.type, one.function.name, JSON.parse(one.function.arguments)]),
    streamedReason: calls.reason,
    answered: answered.choices[0].message.content.length > 0,
    structured: JSON.parse(structured.choices[0].message.content),
    embedded: embedded.data.map(one => [one.embedding.length, Math.round(one.embedding[0] * 1e6)]),
    models: models.sort(),
    error,
  }
}

const told = host => used(host).catch(raised => ({ failed: raised.stack }))
const results = await Promise.all(hosts.map(told))
console.log(JSON.stringify(Object.fromEntries(hosts.map((host, place) => [host, results[place]]))))
