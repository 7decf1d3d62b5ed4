// A driver in JavaScript: a service for as long as it runs. Node 16 or later; npm install zeromq@6
//
//     node driver.mjs psu_cs PSU
//
// RSREG_ENDPOINT says where the registry is, RSREG_ADVERTISE where others reach this machine.
import { randomBytes } from "node:crypto";
import { createSocket } from "node:dgram";
import { lookup } from "node:dns/promises";
import { once } from "node:events";
import { setTimeout as sleep } from "node:timers/promises";
import { Dealer, Reply } from "zeromq";

const PATIENCE = 2000; // milliseconds until an answer counts as lost
const [name, type, seconds] = process.argv.slice(2);
const ttl = Number(seconds ?? 30);
const [, registry, port = "4242"] =
  /^(?:tcp:\/\/)?([^:]+)(?::(\d+))?$/.exec(process.env.RSREG_ENDPOINT || "localhost");
const sender = randomBytes(8).toString("hex");
const over = new AbortController();
let requests = 0;
let dealer;

// The local address of the route to the registry: a connected UDP socket knows it, nothing is sent.
async function ownAddress() {
  const udp = createSocket("udp4");
  udp.connect(Number(port), (await lookup(registry, 4)).address);
  await once(udp, "connect");
  const { address } = udp.address();
  udp.close();
  return address;
}

// The answer to a request. One that gets none is sent again: the same request, on a fresh socket,
// which has nothing queued that was given up. Undefined when all is over.
async function ask(request, stop = () => over.signal.aborted) {
  const request_id = `${sender}#${++requests}`;
  while (!stop()) {
    try {
      if (!dealer) {
        dealer = new Dealer({ linger: 0, receiveTimeout: PATIENCE });
        dealer.connect(`tcp://${registry}:${port}`);
      }
      await dealer.send(["", JSON.stringify({ ...request, request_id })]);
      for (;;) {
        const reply = JSON.parse((await dealer.receive()).at(-1));
        if (reply.request_id === request_id) return reply;
      }
    } catch {
      dealer?.close();
      dealer = undefined;
    }
  }
}

// Be registered until all is over, then leave.
async function keepRegistered(info) {
  while (!over.signal.aborted) {
    // A registry that forgot us gets us again under the same id.
    const registered = await ask({ action: "register", service_info: info, ttl });
    if (registered && !registered.success) console.error(registered.error, registered.hint ?? "");
    info.id = registered?.service_id ?? info.id;
    for (let known = registered?.success; !over.signal.aborted; ) {
      await sleep(known ? (ttl * 1000) / 3 : PATIENCE, null, { signal: over.signal }).catch(() => {});
      if (!known) break;
      known = (await ask({ action: "renew", service_id: info.id }))?.code !== "unknown-service";
      if (!known) break;
    }
  }
  let tries = 0;
  if (info.id) await ask({ action: "deregister", service_id: info.id }, () => tries++ > 0);
}

const commands = new Reply({ linger: 0 });
await commands.bind("tcp://*:*"); // a free port, and the socket knows which
const stop = () => {
  over.abort();
  dealer?.close(); // ends a wait for an answer
  dealer = undefined;
};
process.once("SIGINT", stop).once("SIGTERM", stop);
const own = Number(commands.lastEndpoint.split(":").pop());
const host = process.env.RSREG_ADVERTISE || (await ownAddress());
keepRegistered({ name, type, host, port: own }).then(() => (dealer?.close(), commands.close()));
for await (const [command] of commands) await commands.send(`done: ${command}`); // the instrument
