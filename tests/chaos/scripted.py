"""A run written by hand, for tests of the auditor: all is well in it until somebody changes it."""

from __future__ import annotations

from typing import Any

from tests.chaos.records import Record, Run

EVERYTHING: dict[str, list[str]] = {"allow": [">"], "deny": []}


class Script:
    """Writes the logs of services and clients on one clock, which goes on with each line."""

    def __init__(self) -> None:
        self.now = 0.0
        self.service: list[Record] = []
        self.own: list[Record] = []
        self.clients: list[Record] = []
        self.sequence = 0
        self.published = 0

    def tick(self, seconds: float = 1.0) -> float:
        """Let time pass and return it."""
        self.now += seconds
        return self.now

    def publish(self, subject: str, *, durable: bool = True, acknowledged: bool = True) -> str:
        """Publish an event, store it if it is durable, and return its id."""
        self.published += 1
        event_id = f"e{self.published}"
        self.service.append(
            {"at": self.tick(), "what": "sent", "id": event_id, "subject": subject}
            | {"durable": durable}
        )
        if durable:
            self.sequence += 1
            stored = {"id": event_id, "sequence": self.sequence}
            if acknowledged:
                self.service.append({"at": self.tick(), "what": "stored", **stored})
            self.own.append({"at": self.now, "what": "held", **stored})
        return event_id

    def purge(self, event_id: str) -> None:
        """Let the stream lose one event."""
        self.own = [each for each in self.own if each.get("id") != event_id]

    def restore(self, last: int) -> None:
        """Let the stream fall back to this sequence."""
        self.own = [each for each in self.own if each.get("sequence", 0) <= last]
        self.own.append({"at": self.tick(), "what": "restored", "last": last})
        self.sequence = last

    @property
    def run(self) -> Run:
        """What was written so far."""
        return Run.of({"reviews": self.service}, self.own, self.clients)


class ScriptedClient:
    """One client's lines in a script."""

    def __init__(
        self, script: Script, name: str, user: str = "ann", *, direct: bool = True
    ) -> None:
        self.script = script
        self.name = name
        self.user = user
        self.direct = direct
        self.grants = EVERYTHING
        self.asked = 0

    def write(self, what: str, **fields: Any) -> None:
        """Write a line."""
        at = self.script.tick()
        self.script.clients.append({"at": at, "what": what, "client": self.name, **fields})

    def open(self, given: int | None = None) -> None:
        """Connect, with a cursor or without, and be greeted."""
        self.write(
            "open",
            given=None if given is None else f"s-{given}",
            user=self.user,
            direct=True,
            grants=self.grants,
        )
        at = self.script.sequence if given is None else given
        resume = None if given is None else {"replaying": True}
        self.says("connection.established", {"cursor": f"s-{at}", "resume": resume})

    def subscribe(self, *patterns: str, given: int | None = None) -> str:
        """Ask for patterns; return the message's id."""
        self.asked += 1
        message_id = f"m{self.asked}"
        data: Record = {"events": list(patterns)}
        if given is not None:
            data["cursor"] = f"s-{given}"
        self.write("out", message={"type": "subscribe", "id": message_id, "data": data})
        return message_id

    def acknowledged(self, reply_to: str, *patterns: str, cursor: int | None = None) -> None:
        """Read the acknowledgement."""
        data: Record = {"events": list(patterns), "invalid_events": []}
        if cursor is not None:
            data["cursor"] = f"s-{cursor}"
        self.says("subscription.acknowledged", data, reply_to=reply_to)

    def gives_up(self, *patterns: str) -> None:
        """Unsubscribe; the message's id is ``u``."""
        data = {"events": list(patterns)}
        self.write("out", message={"type": "unsubscribe", "id": "u", "data": data})

    def holds(self, *patterns: str) -> None:
        """Subscribe and be acknowledged, without a cursor."""
        self.acknowledged(self.subscribe(*patterns), *patterns, cursor=self.script.sequence)

    def says(self, kind: str, data: Record, **fields: Any) -> None:
        """Read a message of the bridge."""
        self.write("in", message={"type": kind, "data": data, **fields})

    def gets(self, event_id: str, cursor: int | None = None) -> None:
        """Read an event, with its own cursor unless another is given."""
        event = self.script.run.events[event_id]
        message: Record = {"type": event.type, "id": event_id, "data": {}}
        if event.durable:
            message["cursor"] = f"s-{event.sequence if cursor is None else cursor}"
        self.write("in", message=message)

    def resumed(self, cursor: int, reply_to: str | None = None, **data: Any) -> None:
        """Read the end of a replay."""
        told = {"recovered": not data, "replayed": 0, "cursor": f"s-{cursor}", **data}
        self.says("resume.completed", told, **({} if reply_to is None else {"reply_to": reply_to}))

    def comes_back(self, given: int, *patterns: str) -> None:
        """Connect and subscribe with a cursor, and be told that both replays are through."""
        self.open(given)
        message_id = self.subscribe(*patterns, given=given)
        self.acknowledged(message_id, *patterns)
        self.resumed(given)
        self.resumed(given, message_id)

    def end(self) -> None:
        """Leave in order."""
        self.write("end")
