"""Tests of hubcast.py against a live agent. `spoke-agent/tests/it/python_client.rs` starts the agent, runs this, and does
at the agent what `step` asks for."""

import decimal
import http.server
import queue
import sys
import threading
import time

import hubcast
from hubcast import Absent, BadRequest, Behind, Expired, Held, NotFound, NotReady, Reader, Stale, Unauthorized
from hubcast import Unavailable, Unreachable


def step(name):
    """Asks whoever runs this to do something, and waits until it is done."""
    print("step " + name, flush=True)
    if sys.stdin.readline().strip() != "done":
        sys.exit("nobody does what is asked for")


def raises(kind, call, *args):
    try:
        found = call(*args)
    except kind as error:
        # Exactly this one: whoever catches it must be able to tell.
        assert type(error) is kind, error
        return error
    raise AssertionError("%r instead of %s" % (found, kind.__name__))


def answers(address, token):
    """Every kind of answer."""
    reader = Reader(address, token)
    one = reader.get("k", "a/b ü")
    assert (one.value, one.tenant, one.version) == ({"n": 1.5}, "té/1", "1.1"), one
    assert 0 <= one.age < 60 and one.etag.startswith('"'), one
    assert isinstance(raises(NotFound, reader.get, "k", "none"), Absent)
    assert isinstance(raises(Expired, reader.get, "k", "over"), Absent)
    assert isinstance(raises(Held, reader.get, "k", "held"), Unavailable)
    assert isinstance(raises(NotReady, reader.get, "other", "a"), Unavailable)
    raises(Unauthorized, Reader(address, "wrong").get, "k", "b")
    raises(Unauthorized, next, Reader(address, "wrong").watch())
    raises(BadRequest, reader._ask, "GET", "/v1/contexts/k/%ff", {})
    many = reader.get_many([("k", "b"), ("k", "none"), ("k", "held"), ("k", "over")])
    assert many[0].value == [1, 2] and many[1] is None and many[3] is None, many
    assert isinstance(many[2], Held), many
    raises(NotReady, reader.get_many, [("k", "b"), ("other", "a")])
    whole = reader.tenant("té/1")
    assert [(c.kind, c.key) for c in whole.contexts] == [("k", "a/b ü"), ("k", "b")], whole
    assert whole.held == [("k", "held")] and whole.version == "1.1", whole
    assert reader.tenant("té/1", kinds=["other"]).contexts == []
    assert reader.tenant("nobody").version is None
    exact = Reader(address, token, parse_float=decimal.Decimal).get("k", "a/b ü")
    assert str(exact.value["n"]) == "1.50"


def ages(address, token):
    """Answers of any sort are refused if they are too old; what was answered is there for whoever wants it."""
    young = Reader(address, token, max_age=3600)
    assert young.get("k", "b").value == [1, 2]
    time.sleep(0.01)
    old = Reader(address, token, max_age=0)
    stale = raises(Stale, old.get, "k", "b")
    assert stale.result.value == [1, 2] and stale.age > 0
    raises(Stale, old.get, "k", "none")
    raises(Stale, old.get_many, [("k", "b")])
    raises(Stale, old.tenant, "té/1")


def caches(address, token):
    """A value that is still right is not sent again, and one that changed is."""
    reader = Reader(address, token, cache=10)
    first = reader.get("k", "b")
    assert reader.get("k", "b").value is first.value
    step("change")
    assert reader.get("k", "b").value == 3
    assert Reader(address, token).get("k", "b").value == 3


def reconnects(address, token):
    """A connection that the agent closed is replaced without anyone's notice; an agent that is gone is unreachable."""
    reader = Reader(address, token)
    assert reader.get("k", "b").value == 3
    assert len(reader._idle) == 1, "it is kept"
    before = reader._idle[0]
    assert reader.get("k", "b").value == 3
    assert reader._idle[0] is before, "and used again"
    step("restart")
    assert reader.get("k", "b").value == 3
    raises(Unreachable, Reader("127.0.0.1:1", token).get, "k", "b")
    raises(Unreachable, Reader(address + ".none", token).get, "k", "b")


def watches(address, token):
    """All there is, then what changes, over restarts of the agent and without a second copy."""
    reader = Reader(address, token)
    events = queue.Queue()
    watching = reader.watch(kinds=["k"])

    def follow():
        for event in watching:
            events.put(event)

    threading.Thread(target=follow, daemon=True).start()

    def until(is_last):
        told = []
        while not told or not is_last(told[-1]):
            told.append(events.get(timeout=20))
        return told

    def bundle():
        """What one push changed: the values. A name that is held is told as gone each time, and an agent that stops may
        still take a connection, so that there is one `begin` more."""
        told = until(lambda event: event.cursor)
        return [e for e in told if e.event not in ("begin", "delete")], told[-1].cursor

    copy = until(lambda event: event.event == "sync")
    assert copy[0].event == "begin" and copy[-1].cursor, copy
    assert {(e.key, e.event) for e in copy[1:-1]} >= {("a/b ü", "put"), ("b", "put")}, copy
    step("change")
    [changed], cursor = bundle()
    assert (changed.key, changed.value, changed.tenant) == ("b", 4, "té/1"), changed
    step("restart")
    assert [event.event for event in until(lambda event: event.event == "begin")] == ["begin"]
    step("change")
    told, _ = bundle()
    assert [(e.event, e.value) for e in told] == [("put", 5)], "no second copy: %s" % told
    resumed = reader.watch(after=cursor)
    assert next(resumed).event == "begin"
    assert next(resumed).value == 5
    resumed.close()
    # What was told by the watch counts for answers too.
    assert reader._seen.get("té/1") == hubcast._parsed(told[0].version)


def never_back(address, token):
    """An agent that was put back to an older state is behind for whoever saw more."""
    reader = Reader(address, token, cache=10)
    step("backup")
    step("change")
    new = reader.get("k", "b")
    assert new.value == 6, new
    step("restore")
    raises(Behind, reader.get, "k", "b")
    # Of the same tenant, and never asked for before.
    raises(Behind, reader.get, "k", "a/b ü")
    raises(Behind, reader.get_many, [("k", "a/b ü")])
    raises(Behind, reader.tenant, "té/1")
    assert Reader(address, token).get("k", "b").value == 5
    told = Reader(address, token)
    told.saw("té/1", "99.1")
    raises(Behind, told.tenant, "té/1")
    forgetful = Reader(address, token, tenants=1)
    forgetful.saw("té/1", "99.1")
    forgetful.saw("another", "1.1")
    assert forgetful.get("k", "b").value == 5, "what is remembered is bounded"


def strangers():
    """Something that is no agent never makes a key absent."""

    class Stranger(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.endswith("/a"):
                return self.send_error(404)
            self.send_response(200 if self.path.endswith("/b") else 400)
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Stranger)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    reader = Reader("http://127.0.0.1:%d" % server.server_port)
    raises(Unavailable, reader.get, "k", "a")
    raises(Unavailable, reader.get, "k", "b")
    raises(BadRequest, reader.get, "k", "c")
    for address in ("localhost", "ftp://localhost:1", "localhost:http"):
        raises(ValueError, Reader, address)


def main():
    tcp, path, token = sys.argv[1:]
    for address in (tcp, path):
        answers(address, token)
        ages(address, token)
    strangers()
    caches(tcp, token)
    reconnects(path, token)
    watches(path, token)
    never_back(path, token)
    print("passed", flush=True)


if __name__ == "__main__":
    main()
