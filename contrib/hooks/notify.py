"""Parts shared by the hooks that notify a service: alertmanager, pagerduty and slack-webhook. They need no other file.

Python, because its standard library alone has JSON, verified TLS and files; curl and jq are packages too, and a shell
script would have to keep the secrets off their command lines. Works with Python 3.6 (RHEL 8) and later, without pip.
docs/hooks.md describes the settings and the exit codes.
"""

import base64
import email.utils
import html
import http.client
import ipaddress
import json
import math
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
# Bytes of an event (the agent's own limit), of a file with a secret, of an answer, and of one that is text for a message.
MAX_EVENT, MAX_SECRET, MAX_ANSWER, MAX_TEXT = 4 << 20, 4096, 1 << 20, 64 << 10
# The agent's --hook-timeout is in CLOSEWAIT_TIMEOUT_SECONDS; without an agent it has its default.
DEFAULT_TIMEOUT = 30.0
STARTED = time.monotonic()
LOOPBACK = ("127.0.0.1", "::1", "localhost")

# Consecutive characters of a secret that no message may contain. A secret with fewer is one piece; one with fewer than
# MIN_SECRET would be in any text.
PIECE, MIN_SECRET = 8, 4
# Pieces of secrets and secrets that are shorter, both as `forms` returns them; and pieces that are public.
pieces, short, public = set(), set(), set()
# Encodings on top of each other that are decoded to find a piece.
MAX_LAYERS = 4
ESCAPE = r"(?i)\\(?:u\{([0-9a-f]{1,6})\}|u([0-9a-f]{4})|x([0-9a-f]{2})|([0-3]?[0-7]?[0-7])|([abfnrtv])|([\s\S]))"
HIDDEN = "(its text is not shown: it contains a part of the secret)"


class Failure(Exception):
    """End of the hook, with an exit code and a message."""

    def __init__(self, code, message, hint=None):
        super().__init__(message)
        self.code, self.message, self.hint = code, message, hint


def say(text):
    """Writes a line to the agent's log, without secrets and control characters. Text from outside comes from `quoted`. Short
    secrets are searched only there: they can be a word of any message."""
    if has_piece(forms(text)):
        text = "a message of the hook " + HIDDEN
    print(plain(text, 500), file=sys.stderr, flush=True)


def quoted(text, limit=200):
    """Returns text from outside as the part of a message, or None if it contains a part of a secret. All of the text counts,
    not only what is shown: a secret at the cut would be shown in part."""
    text = text[:MAX_TEXT]
    found = forms(text)
    if has_piece(found) or any(word in form for form in found for word in tuple(short)):
        return None
    return plain(text.strip(), limit)


def with_text(message, text):
    """Returns a message with text from outside behind it."""
    text = quoted(text)
    return message + " " + HIDDEN if text is None else message + (text and ": " + text)


def hide(secret, known=""):
    """Adds a secret of which no message may contain a piece. Pieces of `known` are public."""
    public.update(all_pieces(forms(known)))
    data = secret.encode("utf-8", "surrogateescape")
    texts = forms(secret) + forms(data.hex())
    # Base64 of a longer text that contains the secret, at any of three offsets; without the digits that other bytes share.
    for offset, shared in enumerate((0, 2, 3)):
        encoded = base64.b64encode(b"\0" * offset + data).decode().rstrip("=")
        texts += forms(encoded[shared : -1 if (offset + len(data)) % 3 else None])
    pieces.update(all_pieces(texts))
    pieces.difference_update(public)
    if MIN_SECRET <= len(visible(secret)) < PIECE:
        short.add(visible(secret).casefold())


def has_piece(texts):
    """Whether one of the texts, as `forms` returns them, contains a piece of a secret."""
    return bool(pieces) and any(not pieces.isdisjoint(all_pieces([text])) for text in texts)


def all_pieces(texts):
    """Yields each `PIECE` consecutive characters of the texts."""
    return (text[at : at + PIECE] for text in texts for at in range(len(text) - PIECE + 1))


def forms(text):
    """Returns what a text may stand for: itself, and what is left when its escapes (of JSON, URLs and HTML, also on top of
    each other, or with line breaks in them) are decoded. In lower case, without invisible characters; and each also without
    punctuation, which a service may replace."""
    found = []
    for decoded in {text, visible(text)}:
        found.append(decoded)
        for _ in range(MAX_LAYERS):
            before = decoded
            for decode in (without_backslashes, urllib.parse.unquote, without_entities, visible):
                decoded = decode(decoded)
                found += [decoded] if decoded != found[-1] else []
            if decoded == before:
                break
    folded = [one.casefold() for one in found]
    return [visible(one) for one in folded] + [re.sub(r"[\W_]+", "", one) for one in folded]


def without_backslashes(text):
    """Returns a text with the escapes of JSON, JavaScript and Python decoded."""

    def decoded(match):
        braces, four, two, octal, control, other = match.groups()
        if control or other:
            return " " if control else other
        number = int(octal, 8) if octal else int(braces or four or two, 16)
        return chr(number) if number <= sys.maxunicode else " "

    return re.sub(ESCAPE, decoded, text)


def without_entities(text):
    """Returns a text with the entities of HTML decoded."""
    # `html.unescape` fails for numbers of thousands of digits. Leading zeros are legal.
    text = re.sub(r"(&#[xX]?)0+(?=[0-9a-fA-F])", r"\1", text)
    return html.unescape(re.sub(r"&#[0-9]{8,}", " ", text))


def visible(text):
    """Returns the letters, digits and ASCII punctuation of a text."""
    return re.sub(r"[^\w!-~]+", "", text)


def plain(value, limit):
    """Returns a text or a number as one line of text of at most `limit` characters; "" for anything else. Invisible
    characters, which could reorder the text or hide a part of it, are escaped as the agent escapes control characters."""
    if not isinstance(value, str):
        value = "" if number(value) is None else str(value)
    # Not longer than needed: a hostile name may have megabytes.
    text = value[: limit + 1]
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    seen = [c if unicodedata.category(c)[0] != "C" and c not in "\u2028\u2029" else "\\u{%x}" % ord(c) for c in text]
    text = "".join(seen)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def number(value):
    """Returns a finite number; None for anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return value if is_number and math.isfinite(value) else None


def remaining():
    """Returns the seconds until this program has to end: some time before the agent ends it."""
    try:
        limit = float(os.environ.get("CLOSEWAIT_TIMEOUT_SECONDS", DEFAULT_TIMEOUT))
        limit = limit if math.isfinite(limit) else DEFAULT_TIMEOUT
    except ValueError:
        limit = DEFAULT_TIMEOUT
    return STARTED + limit - min(2.0, limit / 4) - time.monotonic()


def setting(name, default=None):
    """Returns an environment variable."""
    value = os.environ.get(name, "")
    value = value if value.strip() else default
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
                raise Failure(CONFIG, fail + ": it is not a regular file", "give the path of a file")
            if info.st_uid not in (0, os.geteuid()):
                raise Failure(CONFIG, fail + ": it belongs to user %d" % info.st_uid, "change its owner: chown root")
            if info.st_mode & 0o027:
                raise Failure(CONFIG, fail + ": other users may read or change it", "remove that permission: chmod go-w,o-rwx")
            data = file.read(MAX_SECRET + 1)
    except (OSError, ValueError) as error:
        # Not the path: it may be the secret itself, given by mistake.
        raise Failure(CONFIG, fail + ": " + (getattr(error, "strerror", None) or "invalid path"), "give the path of a file")
    text = data.decode("utf-8", "replace").strip()
    hide_parts(text)
    if not re.match(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?\Z", text) or len(data) > MAX_SECRET:
        raise Failure(CONFIG, "the file in %s is not one line of ASCII text" % name, "write only the secret to the file")
    return text


def hide_parts(text):
    """Hides the line of a file: a key, the URL of a webhook or an Authorization header. A service may also repeat a part of
    it in its answer: the end of the path, the password."""
    known = re.match(r"\w+://[^/?#]*(/(api|hooks|services|triggers|webhooks?|workflows)(?=/))*", text)
    known = known or re.match(r"(?i)(apikey|basic|bearer|digest|negotiate|token) +", text)
    known = known.group() if known else ""
    secret = text[len(known) :]
    # The name of the host and the agent's own name are in messages.
    hide(secret, known + " closewait")
    hide(re.split(r"[/?&=\s]+", secret.rstrip("/"))[-1])
    try:
        user_and_password = base64.b64decode(secret.encode()).decode() if known.lower().startswith("basic") else ""
    except ValueError:
        user_and_password = ""
    hide(user_and_password)
    hide(user_and_password.partition(":")[2])


def is_host(name):
    """Whether a text is the name or the address of a host."""
    if ":" in name:
        try:
            # Python 3.8 and earlier know no zones.
            return bool(ipaddress.IPv6Address(name.partition("%")[0]))
        except ValueError:
            return False
    return re.match(r"[0-9A-Za-z._-]+\Z", name) is not None and bool(name.encode("idna"))


def checked_url(name, url, plain_allowed=False):
    """Returns a URL that a setting has, without a slash at its end. Only loopback may do without TLS, where it is not
    allowed otherwise."""
    hint = "give a URL such as https://host/path, without user and password"
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc and parts.port != 0
        good = good and is_host(parts.hostname) and ("[" in parts.netloc) == (":" in parts.hostname)
    except ValueError:
        good = False
    if not good or "#" in url or not re.match(r"[\x21-\x7e]+\Z", url):
        raise Failure(CONFIG, "%s has no valid URL" % name, hint)
    if parts.scheme == "http" and not plain_allowed and parts.hostname not in LOOPBACK:
        raise Failure(CONFIG, "%s has a URL without TLS, and a secret would go over it" % name, "use https://")
    return url.rstrip("/")


def read_event():
    """Returns the event on standard input: an incident that changes or ends."""
    try:
        # Without a standard input, it is None.
        data = sys.stdin.buffer.read(MAX_EVENT + 1) if sys.stdin else b""
        if len(data) > MAX_EVENT:
            raise ValueError
        event = parsed(data)
        good = event["event"] in ("pileup", "pileup_end") and re.match(r"[0-9A-Za-z_-]{1,200}\Z", event["id"])
        good = good and event["state"] in ("opened", "updated", "exhausted", "resolved")
        good = good and event["severity"] in ("critical", "error", "warning", "info")
        good = good and [is_time(event["time"]), is_time(event["onset"]["first_stuck"])] == [True, True]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        good = False
    if not good:
        raise Failure(USAGE, "standard input has no event of an incident", "run this program with --on-pileup of `closewait run`")
    return event


def parsed(data):
    """Returns JSON as Python's values. Fails with ValueError or RecursionError; also for what Python alone takes for JSON,
    such as NaN, and for numbers with more digits than any of an event, which take long to read."""

    def integer(digits):
        if len(digits) > 20:
            raise ValueError
        return int(digits)

    def constant(_):
        raise ValueError

    return json.loads(data.decode("utf-8"), parse_int=integer, parse_constant=constant)


def is_time(text):
    """Whether a text is a time as events have it."""
    return re.match(r"(?a)\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z\Z", text) is not None


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

    def http_error_302(self, *_):
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


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


def proxies_of(request):
    """Returns the proxy of the environment for a request by its scheme; none for a service on this host, as without TLS the
    proxy could read the secret."""
    scheme, host = request.type, request.host
    proxy = urllib.request.getproxies().get(scheme)
    if not proxy or urllib.parse.urlsplit("//" + host).hostname in LOOPBACK or urllib.request.proxy_bypass(host):
        return {}
    found = re.match(r"(?i)(https?://)?([^/\s]*@)?([0-9a-z._-]+|\[[0-9a-f:.]*:[0-9a-f:.]*\])(:[0-9]{1,5})?/?\Z", proxy)
    if not found:
        raise Failure(CONFIG, "%s_proxy has no valid URL" % scheme, "give a URL such as http://host:3128")
    credentials = urllib.parse.unquote((found.group(2) or "")[:-1])
    hide(credentials, found.group(3))
    hide(credentials.partition(":")[2])
    return {scheme: proxy}


def one_try(request, limit, proxies):
    """Sends a request once. Returns the status, the Retry-After header and the answer. The thread bounds what has no limit of
    its own: looking up the host's name, and an answer that comes byte by byte."""
    result = []

    def work():
        try:
            opener = urllib.request.build_opener(NoRedirect, Plain, Verified, urllib.request.ProxyHandler(proxies))
            try:
                response = opener.open(request, timeout=CONNECT_SECONDS)
            except urllib.error.HTTPError as error:
                response = error
            with response:
                code, after = response.getcode(), response.headers.get("Retry-After")
                result.append((code, after, response.read(MAX_ANSWER if 200 <= code < 300 else MAX_TEXT)))
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
    # A service can be the source of it: the reason of an answer, the name in a certificate.
    text = quoted(str(text))
    text = type(error).__name__ + " " + HIDDEN if text is None else text or type(error).__name__
    return text, type(error).__name__ in ("SSLCertVerificationError", "CertificateError")


def seconds_of(after):
    """Returns the seconds of a Retry-After header, a number or a date; None without a valid one."""
    after = plain(after, 100).strip()
    if re.match(r"[0-9]{1,9}\Z", after):
        return float(after)
    try:
        when = email.utils.parsedate_to_datetime(after)
        return max(0.0, when.timestamp() - time.time())
    except Exception:  # in various versions of Python also IndexError, AttributeError and OSError
        return None


def request(url, body=None, headers=None):
    """Sends a JSON body, or asks without one, and returns the answer. Tries again after failures that may be temporary, as
    long as the agent lets this program run."""
    host = urllib.parse.urlsplit(url).netloc
    data = None if body is None else json.dumps(body).encode()
    headers = dict({"Content-Type": "application/json", "User-Agent": "closewait-hook"}, **(headers or {}))
    proxies = proxies_of(urllib.request.Request(url))
    for tried in range(1, TRIES + 1):
        after = None
        try:
            limit = min(TRY_SECONDS, remaining())
            if limit <= 0:
                raise Failure(TEMPORARY, "%s: no time is left" % host, "raise --hook-timeout")
            code, after, answer = one_try(urllib.request.Request(url, data, headers), limit, proxies)
        # ValueError: in Python 3.6 a certificate for another host is one.
        except (OSError, ValueError, http.client.HTTPException) as error:
            why, is_certificate = cause(error)
            if is_certificate:
                hint = "SSL_CERT_FILE can name the certificate of another authority"
                raise Failure(CONFIG, "%s: its certificate is not valid: %s" % (host, why), hint)
        else:
            if 200 <= code < 300:
                if answer.lstrip()[:1] == b"<":
                    hint = "check the URL, and whether a proxy answers in place of the service"
                    raise Failure(CONFIG, "%s: a web page answered %d, and not the service" % (host, code), hint)
                return answer
            why = with_text("it answered %d" % code, answer.decode("utf-8", "replace"))
            if 300 <= code < 400:
                raise Failure(CONFIG, "%s: it answered %d, a redirection" % (host, code), "give the final URL")
            if code < 500 and code not in (408, 429):
                raise Failure(CONFIG, "%s: %s" % (host, why), "check the settings of this hook")
        pause = seconds_of(after)
        pause = 2 ** (tried - 1) * random.uniform(0.5, 1.5) if pause is None else pause + random.uniform(0, 0.5)
        if tried == TRIES:
            raise Failure(TEMPORARY, "%s: %s; tried %d times" % (host, why, tried))
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


def ended_by(send):
    """Returns the exit code of a hook after `send` got the event."""
    try:
        send(read_event())
    except Failure as failure:
        say("error: " + failure.message)
        if failure.hint:
            say("hint: " + failure.hint)
        return failure.code
    except Exception as error:
        # No trace: it could have a secret in it.
        say(with_text("error: this is a bug in the hook: " + type(error).__name__, str(error)))
        return BUG
    return 0


def main(send):
    """Runs a hook: `send` gets the event."""
    code = ended_by(send)
    # Not sys.exit: it runs OpenSSL's own cleanup, and the process crashes if a try that was given up still reads the
    # certificates of the authorities.
    os._exit(code)
