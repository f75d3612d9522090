// The README's Node program, taken out of the README, does what the README says.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import fs from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { eventually, ROOT, rule } from './hubkit.mjs';

// The program as its user runs it: beside the protos and its packages.
class Program {
  constructor(hub) {
    const blocks = [...fs.readFileSync(path.join(ROOT, 'README.md'), 'utf8').matchAll(/^```js\n(.*?)^```$/gms)];
    assert.equal(blocks.length, 1, 'the README holds one Node program');
    const modules = path.join(path.dirname(fileURLToPath(import.meta.url)), 'node_modules');
    fs.symlinkSync(modules, path.join(hub.directory, 'node_modules'));
    fs.symlinkSync(path.join(ROOT, 'proto'), path.join(hub.directory, 'proto'));
    fs.writeFileSync(path.join(hub.directory, 'client.js'), blocks[0][1]);
    this.output = '';
    this.process = spawn(process.execPath, ['client.js', `127.0.0.1:${hub.port}`], { cwd: hub.directory });
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => (this.output += text));
    }
    this.exited = once(this.process, 'close').then(([code]) => code);
    hub.keep({ close: () => this.process.kill('SIGKILL') });
  }

  async until(pattern) {
    await eventually(`${pattern} in\n${this.output}`, () => pattern.test(this.output));
  }
}

// The one session called resume, once its stream is live.
const following = (hub) => eventually('it follows', async () => {
  const resuming = (await hub.sessions()).filter((session) => session.client_name === 'resume');
  return resuming.length === 1 && (await hub.streams(resuming[0].id)).length === 1 && resuming[0];
});

rule('the program of the README shows every pattern and leaves nothing behind', async (start) => {
  const hub = await start();
  const program = new Program(hub);
  await program.until(/^ {2}#\d+ hello again$/m);
  await hub.call('CancelSession', { id: (await following(hub)).id, note: 'please stop' });
  assert.equal(await program.exited, 0, program.output);
  for (const pattern of [
    /^ {2}room\/kitchen #1 bob: hello\nbasic: had what it wanted$/m,
    /^deadline: DEADLINE_EXCEEDED \(/m,
    /^own timer: CANCELLED \(not by the hub\)/m,
    /^session lives: 2$/m,
    /^one: CANCELLED \(not by the hub\).*\n {2}room\/attic #3 bob: the others go on\nall: \[(\s+'CANCELLED .*){3}\n\]$/m,
    /^ {2}room\/door #4 bob: open\n {2}room\/door #5 bob: closed\nmatched: had what it wanted$/m,
    /^ {2}room\/alarm #7 bob: fire$/m,
    /^alarmed: CANCELLED \(not by the hub\)/m,
    /^ {2}#1 hello\n {2}#2 still here\n {2}#8 hello again$/m,
    /^resume: ADMIN_CANCELLED: please stop$/m,
  ]) {
    assert.match(program.output, pattern);
  }
  assert.doesNotMatch(program.output, /open again/);
  assert.deepEqual([await hub.sessions(), await hub.streams()], [[], []]);
});

rule('the program of the README survives a killed hub and a drained one, and a takeover ends it', async (start) => {
  const first = await start();
  const listen = `127.0.0.1:${first.port}`;
  const program = new Program(first);
  await program.until(/^ {2}#\d+ hello again$/m);
  first.signal('SIGKILL');
  await first.exited;
  const second = await start({ shutdown_retry_after: '1s' }, listen);
  await program.until(/^ {2}EPOCH_CHANGED #1 to #0$/m);
  await (await second.session('alice')).publish('room/kitchen', 'after the kill');
  await program.until(/^ {2}#1 after the kill$/m);
  second.signal('SIGTERM');
  await program.until(/^ {2}SERVER_DRAINING; back in [12]\.\d s$/m);
  assert.equal(await second.exited, 0);
  const third = await start({}, listen);
  await following(third);
  await (await third.session('alice')).publish('room/kitchen', 'after the drain');
  await program.until(/^ {2}#1 after the drain$/m);
  await third.session('bob', 'resume');
  assert.equal(await program.exited, 0, program.output);
  assert.match(program.output, /^resume: SESSION_TAKEN_OVER: /m);
});

rule('Ctrl-C leads the program of the README to its logout', async (start) => {
  const hub = await start();
  const program = new Program(hub);
  await program.until(/^ {2}#\d+ hello again$/m);
  program.process.kill('SIGINT');
  assert.equal(await program.exited, 0, program.output);
  assert.match(program.output, /^resume: CANCELLED: /m);
  assert.deepEqual([await hub.sessions(), await hub.streams()], [[], []]);
});
