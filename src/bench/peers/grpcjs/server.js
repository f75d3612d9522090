// The fan-out server that the guides of @grpc/grpc-js lead to: a set of open calls per topic, each written to.
'use strict';

const path = require('node:path');

const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const definition = loader.loadSync(['streamward/v1/message.proto', 'streamward/v1/session.proto'], {
  keepCase: true,
  longs: Number,
  enums: String,
  defaults: true,
  oneofs: true,
  includeDirs: [path.join(__dirname, '../../../../proto')],
});
const v1 = grpc.loadPackageDefinition(definition).streamward.v1;

const EPOCH = 'plain';
const followers = new Map(); // topic -> set of calls
let lastSequence = 0;

// The token is the user's name.
function sender(call) {
  const [header] = call.metadata.get('authorization');
  return header?.startsWith('Bearer ') ? header.slice('Bearer '.length) : undefined;
}

const UNAUTHENTICATED = { code: grpc.status.UNAUTHENTICATED, details: 'log in first' };

function publish({ topic, payload, message_id, content_type }, user) {
  lastSequence += 1;
  const now = Date.now();
  const published_at = { seconds: Math.floor(now / 1000), nanos: (now % 1000) * 1_000_000 };
  const event = { topic, sequence: lastSequence, sender: user, published_at, payload, message_id, content_type };
  for (const call of followers.get(topic) ?? []) call.write({ events: [event] });
  return lastSequence;
}

function follow(call, topic) {
  if (!followers.has(topic)) followers.set(topic, new Set());
  followers.get(topic).add(call);
  call.write({ notices: [{ subscribed: { topic, recovered: true } }] });
}

function leave(call) {
  for (const calls of followers.values()) calls.delete(call);
}

const sessions = {
  login: (call, answer) => answer(null, { session_id: call.request.user, token: call.request.user }),
  heartbeat: (call, answer) => answer(null, {}),
  logout: (call, answer) => answer(null, {}),
};

const messages = {
  publish(call, answer) {
    const user = sender(call);
    if (user === undefined) return answer(UNAUTHENTICATED);
    answer(null, { sequence: publish(call.request, user), epoch: EPOCH });
  },

  subscribe(call) {
    if (sender(call) === undefined) return call.emit('error', UNAUTHENTICATED);
    for (const { topic } of call.request.subscriptions) follow(call, topic);
    call.on('cancelled', () => leave(call));
  },

  connect(call) {
    const user = sender(call);
    if (user === undefined) return call.emit('error', UNAUTHENTICATED);
    call.on('data', (frame) => {
      if (frame.publish) {
        const position = { epoch: EPOCH, sequence: publish(frame.publish, user) };
        call.write({ receipts: [{ message_id: frame.publish.message_id, position }] });
      } else if (frame.subscribe) {
        follow(call, frame.subscribe.topic);
      } else if (frame.logout) {
        leave(call);
        call.end();
      }
    });
    call.on('end', () => {
      leave(call);
      call.end();
    });
    call.on('cancelled', () => leave(call));
  },
};

const server = new grpc.Server();
server.addService(v1.SessionService.service, sessions);
server.addService(v1.MessageService.service, messages);
server.bindAsync(process.argv[2], grpc.ServerCredentials.createInsecure(), (error) => {
  if (error) throw error;
});
