"""Parts shared by the hooks that notify a service: alertmanager, pagerduty and slack-webhook. They need no other file.

Python, because its standard library alone has JSON, verified TLS and files; curl and jq are packages too, and a shell
script would have to keep the secrets off their command lines. Works with Python 3.6 (RHEL 8) and later, without pip.
docs/hooks.md describes the settings and the exit codes.
"""

import email.utils
import http.client
import json
import os
import random
import re
import ssl
import stat
import sys
import threading
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request

# Exit codes, as in sysexits.h: used in a wrong way, a bug, a temporary failure, a wrong setting.
USAGE, BUG, TEMPORARY, CONFIG = 64, 70, 75, 78
# Seconds to connect, and for one try in all.
CONNECT_SECONDS, TRY_SECONDS = 3, 10
TRIES = 3
# Bytes of an event (the agent's own limit), of a file with a secret, and of an answer.
MAX_EVENT, MAX_SECRET, MAX_ANSWER = 4 << 20, 4096, 1 << 20
# The agent's --hook-timeout is in CLOSEWAIT_TIMEOUT_SECONDS; without an agent it has its default.
DEFAULT_TIMEOUT = 30.0
STARTED = time.monotonic()
LOOPBACK = ("127.0.0.1", "::1", "localhost")

# Texts that no message may contain.
secrets = []


class Failure(Exception):
    """End of the hook, with an exit code and a message."""

    def __init__(self, code, message, hint=None):
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


def say(text):
    """Writes a line to the agent's log, without secrets and control characters."""
    for secret in secrets:
        text = text.replace(secret, "[secret]")
    print(plain(text, 500), file=sys.stderr, flush=True)


def plain(value, limit):
    """Returns a value as one line of text of at most `limit` characters; "" for None. Invisible characters, which could
    reorder the text or hide a part of it, are escaped as the agent escapes control characters."""
    # Not longer than needed: a hostile name may have megabytes.
    text = "" if value is None else str(value)[: limit + 1]
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    seen = [c if unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029" else "\\u{%x}" % ord(c) for c in text]
    text = "".join(seen)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def remaining():
    """Returns the seconds until this program has to end: some time before the agent ends it."""
    try:
        limit = float(os.environ.get("CLOSEWAIT_TIMEOUT_SECONDS", DEFAULT_TIMEOUT))
    except ValueError:
        limit = DEFAULT_TIMEOUT
    return STARTED + limit - min(2.0, limit / 4) - time.monotonic()


def setting(name, default=None):
    """Returns an environment variable."""
    value = os.environ.get(name) or default
    if not value:
        raise Failure(CONFIG, "%s is not set" % name, "set it in the environment of the agent; docs/hooks.md has an example")
    return value


def secret_of(name):
    """Returns the line in the file that an environment variable names. Secrets are in files, as other users can read
    command lines, and `systemctl show` prints the environment of a unit."""
    path = setting(name)
    fail = "cannot read the file in %s" % name
    try:
        # A FIFO must not block.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY), "rb") as file:
            info = os.fstat(file.fileno())
            if not stat.S_ISREG(info.st_mode):
                raise Failure(CONFIG, fail + ": it is not a regular file")
            if info.st_uid not in (0, os.geteuid()):
                raise Failure(CONFIG, fail + ": it belongs to user %d" % info.st_uid, "change its owner: chown root")
            if info.st_mode & 0o027:
                raise Failure(CONFIG, fail + ": other users may read or change it", "remove that permission: chmod go-w,o-rwx")
            data = file.read(MAX_SECRET + 1)
    except (OSError, ValueError) as error:
        # Not the path: it may be the secret itself, given by mistake.
        raise Failure(CONFIG, fail + ": " + (getattr(error, "strerror", None) or "invalid path"), "give the path of a file")
    text = data.decode("utf-8", "replace").strip()
    # A service may repeat a part of it in its answer: the path of a URL, the token of a header.
    parts = [text, text.split(" ")[-1], re.sub(r"\A\w+://[^/]*", "", text)]
    secrets.extend(word for word in parts if len(word) >= 8)
    if not re.match(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?\Z", text) or len(data) > MAX_SECRET:
        raise Failure(CONFIG, "the file in %s is not one line of ASCII text" % name, "write only the secret to the file")
    return text


def checked_url(name, url, plain_allowed=False):
    """Returns a URL that a setting has, without a slash at its end. Only loopback may do without TLS, where it is not
    allowed otherwise."""
    hint = "give a URL such as https://host/path, without user and password"
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc and parts.port != 0
        good = good and parts.hostname.encode("idna")
    except ValueError:
        good = False
    if not good or "#" in url or not re.match(r"[\x21-\x7e]+\Z", url):
        raise Failure(CONFIG, "%s has no valid URL" % name, hint)
    if parts.scheme == "http" and not plain_allowed and parts.hostname not in LOOPBACK:
        raise Failure(CONFIG, "%s has a URL without TLS, and a secret would go over it" % name, "use https://")
    return url.rstrip("/")


def read_event():
    """Returns the event on standard input: an incident that changes or ends."""
    data = sys.stdin.buffer.read(MAX_EVENT + 1)
    try:
        if len(data) > MAX_EVENT:
            raise ValueError
        event = json.loads(data.decode("utf-8"))
        good = event["event"] in ("pileup", "pileup_end") and re.match(r"[0-9A-Za-z_-]{1,200}\Z", event["id"])
        good = good and event["state"] in ("opened", "updated", "exhausted", "resolved")
        good = good and event["severity"] in ("critical", "error", "warning", "info")
        good = good and [is_time(event["time"]), is_time(event["onset"]["first_stuck"])] == [True, True]
    except (ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise Failure(USAGE, "standard input has no event of an incident", "run this program with --on-pileup of `closewait run`")
    return event


def is_time(text):
    """Whether a text is a time as events have it."""
    return re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z\Z", text) is not None


def part(event, *names):
    """Returns a member of a member; None if one of them is missing or null."""
    for name in names:
        event = event.get(name) if isinstance(event, dict) else None
    return event


def runbook(event):
    """Returns the address of the page about the verdict, or ""."""
    url = plain(part(event, "runbook"), 500)
    return url if re.match(r"https://[\x21-\x7e]+\Z", url) else ""


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """Follows no redirection: the secret is for one host only."""

    def redirect_request(self, *_):
        return None


def connects_soon(base):
    """Returns a kind of connection whose limit for connecting is shorter than that for the rest."""

    class Connection(base):
        def connect(self):
            super().connect()
            self.sock.settimeout(TRY_SECONDS)

    return Connection


class Plain(urllib.request.HTTPHandler):
    """HTTP without TLS."""

    def http_open(self, req):
        return self.do_open(connects_soon(http.client.HTTPConnection), req)


class Verified(urllib.request.HTTPSHandler):
    """HTTP over TLS that verifies the certificate and the name of the host."""

    def https_open(self, req):
        return self.do_open(connects_soon(http.client.HTTPSConnection), req, context=ssl.create_default_context())


def one_try(request, limit):
    """Sends a request once. Returns the status, the Retry-After header and the answer. The thread bounds what has no limit of
    its own: looking up the host's name, and an answer that comes byte by byte."""
    result = []

    def work():
        try:
            # A proxy of the environment is not for this host: without TLS it could read the secret.
            proxies = [urllib.request.ProxyHandler({})] if request.host.rsplit(":", 1)[0].strip("[]") in LOOPBACK else []
            opener = urllib.request.build_opener(NoRedirect, Plain, Verified, *proxies)
            try:
                response = opener.open(request, timeout=CONNECT_SECONDS)
            except urllib.error.HTTPError as error:
                response = error
            with response:
                code, after = response.getcode(), response.headers.get("Retry-After")
                result.append((code, after, response.read(MAX_ANSWER)))
        except Exception as error:  # handed to the caller
            result.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(limit)
    if not result:
        raise TimeoutError("no answer within %d s" % max(limit, 1))
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]


def cause(error):
    """Returns an error as text, and whether a certificate is its cause."""
    while isinstance(error, urllib.error.URLError) and isinstance(error.reason, Exception):
        error = error.reason
    text = getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error)
    return text or type(error).__name__, type(error).__name__ in ("SSLCertVerificationError", "CertificateError")


def seconds_of(after):
    """Returns the seconds of a Retry-After header, a number or a date; None without a valid one."""
    after = plain(after, 100).strip()
    if re.match(r"[0-9]{1,9}\Z", after):
        return float(after)
    try:
        when = email.utils.parsedate_to_datetime(after)
        return max(0.0, when.timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return None


def request(url, body=None, headers=None):
    """Sends a JSON body, or asks without one, and returns the answer. Tries again after failures that may be temporary, as
    long as the agent lets this program run."""
    host = urllib.parse.urlsplit(url).netloc
    data = None if body is None else json.dumps(body).encode()
    headers = dict({"Content-Type": "application/json", "User-Agent": "closewait-hook"}, **(headers or {}))
    for number in range(1, TRIES + 1):
        after = None
        try:
            limit = min(TRY_SECONDS, remaining())
            if limit <= 0:
                raise Failure(TEMPORARY, "%s: no time is left" % host, "raise --hook-timeout")
            code, after, answer = one_try(urllib.request.Request(url, data, headers), limit)
        except (OSError, http.client.HTTPException) as error:
            why, is_certificate = cause(error)
            if is_certificate:
                hint = "SSL_CERT_FILE can name the certificate of another authority"
                raise Failure(CONFIG, "%s: its certificate is not valid: %s" % (host, why), hint)
        else:
            if 200 <= code < 300:
                return answer
            said = plain(answer[:200].decode("utf-8", "replace").strip(), 200)
            why = "it answered %d%s" % (code, said and ": " + said)
            if 300 <= code < 400:
                raise Failure(CONFIG, "%s: it answered %d, a redirection" % (host, code), "give the final URL")
            if code < 500 and code not in (408, 429):
                raise Failure(CONFIG, "%s: %s" % (host, why), "check the settings of this hook")
        pause = seconds_of(after)
        pause = 2 ** (number - 1) * random.uniform(0.5, 1.5) if pause is None else pause + random.uniform(0, 0.5)
        if number == TRIES:
            raise Failure(TEMPORARY, "%s: %s; tried %d times" % (host, why, number))
        if pause >= remaining():
            raise Failure(TEMPORARY, "%s: %s; the next try in %d s would exceed --hook-timeout" % (host, why, pause))
        say("%s: %s; next try in %.1f s" % (host, why, pause))
        time.sleep(pause)


def for_all(work, items):
    """Calls `work` for each item at the same time; fails with the first failure, after all have ended."""
    failures = []

    def guarded(item):
        try:
            work(item)
        except Exception as error:  # raised below
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(item,), daemon=True) for item in items]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def main(send):
    """Runs a hook: `send` gets the event."""
    try:
        send(read_event())
    except Failure as failure:
        say("error: " + failure.message)
        if failure.hint:
            say("hint: " + failure.hint)
        sys.exit(failure.code)
    except Exception as error:
        # No trace: it could have a secret in it.
        say("error: this is a bug in the hook: %s: %s" % (type(error).__name__, error))
        sys.exit(BUG)
