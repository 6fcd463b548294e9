// What the Node programs that drive WebSocket libraries share; see tests/libraries/README.md.

import { createInterface } from "node:readline";

export const HEARTBEAT = `{"type":"heartbeat","pad":"${"x".repeat(2000)}"}`;

const PAUSE = 1; // milliseconds between two messages of a flood

export function say(...words) {
  process.stdout.write(words.join(" ") + "\n");
}

export function filled(size) {
  const head = '{"type":"ping","data":{"pingId":"filled"},"pad":"';
  return head + "x".repeat(size - head.length - 2) + '"}';
}

const connections = new Map();

// A connection is there: do what was asked of it meanwhile.
export function opened(name, protocol) {
  say("open", name, protocol || "-");
  const { connection, waiting } = connections.get(name);
  connections.get(name).waiting = undefined;
  for (const [command, rest] of waiting) obey(connection, command, rest);
}

// `connect(name, url, {token, protocols, origin})` returns an object with `send`, `close`, `isOpen`,
// `buffered`, and what else the library can do: `parts`, `ping`. It calls `opened` later.
export function drive(can, connect) {
  say("can", can);
  createInterface({ input: process.stdin })
    .on("line", (line) => {
      const [command, name, ...words] = line.split(" ");
      if (command === "connect") {
        const [url, token, protocols, origin] = words.map((word) => (word === "-" ? undefined : word));
        const how = { token, protocols: protocols?.split(",") ?? [], origin };
        connections.set(name, { connection: connect(name, url, how), waiting: [] });
        return;
      }
      const { connection, waiting } = connections.get(name);
      if (waiting) waiting.push([command, words.join(" ")]);
      else if (connection.isOpen()) obey(connection, command, words.join(" "));
    })
    .on("close", () => process.exit(0));
}

function obey(connection, command, rest) {
  if (command === "send") {
    connection.send(rest);
  } else if (command === "fill") {
    connection.send(filled(Number(rest)));
  } else if (command === "parts") {
    const [count, text] = [Number(rest.split(" ", 1)[0]), rest.slice(rest.indexOf(" ") + 1)];
    const step = Math.ceil(text.length / count);
    const parts = [];
    for (let at = 0; at < text.length; at += step) parts.push(text.slice(at, at + step));
    connection.parts(parts);
  } else if (command === "ping") {
    connection.ping();
  } else if (command === "close") {
    connection.close();
  } else if (command === "flood") {
    const more = () => {
      if (!connection.isOpen()) return;
      if (connection.buffered() < 1 << 20) connection.send(HEARTBEAT);
      setTimeout(more, PAUSE);
    };
    more();
  }
}
