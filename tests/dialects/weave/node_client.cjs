// Sends records with the official client for Node and says, as JSON, what became of each.
//
// Usage: node node_client.cjs '<job>', run where `@fluent-org/logger` is installed. A job is
// {host, port, mode, ack, milliseconds, sharedKey, seconds, records}; without `seconds` the client's own time is sent.
"use strict";

const { createRequire } = require("node:module");
const { FluentClient, EventTime } = createRequire(`${process.cwd()}/`)("@fluent-org/logger");

const WAIT_MILLISECONDS = 30000;

async function main(job) {
  const client = new FluentClient("billing", {
    eventMode: job.mode,
    socket: { host: job.host, port: job.port },
    milliseconds: job.milliseconds,
    ...(job.ack ? { ack: { ackTimeout: WAIT_MILLISECONDS } } : {}),
    ...(job.sharedKey ? { security: { clientHostname: "node-client", sharedKey: job.sharedKey } } : {}),
    flushInterval: 10,
    disconnect: { waitForPending: true, waitForPendingDelay: WAIT_MILLISECONDS, socketDisconnectDelay: 100 },
  });
  client.socketOn("error", (error) => process.stderr.write(`${error.message}\n`));
  const emit = (record) =>
    job.seconds === undefined ? client.emit(record) : client.emit(record, new EventTime(job.seconds, 5));
  const results = await Promise.allSettled(job.records.map(emit));
  await client.shutdown();
  const failures = results.filter((result) => result.status === "rejected").map((result) => String(result.reason));
  process.stdout.write(JSON.stringify({ delivered: results.length - failures.length, failures }));
}

main(JSON.parse(process.argv[2]));
