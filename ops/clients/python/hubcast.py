"""Reads contexts from a Hubcast agent. One file, the standard library only, Python 3.8 or later: made to be copied.

    from hubcast import Reader, Absent, Unavailable

    reader = Reader("/run/hubcast/eu-west-1.sock", max_age=300)
    try:
        key = reader.get("api_key", key_hash)
    except Absent:
        ...  # 401: the key does not exist, and the agent knows that
    except Unavailable:
        ...  # 503: nobody knows at the moment; never treat this like a key that does not exist

What it takes care of:

* Connections stay open and are used again. A connection that broke meanwhile is replaced, and the request sent once more.
* It never goes back: it remembers the highest version that it has seen of each tenant and tells the agent. One that has
  less (another agent of the region, one that was restored from a backup) is `Behind`.
* Errors say which of two things happened: it does not exist (`Absent`), or nobody can say (`Unavailable`).

A `Reader` may be used from many threads. It must never answer from what it remembers without having asked the agent.
"""

import collections
import dataclasses
import http.client
import json
import random
import socket
import ssl
import threading
import time
import urllib.parse

__all__ = [
    "Reader", "Context", "Tenant", "Event", "Error", "Absent", "NotFound", "Expired", "Unavailable", "NotReady", "Held",
    "Behind", "Stale", "Unreachable", "Unauthorized", "BadRequest",
]

#: An agent that has nothing to tell a watcher shows every 15 seconds that it lives.
_WATCH_SILENCE = 45.0
#: Connections that are kept open while nobody uses them.
_IDLE_CONNECTIONS = 8


class Error(Exception):
    """Anything but a value."""


class Absent(Error):
    """There is no such context, and the agent knows that."""


class NotFound(Absent):
    """The key does not exist."""


class Expired(Absent):
    """The key existed until its `expires`."""


class Unavailable(Error):
    """Nobody can say at the moment. It is no sign that the key does not exist."""


class NotReady(Unavailable):
    """The agent cannot say yet whether the key exists."""


class Held(Unavailable):
    """The key exists, and no good value of it ever came."""


class Behind(Unavailable):
    """The agent has less than this reader has seen already."""


class Stale(Unavailable):
    """What the agent has is older than `max_age`, or nobody knows how old. `result` is what it answered, if it did."""

    def __init__(self, message, age, result):
        super().__init__(message)
        self.age = age
        self.result = result


class Unreachable(Unavailable):
    """The agent does not answer."""


class Unauthorized(Error):
    """The agent refuses the token."""


class BadRequest(Error):
    """The agent does not understand the request."""


@dataclasses.dataclass(frozen=True)
class Context:
    """A context. `age` is the seconds since the moment up to which the agent has every change; None if unknown."""

    kind: str
    key: str
    tenant: str
    version: str
    value: object
    age: object = None
    etag: object = None


@dataclasses.dataclass(frozen=True)
class Tenant:
    """All contexts of a tenant, from one state of the store. `held`: pairs of kind and key that the hub holds."""

    tenant: str
    version: object
    contexts: list
    held: list
    age: object = None


@dataclasses.dataclass(frozen=True)
class Event:
    """What a watcher is told.

    `event` is `begin` (a connection was opened), `put`, `delete`, or `sync` (a full copy ended: what was not put since the
    last `begin` is gone). `cursor` stands where a watcher that goes on from it misses nothing.
    """

    event: str
    kind: object = None
    key: object = None
    tenant: object = None
    version: object = None
    value: object = None
    expires: object = None
    cursor: object = None


class Reader:
    """Reads from one agent: `address` is HOST:PORT, https://HOST:PORT, or the path of its Unix socket (`./name` in this
    directory). `ca` is a file with the CA of an agent with https, instead of those of the system.

    `token` is the agent's `read_token`. Answers older than `max_age` seconds are `Stale`. `timeout` is the longest wait, in
    seconds, for a connection and for each part of an answer. `cache` is the number of values that are kept to ask the
    agent only whether they are still right. `tenants` and `keys` bound what is remembered so as not to go back.
    `parse_float` makes numbers with a point; `decimal.Decimal` keeps all their digits.
    """

    def __init__(self, address, token=None, max_age=None, timeout=1.0, cache=0, tenants=100_000, keys=100_000,
                 parse_float=None, ca=None):
        self._connect = _connector(address, ca)
        self._headers = {} if token is None else {"Authorization": "Bearer " + token}
        self._max_age = max_age
        self._timeout = timeout
        self._parse_float = parse_float
        self._idle = collections.deque()
        self._lock = threading.Lock()
        self._seen = _Recent(tenants)
        self._owners = _Recent(keys)
        self._values = _Recent(cache)

    def get(self, kind, key):
        """The context, or an `Absent` or `Unavailable` that says why there is none."""
        path = "/v1/contexts/%s/%s" % (_encoded(kind), _encoded(key))
        name = (kind, key)
        known = self._remembered(self._values, name)
        least = self._least_of(self._remembered(self._owners, name))
        while True:
            headers = {} if known is None else {"If-None-Match": known.etag}
            answer = self._ask("GET", path, headers, least=least)
            if answer.status == 404:
                self._forget(name)
                self._check_age(answer, None)
                raise _ABSENT.get(answer.error(), NotFound)("%s %r: %s" % (kind, key, answer.error()))
            context = self._context_of(answer, kind, key, known)
            # A value that is kept while its tenant goes on has an older version: only the agent can tell the two apart.
            seen = self._least_of(context.tenant)
            if seen is None or (least is not None and seen <= least) or _parsed(context.version) >= seen:
                break
            least = seen
        self._note(context)
        self._check_age(answer, context)
        return context

    def get_many(self, names):
        """The contexts of pairs of kind and key, in their order and from one state of the store.

        Each is a `Context`, None if it does not exist or has expired, or a `Held` (as a value, not raised).
        """
        names = [(kind, key) for kind, key in names]
        body = json.dumps({"keys": [{"kind": kind, "key": key} for kind, key in names]}).encode()
        answer = self._ask("POST", "/v1/contexts/batch-get", {"Content-Type": "application/json"}, body=body)
        found = self._elements(answer)
        least = self._missed(names, found)
        if least is not None:
            answer = self._ask("POST", "/v1/contexts/batch-get", {"Content-Type": "application/json"}, body=body,
                               least=least)
            found = self._elements(answer)
        for name, context in zip(names, found):
            if context is None:
                self._forget(name)
            elif isinstance(context, Context):
                self._note(context)
        self._check_age(answer, found)
        return found

    def tenant(self, tenant, kinds=()):
        """All contexts of a tenant. One that does not exist has no contexts, and None as version."""
        query = urllib.parse.urlencode([("kind", kind) for kind in kinds])
        path = "/v1/tenants/%s/contexts?%s" % (_encoded(tenant), query)
        answer = self._ask("GET", path, {}, least=self._least_of(tenant))
        document = answer.json(self._parse_float)
        contexts = [self._element(element, answer.age) for element in document["contexts"]]
        held = [(element["kind"], element["key"]) for element in document["held"]]
        whole = Tenant(document["tenant"], document["version"], contexts, held, answer.age)
        if whole.version is not None:
            self.saw(tenant, whole.version)
        self._check_age(answer, whole)
        return whole

    def watch(self, kinds=(), tenants=(), after=None):
        """Tells, without end, what there is and then what changes, as `Event`s; of these kinds and tenants, or of all.

        It connects again by itself and goes on where it was. `after` is the `cursor` of an event of an earlier watch.
        Unlike an answer, what it tells may be older than what another agent has: a watch follows one agent.
        """
        fixed = [("kind", kind) for kind in kinds] + [("tenant", tenant) for tenant in tenants]
        pause = 0.0
        while True:
            query = fixed if after is None else fixed + [("after", after)]
            connection = None
            try:
                connection, response = self._open("/v1/watch?" + urllib.parse.urlencode(query))
                yield Event("begin")
                for event, after in self._events(response, after):
                    pause = 0.0
                    if event is not None:
                        yield event
            except (Unavailable, OSError, http.client.HTTPException):
                pass
            finally:
                if connection is not None:
                    connection.close()
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(5.0, max(0.1, pause * 2))

    def saw(self, tenant, version):
        """Answers that are older than this version of the tenant are `Behind` from now on."""
        parsed = _parsed(version)
        with self._lock:
            seen = self._seen.get(tenant)
            self._seen.put(tenant, parsed if seen is None else max(seen, parsed))

    def close(self):
        """Closes the connections that nobody uses."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:
                break

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # What is remembered.

    def _remembered(self, recent, name):
        with self._lock:
            return recent.get(name)

    def _least_of(self, tenant):
        return None if tenant is None else self._remembered(self._seen, tenant)

    def _note(self, context):
        self.saw(context.tenant, context.version)
        with self._lock:
            self._owners.put((context.kind, context.key), context.tenant)
            if context.etag is not None:
                self._values.put((context.kind, context.key), context)

    def _forget(self, name):
        with self._lock:
            self._owners.drop(name)
            self._values.drop(name)

    def _missed(self, names, found):
        """The version that the agent must have before these answers count, if they may be older than what was seen."""
        least = None
        for name, context in zip(names, found):
            is_value = isinstance(context, Context)
            tenant = context.tenant if is_value else self._remembered(self._owners, name)
            seen = self._least_of(tenant)
            if seen is not None and not (is_value and _parsed(context.version) >= seen):
                least = seen if least is None else max(least, seen)
        return least

    def _check_age(self, answer, result):
        if self._max_age is not None and (answer.age is None or answer.age > self._max_age):
            age = "of unknown age" if answer.age is None else "%.1f s old" % answer.age
            raise Stale("the answer is %s, %s s are allowed" % (age, self._max_age), answer.age, result)

    # Answers.

    def _context_of(self, answer, kind, key, known):
        if answer.status == 304:
            value = known.value
        else:
            value = answer.json(self._parse_float)
        tenant, version, etag = (answer.headers[name] for name in ("X-Context-Tenant", "X-Context-Version", "ETag"))
        if tenant is None or version is None:
            raise Unavailable("what answers is no agent: it says neither tenant nor version")
        return Context(kind, key, urllib.parse.unquote(tenant), version, value, answer.age, etag)

    def _elements(self, answer):
        elements = answer.json(self._parse_float)["contexts"]
        return [None if element is None else self._element(element, answer.age) for element in elements]

    def _element(self, element, age):
        if "error" in element:
            return Held("%s %r: %s" % (element["kind"], element["key"], element["error"]))
        fields = (element[name] for name in ("kind", "key", "tenant", "version", "value"))
        return Context(*fields, age)

    def _events(self, response, cursor):
        """Events with the cursor after them; None with a cursor alone. Ends with the connection."""
        fields = {}
        for line in response:
            name, _, value = line.decode().rstrip("\n").partition(":")
            if name:
                fields[name] = value.lstrip(" ")
            elif line == b"\n" and fields:
                cursor = fields.get("id", cursor)
                yield self._event(fields), cursor
                fields = {}

    def _event(self, fields):
        name = fields.get("event")
        if name not in ("put", "delete", "sync"):
            return None
        data = json.loads(fields["data"], parse_float=self._parse_float)
        if name == "sync":
            return Event("sync", cursor=fields.get("id"))
        self.saw(data["tenant"], data["version"])
        return Event(name, data["kind"], data["key"], data["tenant"], data["version"], data.get("value"),
                     data.get("expires"), fields.get("id"))

    # Connections.

    def _ask(self, method, path, headers, body=None, least=None):
        headers = dict(self._headers, **headers)
        if least is not None:
            headers["X-Context-Min-Version"] = "%d.%d" % least
        while True:
            try:
                connection, is_used = self._idle.pop(), True
            except IndexError:
                connection, is_used = self._connect(self._timeout), False
            try:
                connection.request(method, path, body, headers)
                response = connection.getresponse()
                answer = _Answer(response.status, response.headers, response.read())
                break
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                # The agent may have closed it, or ended, since it was used last; then all of them are broken.
                if is_used and not isinstance(error, socket.timeout):
                    self.close()
                    continue
                raise Unreachable("the agent does not answer: %s" % (error or type(error).__name__)) from error
        if len(self._idle) < _IDLE_CONNECTIONS and not response.will_close:
            self._idle.append(connection)
        else:
            connection.close()
        answer.check()
        return answer

    def _open(self, path):
        connection = self._connect(self._timeout)
        try:
            connection.request("GET", path, None, self._headers)
            # The agent's first word may take as long as any other.
            connection.sock.settimeout(_WATCH_SILENCE)
            response = connection.getresponse()
            if response.status != 200:
                _Answer(response.status, response.headers, response.read()).check()
            return connection, response
        except BaseException:
            connection.close()
            raise


class _Answer:
    """One answer, as it came."""

    def __init__(self, status, headers, body):
        self.status = status
        self.headers = headers
        self.body = body
        try:
            self.age = float(headers["X-Context-Age"])
        except (TypeError, ValueError):
            self.age = None

    def json(self, parse_float=None):
        try:
            return json.loads(self.body, parse_float=parse_float)
        except ValueError as error:
            raise Unavailable("the agent answers something that is no JSON") from error

    def error(self, name="error"):
        try:
            return json.loads(self.body)[name]
        except (ValueError, KeyError, TypeError):
            return "status %d" % self.status

    def check(self):
        """Raises what is neither an answer nor a 404 that an agent gives."""
        if self.status in (200, 304):
            return
        error = self.error()
        if self.status == 404 and error in _ABSENT:
            return
        if self.status == 400:
            raise BadRequest(self.error("message"))
        kinds = {401: Unauthorized, 412: Behind}
        kind = kinds.get(self.status) or _UNAVAILABLE.get(error, Unavailable)
        raise kind("the agent answers %d: %s" % (self.status, error))


#: A 404 with anything else is no word of an agent about a key.
_ABSENT = {"not_found": NotFound, "expired": Expired}
_UNAVAILABLE = {"not_ready": NotReady, "held": Held}


class _Recent:
    """The last things that were used, up to a number of them."""

    def __init__(self, most):
        self._most = most
        self._entries = collections.OrderedDict()

    def get(self, name):
        entry = self._entries.get(name)
        if entry is not None:
            self._entries.move_to_end(name)
        return entry

    def put(self, name, entry):
        self._entries[name] = entry
        self._entries.move_to_end(name)
        while len(self._entries) > self._most:
            self._entries.popitem(last=False)

    def drop(self, name):
        self._entries.pop(name, None)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("agent", timeout=timeout)
        self._path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _connector(address, ca):
    """Makes connections to an address: HOST:PORT, with http://, https:// or neither, or a path, which has a slash."""
    trust = None
    if address.startswith("https://"):
        trust = ssl.create_default_context(cafile=ca)
        address = address[len("https://"):].rstrip("/")
    elif address.startswith("http://"):
        address = address[len("http://"):].rstrip("/")
    elif "/" in address and "://" not in address:
        return lambda timeout: _UnixConnection(address, timeout)
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdigit():
        raise ValueError("address must be HOST:PORT or the path of a socket, not %r" % address)
    host, port = host.strip("[]"), int(port)
    if trust is not None:
        return lambda timeout: http.client.HTTPSConnection(host, port, timeout=timeout, context=trust)
    return lambda timeout: http.client.HTTPConnection(host, port, timeout=timeout)


def _encoded(text):
    return urllib.parse.quote(text, safe="")


def _parsed(version):
    """A version as numbers, which compare as versions do."""
    epoch, _, number = version.partition(".")
    return int(epoch), int(number)
