"""An SMTP server that keeps what it receives as lines of JSON; see smtp.sh."""

import email
import email.policy
import json
import ssl
import sys

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

folder, kind = sys.argv[1:]


class Keeper:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.endswith("@refused.test"):
            return "550 5.1.1 no such mailbox"
        if address.endswith("@later.test"):
            return "451 4.3.0 come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        kept = {
            "sender": envelope.mail_from,
            "recipients": envelope.rcpt_tos,
            "subject": str(message["Subject"]),
            "headers": {name: str(value) for name, value in message.items()},
            "type": message.get_content_type(),
            "text": message.get_content(),
        }
        with open(f"{folder}/mails", "a", encoding="utf-8") as mails:
            mails.write(json.dumps(kept) + "\n")
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    good = data.login == b"tester" and data.password == b"smtp-secret"
    # Not handled: the server answers.
    return AuthResult(success=good, handled=False)


class AnyPort(Controller):
    """The usual one asks itself whether it is there at the port that it was given, which is 0."""

    def _trigger_server(self):
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()


options = {}
if kind != "plain":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{folder}/cert.pem", f"{folder}/key.pem")
    options = {"authenticator": authenticate, "auth_required": True}
    if kind == "tls":
        options |= {"ssl_context": context, "auth_require_tls": False}
    else:
        options |= {"tls_context": context, "require_starttls": True}
controller = AnyPort(Keeper(), hostname="127.0.0.1", port=0, ready_timeout=60, **options)
controller.start()
print(controller.port, flush=True)
sys.stdin.read()
controller.stop()
