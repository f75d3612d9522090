// The server written by hand with grpc-js, which the benchmarks compare with: it starts, and one message goes round.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import path from 'node:path';
import { test } from 'node:test';

import { Channel, PATIENCE, ROOT, Session, refused } from './hubkit.mjs';

const SERVER = path.join(ROOT, 'src/bench/peers/grpcjs/server.js');

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

test('the hand-written server: a message goes round', { timeout: 90_000 }, async () => {
  const address = `127.0.0.1:${await freePort()}`;
  // The server lies apart from its packages, as the benchmarks start it.
  const modules = path.join(import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname), 'node_modules');
  const options = { env: { ...process.env, NODE_PATH: modules }, stdio: 'inherit' };
  const server = spawn(process.execPath, [SERVER, address], options);
  const exited = once(server, 'exit');
  const channel = new Channel(address);
  try {
    await new Promise((resolve, reject) => {
      channel.session.waitForReady(Date.now() + PATIENCE, (error) => (error ? reject(error) : resolve()));
    });
    const ada = await Session.login(channel, 'ada');
    const follower = await ada.live('room/a');
    const stream = ada.connect();
    await stream.subscribe('room/a');
    stream.publish('room/a', 'streamed', '1');
    await stream.untilEvents(1);
    assert.deepEqual(stream.receipts().map((receipt) => receipt.message_id), ['1']);
    assert.equal((await ada.publish('room/a', 'unary')).sequence, 2);

    const events = await follower.untilEvents(2);
    const heard = events.map(({ sender, sequence, payload }) => [sender, sequence, payload.toString()]);
    assert.deepEqual(heard, [['ada', 1, 'streamed'], ['ada', 2, 'unary']]);
    stream.call.end();
    (await stream.untilEnded()).expect('OK');
    ada.metadata.remove('authorization');
    (await refused(ada.publish('room/a', 'nobody'))).expect('UNAUTHENTICATED');
    assert.equal(server.exitCode, null);
  } finally {
    channel.close();
    server.kill();
    await exited;
  }
});
