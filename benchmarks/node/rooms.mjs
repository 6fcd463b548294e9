// Who wants what, for the Node peers: sets of connections by user, by topic, and all.

const nobody = new Set();

export class Rooms {
  everybody = new Set();
  #users = new Map();
  #topics = new Map();

  join(connection, { user, topics }) {
    this.everybody.add(connection);
    enter(this.#users, user, connection);
    for (const topic of topics) enter(this.#topics, topic, connection);
  }

  leave(connection, { user, topics }) {
    this.everybody.delete(connection);
    this.#users.get(user)?.delete(connection);
    for (const topic of topics) this.#topics.get(topic)?.delete(connection);
  }

  receivers(subject) {
    const words = subject.split(".");
    if (words[1] === "user") return this.#users.get(words[2]) ?? nobody;
    if (words[1] === "all") return this.everybody;
    const every = this.#topics.get(`${words[2]}.${words[3]}`) ?? nobody;
    const single = this.#topics.get(words.slice(2).join("."));
    return single?.size ? new Set([...every, ...single]) : every;
  }
}

export function introduction(query) {
  const asked = new URLSearchParams(query);
  const topics = asked.get("topics");
  return { user: asked.get("user"), topics: topics ? topics.split(",") : [] };
}

function enter(rooms, name, connection) {
  let room = rooms.get(name);
  if (!room) rooms.set(name, (room = new Set()));
  room.add(connection);
}
