// `undici`, whose WebSocket is that of browsers; see tests/libraries/README.md.

import { readFileSync } from "node:fs";
import { Agent, WebSocket } from "undici";
import { drive, opened, say } from "./driver.mjs";

const ca = readFileSync(process.env.CLIENT_CA);

drive("header origin", (name, url, { token, protocols, origin }) => {
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  if (origin) headers.Origin = origin;
  const dispatcher = new Agent({ connect: { ca } });
  const socket = new WebSocket(url, { protocols, headers, dispatcher });
  let isOpened = false;
  socket.addEventListener("open", () => {
    isOpened = true;
    opened(name, socket.protocol);
  });
  socket.addEventListener("message", ({ data }) => say("text", name, data));
  socket.addEventListener("error", ({ message }) => say("trouble", name, message));
  socket.addEventListener("close", ({ code, reason }) => {
    if (isOpened) say("closed", name, code, reason);
    else say("failed", name, 0);
    dispatcher.close();
  });
  return {
    send: (text) => socket.send(text),
    close: () => socket.close(1000),
    isOpen: () => socket.readyState === WebSocket.OPEN,
    buffered: () => socket.bufferedAmount,
  };
});
