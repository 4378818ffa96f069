// OpenAI's client and `puyu serve`: what the client makes of answers, streams, tools, forms, errors and aborted requests.
// The model's weights are random, so that whatever an answer has to say it is held to by a form or a bias.
import assert from 'node:assert/strict';
import {execFileSync, spawn} from 'node:child_process';
import {mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {after, before, test} from 'node:test';
import OpenAI from 'openai';

const KEY = 'conformance-key', MODEL = 'tiny';
const dir = mkdtempSync(join(tmpdir(), 'puyu-conformance-'));
const messages = [{role: 'user', content: 'the quick fox'}];
let server, base, client;

before(async () => {
  const puyu = process.env.PUYU, quiet = {stdio: ['ignore', 'ignore', 'inherit']};
  const words = readFileSync(new URL('conformance.mjs', import.meta.url), 'utf8');
  writeFileSync(join(dir, 'text.txt'), words);
  execFileSync(puyu, ['init', '--shape', 'puyu-2m', '--vocab-size', '512', '--out', join(dir, 'model')], quiet);
  execFileSync(puyu, ['tokenizer', 'train', '--vocab-size', '512', '--out', join(dir, 'model'), join(dir, 'text.txt')], quiet);
  server = spawn(puyu, ['serve', join(dir, 'model'), '--port', '0', '--name', MODEL, '--memory', '0.25', '--quiet'],
                 {stdio: ['ignore', 'pipe', 'inherit'], env: {...process.env, PUYU_API_KEYS: KEY}});
  base = await new Promise((good, bad) => {
    server.stdout.once('data', line => good(String(line).trim()));
    server.once('exit', code => bad(new Error(`the server ended with ${code}`)));
  });
  client = new OpenAI({apiKey: KEY, baseURL: `${base}/v1`, maxRetries: 0});
});

after(async () => {
  const ended = new Promise(good => server.once('exit', good));
  server.kill('SIGTERM');
  assert.equal(await ended, 0);
  rmSync(dir, {recursive: true});
});

async function metric(name) {
  const text = await (await fetch(`${base}/metrics`, {headers: {Authorization: `Bearer ${KEY}`}})).text();
  return Number(text.match(new RegExp(`^${name} (\\S+)$`, 'm'))[1]);
}

const idle = async () => {
  for (let i = 0; i < 200 && await metric('puyu_requests_running') + await metric('puyu_kv_blocks_used') > 0; i++)
    await new Promise(done => setTimeout(done, 25));
  assert.equal(await metric('puyu_requests_running'), 0);
  assert.equal(await metric('puyu_kv_blocks_used'), 0);
};

test('models', async () => {
  const list = await client.models.list();
  assert.deepEqual(list.data.map(m => m.id), [MODEL]);
  assert.equal((await client.models.retrieve(MODEL)).object, 'model');
  await assert.rejects(client.models.retrieve('other'), OpenAI.NotFoundError);
});

test('chat', async () => {
  const chat = await client.chat.completions.create({model: MODEL, messages, temperature: 0, max_tokens: 20, n: 2});
  assert.equal(chat.object, 'chat.completion');
  assert.equal(chat.choices.length, 2);
  assert.equal(chat.choices[0].message.role, 'assistant');
  assert.equal(chat.choices[0].message.content, chat.choices[1].message.content);
  assert.equal(chat.choices[0].finish_reason, 'length');
  assert.equal(chat.usage.completion_tokens, 40);
  assert.equal(chat.usage.total_tokens, chat.usage.prompt_tokens + 40);
  const told = await client.chat.completions.create({model: MODEL, messages, temperature: 0, max_tokens: 4, logprobs: true, top_logprobs: 2});
  assert.equal(told.choices[0].logprobs.content.length, 4);
  assert.equal(told.choices[0].logprobs.content[0].top_logprobs.length, 2);
});

test('streams', async () => {
  const how = {model: MODEL, messages, temperature: 0, max_tokens: 40};
  const whole = await client.chat.completions.create(how);
  let text = '', usage, finish;
  for await (const chunk of await client.chat.completions.create({...how, stream: true, stream_options: {include_usage: true}})) {
    text += chunk.choices[0]?.delta.content ?? '';
    finish ??= chunk.choices[0]?.finish_reason;
    usage ??= chunk.usage;
  }
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(finish, 'length');
  assert.equal(usage.completion_tokens, 40);
  const helper = client.chat.completions.stream(how);
  let deltas = '';
  helper.on('content', delta => deltas += delta);
  const final = await helper.finalChatCompletion();
  assert.equal(deltas, text);
  assert.equal(final.choices[0].message.content, text);
});

test('completions', async () => {
  const how = {model: MODEL, prompt: ['one', 'two'], temperature: 0, max_tokens: 8};
  const whole = await client.completions.create({...how, logprobs: 1});
  assert.equal(whole.choices[1].logprobs.tokens.length, 8);
  const texts = ['', ''];
  for await (const chunk of await client.completions.create({...how, stream: true}))
    for (const choice of chunk.choices) texts[choice.index] += choice.text;
  assert.deepEqual(texts, whole.choices.map(c => c.text));
});

const tool = name => ({type: 'function', function: {name, parameters: {
  type: 'object', properties: {days: {type: 'integer', minimum: 1, maximum: 9}}, required: ['days']}}});
const tools = [tool('weather'), tool('clock')];

test('a call that has to be made', async () => {
  const how = {model: MODEL, messages, tools, seed: 3, tool_choice: {type: 'function', function: {name: 'weather'}}};
  const chat = await client.chat.completions.create(how);
  const call = chat.choices[0].message.tool_calls[0];
  assert.equal(chat.choices[0].finish_reason, 'tool_calls');
  assert.equal(call.function.name, 'weather');
  assert.ok(JSON.parse(call.function.arguments).days <= 9);
  const final = await client.chat.completions.stream(how).finalChatCompletion();
  assert.equal(final.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
  const back = await client.chat.completions.create({model: MODEL, temperature: 0, ignore_eos: true, max_tokens: 4, tools, messages: [
    ...messages, chat.choices[0].message, {role: 'tool', tool_call_id: call.id, content: 'sun'}]});
  assert.equal(back.usage.completion_tokens, 4);
});

test('parallel calls in a stream', async () => {
  const one = name => `<\\|action_start\\|><\\|plugin\\|>\\{"name": "${name}", "parameters": \\{"days": [1-9]{6}\\}\\}<\\|action_end\\|>`;
  const how = {model: MODEL, messages, tools, seed: 3, guided_regex: `Let me see\\. ${one('weather')}\n${one('clock')}`};
  const whole = (await client.chat.completions.create(how)).choices[0];
  const helper = client.chat.completions.stream(how), names = [];
  helper.on('tool_calls.function.arguments.done', call => names.push(call.name));
  const final = (await helper.finalChatCompletion()).choices[0];
  assert.deepEqual(names, ['weather', 'clock']);
  assert.equal(final.finish_reason, 'tool_calls');
  assert.equal(final.message.content, 'Let me see.');
  assert.equal(whole.message.content, 'Let me see.');
  assert.deepEqual(final.message.tool_calls.map(c => c.function.arguments), whole.message.tool_calls.map(c => c.function.arguments));
  assert.notEqual(final.message.tool_calls[0].id, final.message.tool_calls[1].id);
});

test('tools that the client runs', async () => {
  const asked = [];
  const weather = {...tool('weather'), function: {...tool('weather').function, function: args => (asked.push(args), 'sun'), parse: JSON.parse}};
  const runner = client.chat.completions.runTools({model: MODEL, messages, seed: 1, max_tokens: 100, tools: [weather],
    tool_choice: {type: 'function', function: {name: 'weather'}}});
  await runner.done();
  assert.equal(asked.length, 1);
  assert.ok(asked[0].days >= 1 && asked[0].days <= 9);
});

test('answers of a form', async () => {
  const schema = {type: 'object', properties: {fox: {enum: ['red', 'grey']}, n: {type: 'integer', minimum: 10, maximum: 99}},
                  required: ['fox', 'n'], additionalProperties: false};
  const parsed = await client.chat.completions.parse({model: MODEL, messages,
    response_format: {type: 'json_schema', json_schema: {name: 'fox', strict: true, schema}}});
  const said = JSON.parse(parsed.choices[0].message.content);
  assert.ok(['red', 'grey'].includes(said.fox) && said.n >= 10 && said.n <= 99);
  assert.equal(parsed.choices[0].finish_reason, 'stop');
});

test('errors', async () => {
  const ask = (more, who = client) => who.chat.completions.create({model: MODEL, messages, max_tokens: 1, ...more});
  await assert.rejects(ask({temperature: 9}), e => e instanceof OpenAI.BadRequestError && e.param === 'temperature' &&
    e.type === 'invalid_request_error' && /from 0 to 2/.test(e.message));
  await assert.rejects(ask({model: 'gpt'}), e => e instanceof OpenAI.NotFoundError && e.code === 'model_not_found');
  await assert.rejects(ask({messages: []}), OpenAI.BadRequestError);
  await assert.rejects(ask({stream: true, max_tokens: -1}), OpenAI.BadRequestError);
  await assert.rejects(ask({messages: [{role: 'user', content: 'a '.repeat(40000)}]}), e => e.code === 'context_length_exceeded');
  const stranger = new OpenAI({apiKey: 'wrong', baseURL: `${base}/v1`, maxRetries: 0});
  await assert.rejects(ask({}, stranger), e => e instanceof OpenAI.AuthenticationError && e.code === 'invalid_api_key');
  await assert.rejects(client.embeddings.create({model: MODEL, input: 'x'}), OpenAI.NotFoundError);
});

test('aborted requests', async () => {
  const long = {model: MODEL, messages, max_tokens: 2000, ignore_eos: true};
  const cancelled = await metric('puyu_requests_cancelled_total');
  const stream = await client.chat.completions.create({...long, stream: true});
  let pieces = 0;
  for await (const _ of stream)
    if (++pieces === 3) stream.controller.abort();
  assert.ok(pieces >= 3);
  const stop = new AbortController();
  setTimeout(() => stop.abort(), 50);
  await assert.rejects(client.chat.completions.create(long, {signal: stop.signal}), OpenAI.APIUserAbortError);
  await idle();
  assert.equal(await metric('puyu_requests_cancelled_total'), cancelled + 2);
});
