"""A small application behind Portcullis: it logs what Portcullis reads, and refuses whom Portcullis names.

    pip install fastapi uvicorn itsdangerous
    BOUNCER_TOKEN=... PORTCULLIS_URL=http://127.0.0.1:7979 SESSION_SECRET=... uvicorn app:app --no-proxy-headers
"""

import datetime
import hmac
import ipaddress
import json
import logging
import os
import sys

from fastapi import Body, FastAPI, HTTPException, Request
from starlette.middleware.sessions import SessionMiddleware

from portcullis_middleware import EDGE, PortcullisMiddleware, client_address

# Where the edge comes from, if it is not Railway's.
edge = ipaddress.ip_network(os.environ.get("EDGE_NETWORK", str(EDGE)))


class Lines(logging.Formatter):
    """One JSON object per line, with the fields that Portcullis looks for."""

    def format(self, record):
        time = datetime.datetime.fromtimestamp(record.created, datetime.timezone.utc)
        line = {"timestamp": time.isoformat(), "level": record.levelname, "logger": record.name}
        line["message"] = record.getMessage()
        for name in ("ip_address", "request_id"):
            if value := getattr(record, name, None):
                line[name] = value
        return json.dumps(line)


# To standard output: what goes to standard error is an error to Railway.
handler = logging.StreamHandler(sys.stdout)
handler.setFormatter(Lines())
logging.basicConfig(level=logging.INFO, handlers=[handler])
security = logging.getLogger("security")


def seen(request):
    """What a line says of its request. The id is the one that Railway's own HTTP log has: with it Portcullis
    knows the client's address from the edge, whatever the application believes."""
    address = client_address(request, edge)
    return {"ip_address": address and str(address), "request_id": request.headers.get("x-railway-request-id")}


app = FastAPI()
app.add_middleware(
    PortcullisMiddleware,
    url=os.environ["PORTCULLIS_URL"],
    token=os.environ["BOUNCER_TOKEN"],
    user=lambda request: {"username": request.session.get("email")},
    edge=edge,
)
# Added last, so it is outside: the middleware above finds the session.
app.add_middleware(SessionMiddleware, secret_key=os.environ["SESSION_SECRET"])

# Yours are in a database, hashed.
PASSWORDS = {"anna@example.org": "correct horse", "mallory@example.org": "battery staple"}


@app.get("/")
async def home(request: Request):
    email = request.session.get("email")
    return {"email": email, "require_2fa": "require_2fa" in request.state.portcullis.of("username", email)}


@app.post("/login")
async def login(request: Request, email: str = Body(), password: str = Body()):
    if "lockout" in request.state.portcullis.of("username", email):
        raise HTTPException(423, "locked for now")
    ip = seen(request)["ip_address"]
    if email not in PASSWORDS or not hmac.compare_digest(PASSWORDS[email].encode(), password.encode()):
        message = "FAILED_LOGIN: email=%s, ip=%s, reason=invalid_password"
        security.warning(message, email, ip, extra=seen(request))
        raise HTTPException(401, "wrong e-mail address or password")
    request.session["email"] = email
    security.info("SUCCESSFUL_LOGIN: user_id=%s, ip=%s", email, ip, extra=seen(request))
    return {"email": email}
