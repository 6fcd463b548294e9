// A NATS client that does what it is told: one JSON object a line on standard input, one a line back.
// It is Node's own client, as a service would use it: transport-node, and jetstream() for publishing,
// which looks nothing up (jetstreamManager() would need more rights).
import { createInterface } from "node:readline";
import { jetstream } from "@nats-io/jetstream";
import { connect, headers as newHeaders } from "@nats-io/transport-node";

const nc = await connect({
  servers: process.env.NATS_URL,
  user: process.env.NATS_USER,
  pass: process.env.NATS_PASSWORD,
  inboxPrefix: process.env.NATS_INBOX_PREFIX,
  reconnect: false,
});
const js = jetstream(nc, { timeout: 3000 });
const refusals = [];
const messages = [];

(async () => {
  for await (const status of nc.status()) {
    if (status.type === "error") refusals.push(String(status.error?.message ?? status.error));
  }
})();

const shown = (message) => ({
  subject: message.subject,
  reply: message.reply ?? "",
  data: message.string(),
  headers: Object.fromEntries([...(message.headers ?? [])].map(([name, [value]]) => [name, value])),
});

function made(given) {
  const result = newHeaders();
  for (const [name, value] of Object.entries(given ?? {})) result.append(name, value);
  return result;
}

// What the server refuses comes before the answer to a PING, and reaches `status()` a moment later.
async function settled() {
  await nc.flush();
  for (let turn = 0; turn < 5; turn++) await new Promise((done) => setImmediate(done));
}

const operations = {
  async publish({ subject, data, headers, reply }) {
    nc.publish(subject, data, { headers: made(headers), reply: reply || undefined });
    await settled();
    return null;
  },
  async store({ subject, data, headers }) {
    const { seq, stream } = await js.publish(subject, data, { headers: made(headers) });
    return { seq, stream };
  },
  async request({ subject, data }) {
    return shown(await nc.request(subject, data, { timeout: 2000 }));
  },
  async subscribe({ subject, queue, answer }) {
    nc.subscribe(subject, {
      queue: queue || undefined,
      callback: (problem, message) => {
        if (problem) return;
        messages.push(shown(message));
        if (answer) message.respond(answer);
      },
    });
    await settled();
    return null;
  },
  async messages() {
    await settled();
    return messages;
  },
};

process.stdout.write(JSON.stringify({ ready: nc.info.version }) + "\n");
for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  refusals.length = 0;
  let told;
  try {
    told = { result: await operations[asked.op](asked) };
  } catch (problem) {
    await settled().catch(() => {});
    told = { error: `${problem.name}: ${problem.message}` };
  }
  process.stdout.write(JSON.stringify({ ...told, refusals: [...refusals] }) + "\n");
}
await nc.close();
