// Peer: uWebSockets.js and nats.js. Topics are uWebSockets' own, its fastest way to many receivers;
// the events of one user are sent to that user's connections.
import uws from "@btc-vision/uwebsockets.js";
import { connect } from "@nats-io/transport-node";
import { introduction } from "./rooms.mjs";

const users = new Map();
const overlaps = new Map(); // topics with a resource, and how many connections want each
const app = uws.App();

function onEvent(subject, data) {
  const words = subject.split(".");
  if (words[1] === "user") {
    for (const socket of users.get(words[2]) ?? []) socket.send(data, false);
    return;
  }
  if (words[1] === "all") {
    app.publish("all", data, false);
    return;
  }
  const type = `${words[2]}.${words[3]}`;
  const single = overlaps.get(words.slice(2).join("."));
  app.publish(type, data, false);
  // Who wants both the type and the resource is in the type's topic already.
  for (const socket of single ?? []) if (!socket.isSubscribed(type)) socket.send(data, false);
}

app.ws("/*", {
  compression: uws.DISABLED,
  maxBackpressure: 64 * 1024 * 1024,
  idleTimeout: 60,
  sendPingsAutomatically: true,
  upgrade: (response, request, context) => {
    response.upgrade(
      introduction(request.getQuery()),
      request.getHeader("sec-websocket-key"),
      request.getHeader("sec-websocket-protocol"),
      request.getHeader("sec-websocket-extensions"),
      context,
    );
  },
  open: (socket) => {
    const { user, topics } = socket.getUserData();
    if (!users.has(user)) users.set(user, new Set());
    users.get(user).add(socket);
    socket.subscribe("all");
    for (const topic of topics) {
      if (topic.split(".").length === 2) {
        socket.subscribe(topic);
      } else {
        if (!overlaps.has(topic)) overlaps.set(topic, new Set());
        overlaps.get(topic).add(socket);
      }
    }
    socket.send("ready", false);
  },
  close: (socket) => {
    const { user, topics } = socket.getUserData();
    users.get(user)?.delete(socket);
    for (const topic of topics) overlaps.get(topic)?.delete(socket);
  },
});

const broker = await connect({ servers: process.argv[2] });
broker.subscribe("live.>", {
  callback: (problem, message) => {
    if (problem) throw problem;
    onEvent(message.subject, message.data);
  },
});
await broker.flush();
app.listen("127.0.0.1", 0, (listener) => console.log("ready", uws.us_socket_local_port(listener)));
