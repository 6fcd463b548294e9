// `ws`; see tests/libraries/README.md.

import { readFileSync } from "node:fs";
import WebSocket from "ws";
import { drive, opened, say } from "./driver.mjs";

const ca = readFileSync(process.env.CLIENT_CA);

drive("header origin status parts ping", (name, url, { token, protocols, origin }) => {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const socket = new WebSocket(url, protocols, { headers, origin, ca });
  let status = 0;
  let isOpened = false;
  socket.on("unexpected-response", (request, response) => {
    status = response.statusCode;
    request.destroy();
    socket.terminate();
  });
  socket.on("open", () => {
    isOpened = true;
    opened(name, socket.protocol);
  });
  socket.on("message", (data) => say("text", name, data));
  socket.on("pong", () => say("pong", name));
  socket.on("error", (problem) => say("trouble", name, problem.message));
  socket.on("close", (code, reason) => {
    if (isOpened) say("closed", name, code, reason);
    else say("failed", name, status);
  });
  return {
    send: (text) => socket.send(text),
    parts: (parts) => parts.forEach((part, at) => socket.send(part, { fin: at === parts.length - 1 })),
    ping: () => socket.ping(),
    close: () => socket.close(1000),
    isOpen: () => socket.readyState === WebSocket.OPEN,
    buffered: () => socket.bufferedAmount,
  };
});
