// Peer: ws and nats.js.
import { connect } from "@nats-io/transport-node";
import { WebSocketServer } from "ws";
import { Rooms, introduction } from "./rooms.mjs";

const rooms = new Rooms();
const broker = await connect({ servers: process.argv[2] });
broker.subscribe("live.>", {
  callback: (problem, message) => {
    if (problem) throw problem;
    const { data } = message;
    const buffer = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    for (const socket of rooms.receivers(message.subject)) socket.send(buffer, { binary: false });
  },
});
await broker.flush();

const server = new WebSocketServer({
  host: "127.0.0.1",
  port: 0,
  backlog: 4096,
  perMessageDeflate: false,
});
server.on("connection", (socket, request) => {
  const who = introduction(request.url.split("?")[1]);
  rooms.join(socket, who);
  socket.on("close", () => rooms.leave(socket, who));
  socket.on("error", () => {});
  socket.send("ready");
});
server.on("listening", () => console.log("ready", server.address().port));
