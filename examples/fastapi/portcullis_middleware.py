"""Refuses whom Portcullis has blocked or locked, in a FastAPI, Starlette or other ASGI application.

    app.add_middleware(
        PortcullisMiddleware,
        url="http://portcullis.railway.internal:7979",
        token=os.environ["BOUNCER_TOKEN"],
        user=lambda request: {"username": request.session.get("email")},
    )

A thread asks for what is new every two seconds (`/v1/decisions/stream`); no request waits for it. If Portcullis
cannot be reached, what was known holds until its end, nobody else is refused, and a line in the log says so.
With `fail_closed=True`, requests get 503 until it has answered for the first time.

Needs nothing but Starlette, which FastAPI brings. Start uvicorn with --no-proxy-headers: the client's address
is taken here, and only from Railway's edge.
"""

import ipaddress
import json
import logging
import os
import re
import threading
import time
import unicodedata
import urllib.request
import uuid

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse

log = logging.getLogger("portcullis")

# Railway's edge comes from here, and sets X-Real-IP to the client's address. Whoever comes from elsewhere
# may have written the header himself.
EDGE = ipaddress.ip_network("100.64.0.0/10")
STRANGERS = set()  # from where else requests came that name it: said once each


class PortcullisMiddleware:
    def __init__(self, app, url, token, user=lambda request: {}, edge=EDGE, fail_closed=False):
        self.app, self.user, self.edge, self.fail_closed = app, user, edge, fail_closed
        self.decisions = Decisions(url, token)

    async def __call__(self, scope, receive, send):
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        request, decisions, status = HTTPConnection(scope), self.decisions, None
        decisions.begin()
        if self.fail_closed and not decisions.known:
            status = 503
        elif decisions.hold(client_address(request, self.edge)):
            status = 403
        elif any("lockout" in decisions.of(*account) for account in self.user(request).items()):
            status = 423
        # The application may ask too: `"require_2fa" in request.state.portcullis.of("username", email)`.
        request.state.portcullis = decisions
        if status is None:
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        await JSONResponse({"detail": "refused"}, status)(scope, receive, send)


def client_address(request, edge=EDGE):
    """The client's address: from X-Real-IP if Railway's edge asks, else the peer's. None: there is none."""
    peer = address_of(request.client.host if request.client else "")
    if peer is not None and peer in edge:
        return address_of(request.headers.get("x-real-ip", ""))
    if "x-railway-request-id" in request.headers and peer not in STRANGERS and len(STRANGERS) < 10:
        STRANGERS.add(peer)
        log.warning("A request that names Railway's edge came from %s, not from %s: if that is the edge, say edge=", peer, edge)
    return peer


def address_of(text):
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def key_of(scope, value):
    """Names are compared as Portcullis compares them; ids as they are."""
    if scope == "username":
        lower = unicodedata.normalize("NFKC", str(value).strip()).lower()
        return scope, unicodedata.normalize("NFKC", lower)
    return scope, str(value)


class Decisions:
    """What is in force, fetched in the background: what for each address, range and account, and until when."""

    def __init__(self, url, token, every=2.0, anew=60.0):
        self.url, self.token, self.every, self.anew = url.rstrip("/"), token, every, anew
        # Portcullis tells each asker, by its name, what is new to it: every worker has a name of its own.
        self.known, self.held, self.lengths, self.process = False, {}, set(), None
        self.begin()

    def begin(self):
        """Once in every process: a server that forks takes no threads along."""
        if self.process != os.getpid():
            self.process, self.name = os.getpid(), f"portcullis-fastapi/{uuid.uuid4().hex}"
            threading.Thread(target=self.follow, name="portcullis", daemon=True).start()

    def of(self, scope, value):
        """What holds an account (scope `username` or `user_id`), an address or a range: `ban`, `lockout`, `require_2fa`."""
        kinds = self.held.get(key_of(scope, value), {}) if value else {}
        return {kind for kind, until in kinds.items() if until > time.monotonic()}

    def hold(self, address):
        if address is None:
            return False
        lengths = [bits for bits in self.lengths if bits <= address.max_prefixlen]
        ranges = (ipaddress.ip_network((address, bits), strict=False) for bits in lengths)
        return bool(self.of("Ip", address)) or any(self.of("Range", net) for net in ranges)

    def follow(self):
        asked_all, troubled = None, False
        while True:
            # All of it after trouble and once a minute: Portcullis may have started anew and forgotten.
            everything = troubled or asked_all is None or time.monotonic() - asked_all > self.anew
            try:
                self.take(self.ask(everything), everything)
                if everything:
                    asked_all = time.monotonic()
                if troubled:
                    log.warning("Portcullis answers again")
                troubled = False
            except Exception as error:  # whatever it is, the application goes on
                if not troubled:
                    log.warning("Portcullis does not answer, nobody new is refused: %s", error)
                troubled = True
            time.sleep(self.every)

    def ask(self, everything):
        query = f"startup={str(everything).lower()}&scopes=ip,range,username,user_id"
        headers = {"X-Api-Key": self.token, "User-Agent": self.name}
        request = urllib.request.Request(f"{self.url}/v1/decisions/stream?{query}", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def take(self, news, everything):
        if not (everything or news["new"] or news["deleted"]):
            return
        now = time.monotonic()
        held = {} if everything else {key: dict(kinds) for key, kinds in self.held.items()}
        for gone in news["deleted"]:
            held.get(key_of(gone["scope"], gone["value"]), {}).pop(gone["type"], None)
        for new in news["new"]:
            held.setdefault(key_of(new["scope"], new["value"]), {})[new["type"]] = now + seconds(new["duration"])
        held = {key: kinds for key, kinds in held.items() if kinds}
        # Both are replaced as wholes: a request that is being answered sees the old ones or the new ones.
        self.lengths = {int(value.rsplit("/", 1)[1]) for scope, value in held if scope == "Range"}
        self.held, self.known = held, True


def seconds(duration):
    """Of `25h1m1s`."""
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))
