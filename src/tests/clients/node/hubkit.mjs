// What the tests stand on: a server process of their own, sessions, and streams that remember everything they were told.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import grpc from '@grpc/grpc-js';
import loader from '@grpc/proto-loader';
import protobuf from 'protobufjs';

// HUB_ROOT is set when the suite runs from a copy of its directory.
export const ROOT = process.env.HUB_ROOT ?? path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../../..');
const BINARY = process.env.HUB_BINARY ?? path.join(ROOT, 'target/release/streamward');
export const PATIENCE = 15_000; // ms anything may take on a busy machine before a test calls it missing

const OPTIONS = { keepCase: true, longs: Number, enums: String, defaults: true, oneofs: true };
const definition = loader.loadSync(
  ['admin', 'message', 'reason', 'session'].map((file) => `streamward/v1/${file}.proto`),
  { ...OPTIONS, includeDirs: [path.join(ROOT, 'proto')] },
);
const v1 = grpc.loadPackageDefinition(definition).streamward.v1;
export const methods = v1.MessageService.service;

// The public messages that are not in our contract: status details and health.
const common = protobuf.parse(
  `syntax = "proto3";
  message Any { string type_url = 1; bytes value = 2; }
  message Status { int32 code = 1; string message = 2; repeated Any details = 3; }
  message Duration { int64 seconds = 1; int32 nanos = 2; }
  message ErrorInfo { string reason = 1; string domain = 2; map<string, string> metadata = 3; }
  message RetryInfo { Duration retry_delay = 1; }
  message Violation { string subject = 1; string description = 2; }
  message QuotaFailure { repeated Violation violations = 1; }
  message HealthCheckRequest { string service = 1; }
  message HealthCheckResponse { int32 status = 1; }`,
  { keepCase: true },
).root;

export const milliseconds = ({ seconds, nanos }) => Number(seconds) * 1000 + nanos / 1e6;

export async function eventually(what, check, timeout = PATIENCE) {
  const end = Date.now() + timeout;
  for (;;) {
    const value = await check();
    if (value) return value;
    assert.ok(Date.now() < end, `not within ${timeout} ms: ${what}`);
    await sleep(20);
  }
}

// How a call ended, with the typed details of its status.
export class Ending {
  constructor({ code, details, metadata }) {
    Object.assign(this, { code, text: details, metadata, at: Date.now() });
    const [encoded] = metadata.get('grpc-status-details-bin');
    if (!encoded) return;
    const status = common.lookupType('Status').decode(encoded);
    assert.deepEqual([status.code, status.message], [code, details], 'the details contradict the status');
    for (const { type_url: url, value } of status.details) {
      const name = url.replace('type.googleapis.com/google.rpc.', '');
      this[name] = common.lookupType(name).decode(value);
    }
  }

  expect(code, reason) {
    assert.equal(grpc.status[this.code], code, this.text);
    if (reason) {
      assert.equal(this.ErrorInfo?.reason, reason, this.text);
      assert.equal(this.ErrorInfo.domain, 'streamward');
    }
    return this;
  }
}

export async function refused(promise) {
  let answer;
  try {
    answer = await promise;
  } catch (error) {
    return new Ending(error);
  }
  throw new assert.AssertionError({ message: `should have failed, but answered ${JSON.stringify(answer)}` });
}

const unary = (client, method, request, metadata = new grpc.Metadata(), timeout = PATIENCE) =>
  new Promise((resolve, reject) => {
    const deadline = Date.now() + timeout;
    client[method](request, metadata, { deadline }, (error, answer) => (error ? reject(error) : resolve(answer)));
  });

export class Stream {
  constructor(call) {
    this.call = call;
    this.frames = []; // { at, frame }
    this.ending = null;
    call.on('data', (frame) => this.frames.push({ at: Date.now(), frame }));
    call.on('error', () => {}); // the status says how
    call.on('status', (status) => (this.ending = new Ending(status)));
  }

  #all(field) {
    return this.frames.flatMap(({ frame }) => frame[field]);
  }
  events(topic) {
    return this.#all('events').filter((event) => topic === undefined || event.topic === topic);
  }
  sequences() {
    return this.events().map((event) => event.sequence);
  }
  receipts() {
    return this.#all('receipts');
  }
  gaps() {
    return this.#all('gaps');
  }
  notices(kind) {
    return this.#all('notices').filter((notice) => notice.kind === kind).map((notice) => notice[kind]);
  }
  noticedAt(kind) {
    return this.frames.find(({ frame }) => frame.notices.some((notice) => notice.kind === kind))?.at;
  }

  until(what, check) {
    return eventually(what, () => {
      const value = check(this);
      assert.ok(value || !this.ending, `the stream ended while waiting for ${what}: ${this.ending?.text}`);
      return value;
    });
  }
  async untilEvents(count) {
    await this.until(`${count} events`, () => this.events().length >= count);
    return this.events();
  }
  untilSubscribed(topic) {
    return this.until(`Subscribed to ${topic}`, () => this.notices('subscribed').findLast((n) => n.topic === topic));
  }
  untilEnded(timeout) {
    return eventually('the end of the stream', () => this.ending, timeout);
  }

  // Connect only
  publish(topic, payload, message_id = '') {
    this.call.write({ publish: { topic, payload: Buffer.from(payload), message_id } });
  }
  subscribe(topic, start = {}) {
    this.call.write({ subscribe: { topic, ...start } });
    return this.untilSubscribed(topic);
  }
}

export class Session {
  static async login(channel, user, client_name = '') {
    const self = new Session();
    self.channel = channel;
    self.login = await unary(channel.session, 'Login', { user, password: 'secret', client_name });
    self.id = self.login.session_id;
    self.metadata = new grpc.Metadata();
    self.metadata.set('authorization', `Bearer ${self.login.token}`);
    return self;
  }

  heartbeat() {
    return unary(this.channel.session, 'Heartbeat', {}, this.metadata);
  }
  logout() {
    return unary(this.channel.session, 'Logout', {}, this.metadata);
  }
  publish(topic, payload, timeout) {
    return unary(this.channel.message, 'Publish', { topic, payload: Buffer.from(payload) }, this.metadata, timeout);
  }
  #options(timeout) {
    return timeout ? { deadline: Date.now() + timeout } : {};
  }
  subscribe(subscription, timeout) {
    const request = { subscriptions: [typeof subscription === 'string' ? { topic: subscription } : subscription] };
    return new Stream(this.channel.message.Subscribe(request, this.metadata, this.#options(timeout)));
  }
  connect(timeout) {
    return new Stream(this.channel.message.Connect(this.metadata, this.#options(timeout)));
  }
  async live(subscription, timeout) {
    const stream = this.subscribe(subscription, timeout);
    await stream.untilSubscribed(subscription.topic ?? subscription);
    return stream;
  }
}

// The stubs of one connection.
export class Channel {
  constructor(target) {
    const credentials = grpc.credentials.createInsecure();
    this.channel = new grpc.Channel(target, credentials, { 'grpc.use_local_subchannel_pool': 1 });
    const options = { channelOverride: this.channel };
    this.session = new v1.SessionService(target, credentials, options);
    this.message = new v1.MessageService(target, credentials, options);
    this.admin = new v1.AdminService(target, credentials, options);
    const serve = (name, responseStream) => ({
      path: `/grpc.health.v1.Health/${name}`,
      requestStream: false,
      responseStream,
      requestSerialize: (m) => Buffer.from(common.lookupType('HealthCheckRequest').encode(m).finish()),
      requestDeserialize: (b) => b,
      responseSerialize: (m) => m,
      responseDeserialize: (b) => common.lookupType('HealthCheckResponse').decode(b),
    });
    const Health = grpc.makeGenericClientConstructor({ Watch: serve('Watch', true) }, 'grpc.health.v1.Health');
    this.health = new Health(target, credentials, options);
  }
  state() {
    return grpc.connectivityState[this.channel.getConnectivityState(false)];
  }
  close() {
    this.channel.close();
  }
}

// A server process.
class Hub {
  // `settings` like { limits_sessions_max: 2 } are configuration keys.
  async start(settings, listen) {
    this.directory = fs.mkdtempSync(path.join(os.tmpdir(), 'hub-'));
    this.socket = path.join(this.directory, 'admin.sock');
    this.channels = [];
    this.log = '';
    const environment = Object.fromEntries(Object.entries(process.env).filter(([key]) => !key.startsWith('STREAMWARD_')));
    for (const [key, value] of Object.entries(settings)) environment[`STREAMWARD_${key.toUpperCase()}`] = String(value);
    Object.assign(environment, { RUST_LOG: process.env.HUB_LOG ?? 'info', RUST_BACKTRACE: '1' });
    this.process = spawn(BINARY, ['serve', '--listen', listen, '--admin-socket', this.socket], {
      env: environment,
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    this.process.stderr.setEncoding('utf8').on('data', (text) => (this.log += text));
    this.exited = once(this.process, 'close').then(([code, signal]) => signal ?? code);
    this.port = await eventually('the server listens', () => {
      assert.equal(this.process.exitCode, null, 'the server did not start');
      return this.log.match(/listening on 127\.0\.0\.1:(\d+)/)?.[1];
    });
    this.admin = this.#open(`unix:${this.socket}`);
  }

  async leave() {
    for (const channel of this.channels) channel.close();
    this.process.kill('SIGKILL');
    await this.exited;
    fs.rmSync(this.directory, { recursive: true, force: true });
  }

  // What a person would have to look at: a healthy server logs none of it.
  complaints() {
    return this.log.split('\n').filter((line) => /\bERROR\b|panicked/.test(line));
  }

  #open(target) {
    const channel = new Channel(target);
    this.channels.push(channel);
    return channel;
  }
  channel() {
    return this.#open(`127.0.0.1:${this.port}`);
  }
  // Anything else that is to be closed with the server.
  keep(closable) {
    this.channels.push(closable);
  }
  session(user, clientName, channel = this.channel()) {
    return Session.login(channel, user, clientName);
  }

  call(method, request = {}) {
    return unary(this.admin.admin, method, request);
  }
  async status() {
    return (await this.call('GetStatus')).status;
  }
  async streams(session_id = '') {
    return (await this.call('ListStreams', { session_id, page_size: 1000 })).streams;
  }
  async sessions() {
    return (await this.call('ListSessions', { page_size: 1000 })).sessions;
  }
  // The ended streams of that session, once there are as many.
  endedStreams(sessionId, count = 1) {
    return eventually(`${count} ended streams of ${sessionId}`, async () => {
      const { ended } = await this.call('ListEnded', { page_size: 1000 });
      const mine = ended.filter((end) => end.kind === 'STREAM' && end.session_id === sessionId);
      return mine.length === count && mine;
    });
  }

  descriptors() {
    return fs.readdirSync(`/proc/${this.process.pid}/fd`).length;
  }
  // The server's established TCP connections, as the kernel lists them.
  sockets() {
    const local = `0100007F:${Number(this.port).toString(16).toUpperCase().padStart(4, '0')}`;
    const rows = fs.readFileSync('/proc/net/tcp', 'utf8').split('\n').map((line) => line.trim().split(/\s+/));
    return rows.filter((row) => row[1] === local && row[3] === '01').length;
  }
  // All that a client could leave behind.
  async held() {
    const { connections, sessions, streams, subscriptions } = await this.status();
    const lists = [(await this.sessions()).length, (await this.streams()).length];
    return JSON.stringify([connections, sessions, streams, subscriptions, lists, this.descriptors(), this.sockets()]);
  }
  signal(name) {
    this.process.kill(name);
  }
}

// A test with servers of its own, started by `await start(settings)`; it fails if one of them complains in its log.
export function rule(name, body) {
  test(name, { timeout: 90_000 }, async () => {
    const hubs = [];
    const start = async (settings = {}, listen = '127.0.0.1:0') => {
      const hub = new Hub();
      hubs.push(hub);
      await hub.start(settings, listen);
      return hub;
    };
    try {
      await body(start);
      for (const hub of hubs) assert.deepEqual(hub.complaints(), []);
    } catch (error) {
      for (const hub of hubs) console.error(`--- log of the server on port ${hub.port} ---\n${hub.log}`);
      throw error;
    } finally {
      await Promise.all(hubs.map((hub) => hub.leave()));
    }
  });
}
