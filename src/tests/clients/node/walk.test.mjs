// The life of a client, from login to every way its calls can end.

import assert from 'node:assert/strict';
import http2 from 'node:http2';
import { setTimeout as sleep } from 'node:timers/promises';

import { eventually, methods, milliseconds, refused, rule } from './hubkit.mjs';

// (a) log in, exchange, log out

rule('logout ends every stream of the session and closes its channel', async (start) => {
  const hub = await start();
  await hub.status(); // the admin connection itself
  const before = await hub.held();
  const channel = hub.channel();
  const alice = await hub.session('alice', 'laptop', channel);
  const streams = [alice.connect(), await alice.live('room/a'), await alice.live('room/a')];
  await streams[0].subscribe('room/a');
  streams[0].publish('room/a', 'hello', 'm1');
  for (const stream of streams) {
    const [event] = await stream.untilEvents(1);
    assert.deepEqual([event.payload.toString(), event.sender, event.message_id], ['hello', 'alice', 'm1']);
  }
  assert.deepEqual(streams[0].receipts().map((receipt) => receipt.position.sequence), [1]);

  assert.equal((await alice.logout()).streams_ended, 3);

  for (const stream of streams) {
    const ending = (await stream.untilEnded()).expect('CANCELLED', 'SESSION_LOGGED_OUT');
    assert.equal(ending.ErrorInfo.metadata.session, alice.id);
    assert.equal(ending.ErrorInfo.metadata.last_sequence, '1');
    assert.equal(ending.RetryInfo, undefined);
  }
  await eventually('the channel to be closed by the server', () => channel.state() === 'IDLE');
  await eventually('everything to be given back', async () => (await hub.held()) === before);
  for (const end of await hub.endedStreams(alice.id, 3)) {
    assert.deepEqual([end.reason, end.user, end.client_name], ['SESSION_LOGGED_OUT', 'alice', 'laptop']);
  }
  (await refused(alice.heartbeat())).expect('UNAUTHENTICATED', 'SESSION_LOGGED_OUT');
});

rule('logout keeps a channel that carries another session', async (start) => {
  const hub = await start();
  const shared = hub.channel();
  const [alice, bob] = [await hub.session('alice', '', shared), await hub.session('bob', '', shared)];
  const [leaves, stays] = [await alice.live('room/a'), await bob.live('room/a')];
  assert.equal((await alice.logout()).streams_ended, 1);
  (await leaves.untilEnded()).expect('CANCELLED', 'SESSION_LOGGED_OUT');
  const sent = [];
  for (let n = 0; n < 20; n++) sent.push((await bob.publish('room/a', `${n}`)).sequence);
  await stays.untilEvents(20);
  assert.deepEqual(stays.sequences(), sent);
  await sleep(1000); // a GOAWAY on its way would have come
  assert.equal(stays.ending, null);
  assert.equal(shared.state(), 'READY');
  assert.equal(hub.sockets(), 1);
});

rule('in-band logout ends its own stream with OK and the others with the reason', async (start) => {
  const hub = await start();
  const alice = await hub.session('alice');
  const [asks, other] = [alice.connect(), await alice.live('room/a')];
  await asks.subscribe('room/a');
  asks.publish('room/a', 'last words', 'm');
  asks.call.write({ logout: {} });
  (await asks.untilEnded()).expect('OK');
  assert.deepEqual(asks.receipts().map((receipt) => receipt.message_id), ['m']);
  assert.deepEqual(asks.events().map((event) => event.payload.toString()), ['last words']);
  (await other.untilEnded()).expect('CANCELLED', 'SESSION_LOGGED_OUT');
  await eventually('the connection to be closed', () => hub.sockets() === 0);
});

// (b) the client cancels

rule('cancelled call is recorded as cancelled by the client', async (start) => {
  const hub = await start();
  const alice = await hub.session('alice');
  const stream = await alice.live('room/a');
  await alice.publish('room/a', 'seen');
  await stream.untilEvents(1);
  await sleep(500);
  stream.call.cancel();
  (await stream.untilEnded()).expect('CANCELLED');
  const [end] = await hub.endedStreams(alice.id);
  assert.deepEqual([end.reason, end.asked_by, end.events_delivered], ['CLIENT_CANCELLED', 'client', 1]);
  await alice.heartbeat(); // the session itself goes on
});

rule('half-close ends with OK after everything is delivered', async (start) => {
  const hub = await start();
  const alice = await hub.session('alice');
  const stream = alice.connect();
  await stream.subscribe('room/a');
  for (let n = 0; n < 100; n++) stream.publish('room/a', `${n}`, `${n}`);
  stream.call.end();
  (await stream.untilEnded()).expect('OK');
  assert.equal(stream.receipts().length, 100);
  assert.deepEqual(stream.events().map((event) => event.payload.toString()), [...Array(100).keys()].map(String));
  assert.equal((await hub.endedStreams(alice.id))[0].reason, 'COMPLETED');
});

// (c) deadlines

rule('tiny deadline of a unary call is DEADLINE_EXCEEDED', async (start) => {
  const hub = await start();
  const alice = await hub.session('alice');
  for (const timeout of [-1, 0]) {
    (await refused(alice.publish('room/a', 'late', timeout))).expect('DEADLINE_EXCEEDED');
  }
  await alice.heartbeat();
});

rule('deadline of a stream is announced, then kept', async (start) => {
  const hub = await start();
  const alice = await hub.session('alice');
  const began = Date.now();
  const stream = await alice.live('room/a', 3000);
  const ending = (await stream.untilEnded()).expect('DEADLINE_EXCEEDED');
  assert.ok(ending.at - began > 2800 && ending.at - began < 4500, `${ending.at - began} ms`);
  const [near] = stream.notices('deadline_near');
  assert.ok(milliseconds(near.remaining) <= 1000 && milliseconds(near.remaining) > 800);
  const after = stream.noticedAt('deadline_near') - began;
  assert.ok(after > 1800 && after < 2800, `${after} ms`);
  assert.equal((await hub.endedStreams(alice.id))[0].reason, 'DEADLINE_EXCEEDED');
});

// Speaks HTTP/2 itself: no timer, no window and no manners of a client library.
function raw(hub, path, metadata, message, { settings, headers = {} } = {}) {
  const connection = http2.connect(`http://127.0.0.1:${hub.port}`, { settings });
  hub.keep({ close: () => connection.destroy() });
  const request = connection.request({
    ':method': 'POST',
    ':path': path,
    'content-type': 'application/grpc',
    te: 'trailers',
    authorization: metadata.get('authorization')[0],
    ...headers,
  });
  const seen = { bytes: 0, began: Date.now() };
  request.on('response', (head) => (seen.head = head));
  request.on('data', (chunk) => (seen.bytes += chunk.length));
  request.on('trailers', (trailers) => (seen.trailers = trailers));
  request.on('error', (error) => (seen.error = error));
  request.on('close', () => (seen.closed = Date.now()));
  const frame = Buffer.alloc(5 + message.length);
  frame.writeUInt32BE(message.length, 1);
  message.copy(frame, 5);
  request.end(frame);
  return { request, seen, status: () => (seen.trailers ?? seen.head)?.['grpc-status'] };
}

rule('the server itself keeps the deadline of an open stream', async (start) => {
  const hub = await start();
  const alice = await hub.session('alice');
  const message = methods.Subscribe.requestSerialize({ subscriptions: [{ topic: 'room/a' }] });
  const headers = { 'grpc-timeout': '1500m' };
  const { seen, status } = raw(hub, methods.Subscribe.path, alice.metadata, message, { headers });
  await eventually('the status', status);
  assert.equal(status(), '4');
  assert.match(seen.trailers['grpc-message'], /^[!-~]+$/); // escaped once: no blanks
  assert.doesNotMatch(seen.trailers['grpc-message'], /%25/);
  assert.ok(Date.now() - seen.began > 1400 && Date.now() - seen.began < 3000);
  assert.equal((await hub.endedStreams(alice.id))[0].reason, 'DEADLINE_EXCEEDED');
});

rule('a call whose deadline passed before it came in is not carried out', async (start) => {
  const hub = await start();
  const alice = await hub.session('alice');
  const message = methods.Publish.requestSerialize({ topic: 'room/a', payload: Buffer.from('late') });
  const headers = { 'grpc-timeout': '1n' };
  const { status } = raw(hub, methods.Publish.path, alice.metadata, message, { headers });
  await eventually('the status', status);
  assert.equal(status(), '4');
  assert.equal((await hub.status()).last_sequence, 0);
});

rule('a client that grants no window still gets its status', async (start) => {
  const hub = await start();
  const [alice, bob] = [await hub.session('alice'), await hub.session('bob')];
  const others = await bob.live('room/a');
  const message = methods.Subscribe.requestSerialize({ subscriptions: [{ topic: 'room/a' }] });
  const settings = { initialWindowSize: 0 };
  const { seen, status } = raw(hub, methods.Subscribe.path, alice.metadata, message, { settings });
  const [stream] = await eventually('the stream', async () => {
    const streams = await hub.streams(alice.id);
    return streams.length > 0 && streams;
  });
  for (let n = 0; n < 10; n++) await bob.publish('room/a', Buffer.alloc(1000));
  await hub.call('CancelStream', { id: stream.id, note: 'enough' });
  await eventually('the status', status);
  assert.deepEqual([status(), seen.bytes], ['1', 0]);
  await others.untilEvents(10);
  assert.equal(others.ending, null);
});

// (d) the server ends a call and says why; (e) and keeps a record of it

rule('bad topic is an INVALID_ARGUMENT', async (start) => {
  const hub = await start();
  const alice = await hub.session('alice');
  for (const topic of ['', 'room', 'room//a', 'other/a']) {
    (await refused(alice.publish(topic, 'x'))).expect('INVALID_ARGUMENT');
    const ending = (await alice.subscribe(topic).untilEnded()).expect('INVALID_ARGUMENT');
    assert.equal(ending.ErrorInfo.domain, 'streamward');
  }
  const stream = alice.connect();
  stream.publish('nowhere', 'x', 'bad');
  stream.publish('room/a', 'x', 'good');
  await stream.until('two receipts', () => stream.receipts().length === 2);
  const [bad, good] = stream.receipts();
  assert.deepEqual([bad.message_id, bad.error.code, good.position.sequence], ['bad', 3, 1]);
});

rule("cancelled stream carries the administrator's note", async (start) => {
  const hub = await start();
  const [alice, bob] = [await hub.session('alice'), await hub.session('bob')];
  const [victim, other] = [await alice.live('room/a'), await bob.live('room/a')];
  const [{ id }] = await hub.streams(alice.id);
  const dry = await hub.call('CancelStream', { id, note: 'go home', dry_run: true });
  assert.deepEqual([dry.streams_ended, dry.sessions_ended], [1, 0]);
  const answer = await hub.call('CancelStream', { id, note: 'go home' });
  assert.deepEqual([answer.streams_ended, answer.sessions_ended, answer.others_untouched], [1, 0, 1]);
  const ending = (await victim.untilEnded()).expect('CANCELLED', 'ADMIN_CANCELLED');
  assert.equal(ending.text, 'go home');
  assert.equal(ending.ErrorInfo.metadata.stream, id);
  const [end] = await hub.endedStreams(alice.id);
  assert.deepEqual([end.id, end.reason, end.note], [id, 'ADMIN_CANCELLED', 'go home']);
  await bob.publish('room/a', 'x');
  await other.untilEvents(1);
});

rule('session quota refuses the next login and names the limit', async (start) => {
  const hub = await start({ limits_sessions_per_user_max: 2 });
  await hub.session('alice');
  await hub.session('alice');
  const ending = (await refused(hub.session('alice'))).expect('RESOURCE_EXHAUSTED', 'QUOTA_EXCEEDED');
  assert.match(JSON.stringify(ending.QuotaFailure), /sessions_per_user_max/);
  await hub.session('bob');
});

rule('login above the sessions of the server is told when to come back', async (start) => {
  const hub = await start({ limits_sessions_max: 1, limits_sessions_per_user_max: 1 });
  await hub.session('alice');
  const ending = (await refused(hub.session('bob'))).expect('RESOURCE_EXHAUSTED', 'QUOTA_EXCEEDED');
  assert.match(JSON.stringify(ending.QuotaFailure), /limits\.sessions_max/);
  const delay = milliseconds(ending.RetryInfo.retry_delay);
  assert.ok(delay > 0);
  assert.ok(Math.abs(Number(ending.metadata.get('grpc-retry-pushback-ms')[0]) - delay) <= 1);
});

rule('connection too many of an address is told which limit', async (start) => {
  const hub = await start({ limits_connections_per_ip_max: 1 });
  const alice = await hub.session('alice');
  const stream = await alice.live('room/a');
  const ending = (await refused(hub.session('bob'))).expect('RESOURCE_EXHAUSTED', 'QUOTA_EXCEEDED');
  assert.match(JSON.stringify(ending.QuotaFailure), /limits\.connections_per_ip_max/);
  assert.ok(Number(ending.metadata.get('grpc-retry-pushback-ms')[0]) >= 5000);
  await alice.publish('room/a', 'x');
  await stream.untilEvents(1);
});

rule('idle stream ends, one whose client heartbeats does not', async (start) => {
  const hub = await start({ limits_stream_idle_timeout: '1s' });
  const [alice, bob] = [await hub.session('alice'), await hub.session('bob')];
  const [silent, kept] = [await alice.live('room/a'), await bob.live('room/a')];
  const heart = setInterval(() => bob.heartbeat().catch(() => {}), 200);
  try {
    (await silent.untilEnded()).expect('ABORTED', 'IDLE_TIMEOUT');
    await bob.publish('room/a', 'x');
    await kept.untilEvents(1);
    assert.equal(kept.ending, null);
  } finally {
    clearInterval(heart);
  }
  assert.equal((await hub.endedStreams(alice.id))[0].reason, 'IDLE_TIMEOUT');
  (await kept.untilEnded()).expect('ABORTED', 'IDLE_TIMEOUT');
});

rule('same client name takes the session over', async (start) => {
  const hub = await start();
  const first = await hub.session('alice', 'laptop');
  assert.equal(first.login.previous_end, null);
  const old = await first.live('room/a');
  const second = await hub.session('alice', 'laptop');
  (await old.untilEnded()).expect('ABORTED', 'SESSION_TAKEN_OVER');
  assert.deepEqual(
    [second.login.previous_end.id, second.login.previous_end.reason],
    [first.id, 'SESSION_TAKEN_OVER'],
  );
  (await refused(first.heartbeat())).expect('UNAUTHENTICATED', 'SESSION_TAKEN_OVER');
  assert.deepEqual((await hub.sessions()).map((session) => session.id), [second.id]);
});

// Resuming

rule('resume by position is complete', async (start) => {
  const hub = await start();
  const alice = await hub.session('alice');
  const stream = await alice.live('room/a');
  const sent = [];
  for (let n = 0; n < 20; n++) {
    sent.push((await alice.publish('room/a', `${n}`)).sequence);
    await alice.publish('room/noise', 'between');
  }
  await stream.untilEvents(20);
  stream.call.cancel();
  const { epoch } = await hub.status();
  const resumed = await alice.live({ topic: 'room/a', after: { epoch, sequence: sent[4] } });
  const [{ recovered, position }] = resumed.notices('subscribed');
  assert.deepEqual([recovered, position], [true, { epoch, sequence: sent[4] }]);
  for (let n = 20; n < 25; n++) sent.push((await alice.publish('room/a', `${n}`)).sequence);
  const events = await resumed.untilEvents(20);
  assert.deepEqual(resumed.sequences(), sent.slice(5));
  assert.deepEqual(events.map((event) => event.payload.toString()), [...Array(25).keys()].slice(5).map(String));
  assert.deepEqual(resumed.gaps(), []);
});

rule('unknown epoch is told with a gap', async (start) => {
  const hub = await start();
  const alice = await hub.session('alice');
  await alice.publish('room/a', 'old');
  const stream = await alice.live({ topic: 'room/a', after: { epoch: 'another', sequence: 1 } });
  assert.equal(stream.notices('subscribed')[0].recovered, false);
  await stream.until('a gap', () => stream.gaps().length > 0);
  assert.deepEqual(stream.gaps().map((gap) => [gap.topic, gap.reason]), [['room/a', 'EPOCH_CHANGED']]);
  const { sequence } = await alice.publish('room/a', 'new');
  await stream.until('the new event', () => stream.sequences().includes(sequence));
});

// (f) SIGTERM

rule('SIGTERM tells every client, ends every stream with its slot, and exits clean', async (start) => {
  const hub = await start();
  const sender = await hub.session('sender');
  const streams = [];
  for (let n = 0; n < 20; n++) streams.push(await (await hub.session(`user${n}`)).live('room/a'));
  const watch = hub.channel().health.Watch({ service: '' });
  const told = [];
  let watchEnded;
  watch.on('data', ({ status }) => told.push(status));
  watch.on('error', () => {});
  watch.on('status', ({ code }) => (watchEnded = code));
  await eventually('SERVING', () => told[0] === 1);
  const sent = [];
  for (let n = 0; n < 100; n++) sent.push((await sender.publish('room/a', `${n}`)).sequence);

  hub.signal('SIGTERM');

  for (const stream of streams) {
    const ending = (await stream.untilEnded(30_000)).expect('UNAVAILABLE', 'SERVER_DRAINING');
    assert.equal(stream.notices('draining').length, 1);
    assert.ok(milliseconds(ending.RetryInfo.retry_delay) > 0);
    assert.ok(Number(ending.metadata.get('grpc-retry-pushback-ms')[0]) > 0);
    assert.deepEqual(stream.sequences(), sent); // what was accepted is delivered first
  }
  await eventually('the end of the health watch', () => watchEnded !== undefined);
  assert.deepEqual(told, [1, 2]);
  assert.equal(watchEnded, 14);
  assert.equal(await hub.exited, 0);
});

// (g) SIGKILL

rule('SIGKILL is UNAVAILABLE for every client at once', async (start) => {
  const hub = await start();
  const streams = [];
  for (let n = 0; n < 20; n++) streams.push(await (await hub.session(`user${n}`)).live('room/a'));
  hub.signal('SIGKILL');
  const began = Date.now();
  for (const stream of streams) {
    const ending = (await stream.untilEnded(5000)).expect('UNAVAILABLE');
    assert.equal(ending.ErrorInfo, undefined); // nobody was left to say why
  }
  assert.ok(Date.now() - began < 2000);
});
