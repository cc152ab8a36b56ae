"""Runs the hooks that notify a service in this process, with odd values in each place of an event, an answer and the
settings. Arguments: the folder of the hooks, and the part to run. Standard input: a list of events."""

import copy
import io
import json
import os
import random
import shutil
import sys
import tempfile
import time

HOOKS, PART = sys.argv[1:]
sys.path.insert(0, HOOKS)
import notify

PROGRAMS = ("alertmanager", "pagerduty", "slack-webhook")
KEY = "0123456789abcdefGHIJKLMNOPQRSTUV"
MISSING = object()
ODD = [None, 1, -2.5, True, "", [], {}, [1, 2, 3], [None], [[]], {"a": [1]}, {"": None}, "x" * (1 << 20), "\ud800\u202e", MISSING]
# Members without which there is no incident.
REQUIRED = [("event",), ("id",), ("state",), ("severity",), ("time",), ("onset",), ("onset", "first_stuck")]

# Hooks end the process at once; here each end is an exception.
os._exit = sys.exit

code = {}
for name in PROGRAMS:
    with open(os.path.join(HOOKS, name)) as file:
        code[name] = compile(file.read(), name, "exec")
folder = tempfile.mkdtemp(prefix="closewait-odd-")
checks = 0


def in_file(name, data):
    """Returns the path of a file with these bytes, which only its owner may read."""
    path = os.path.join(folder, name)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    return path


SETTINGS = {
    "CLOSEWAIT_ALERTMANAGER_URL": "http://alertmanager.example:9093",
    "CLOSEWAIT_PAGERDUTY_KEY_FILE": in_file("key", KEY.encode()),
    "CLOSEWAIT_SLACK_URL_FILE": in_file("url", b"https://hooks.slack.com/services/T000/B000/XXXXsecretXXXX"),
}


def run(name, event, answer=b"[]", settings={}):
    """Runs a hook. Returns its exit code, its messages and the bodies of its requests. Nothing goes to a network."""
    bodies = []

    def one_try(request, limit, proxies):
        bodies.append(request.data)
        return 200, None, answer

    notify.one_try, notify.STARTED = one_try, time.monotonic()
    for found in (notify.pieces, notify.short, notify.public):
        found.clear()
    os.environ.clear()
    os.environ.update(dict(SETTINGS, **settings))
    data = event if isinstance(event, bytes) else json.dumps(event).encode()
    stdin, stderr, path = sys.stdin, sys.stderr, list(sys.path)
    sys.stdin, sys.stderr = io.TextIOWrapper(io.BytesIO(data)), io.StringIO()
    try:
        exec(code[name], {"__name__": "__main__", "__file__": os.path.join(HOOKS, name)})
        status = 0
    except SystemExit as end:
        status = end.code
    finally:
        log = sys.stderr.getvalue()
        sys.stdin, sys.stderr, sys.path[:] = stdin, stderr, path
    return status, log, [body for body in bodies if body is not None]


def check(where, ran, expected):
    """Checks the exit code of a run, its messages, and that its requests are JSON of a bounded size."""
    global checks
    checks += 1
    status, log, bodies = ran
    place = str(where)[:300]
    assert status == expected, "%s: %d in place of %d: %s" % (place, status, expected, log)
    assert (log == "") == (status == 0) and "Traceback" not in log and "\n\n" not in log, (place, log)
    assert status == 0 or (log.startswith("error: ") and "\nhint: " in log), (place, log)
    for body in bodies:
        notify.parsed(body)
        assert len(body) < 40000, (place, len(body))
        # No odd value, neither as it is nor as Python writes it.
        assert b"[1, 2, 3]" not in body and b"None" not in body and b"True" not in body, (place, body)


def places(value, at=()):
    """Yields the place of each member and element, and of the value itself."""
    yield at
    for key, member in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(member, at + (key,))


def with_odd(value, at, odd):
    """Returns a copy with another value at a place."""
    if not at:
        return None if odd is MISSING else odd
    changed = copy.deepcopy(value)
    owner = changed
    for key in at[:-1]:
        owner = owner[key]
    if odd is MISSING:
        del owner[at[-1]]
    else:
        owner[at[-1]] = odd
    return changed


def events():
    for event in json.load(sys.stdin):
        for name in PROGRAMS:
            check((name, "as it is"), run(name, event), 0)
            for at in places(event):
                for odd in ODD:
                    expected = 64 if at == () or at in REQUIRED else 0
                    check((name, at, odd), run(name, with_odd(event, at, odd)), expected)
            text = json.dumps(with_odd(event, ("count",), "HERE"))
            for value, expected in [("NaN", 64), ("-Infinity", 64), ("9" * 25, 64), ("9" * 5000, 64), ("1e999", 0), ("[" * 900 + "]" * 900, 0)]:
                check((name, value), run(name, text.replace('"HERE"', value).encode()), expected)
            # A text for people, nested as deep as the parser allows.
            deep = json.dumps(with_odd(event, ("summary",), "HERE")).replace('"HERE"', "[" * 900 + "]" * 900)
            check((name, "deep"), run(name, deep.encode()), 0)


def answers():
    event = json.load(sys.stdin)[0]
    alert = {
        "labels": {"alertname": "CloseWaitIncident", "incident": event["id"], "severity": "info"},
        "annotations": {"summary": "text"},
        "startsAt": "2026-11-27T12:17:05.995Z",
        "status": {"state": "active", "inhibitedBy": []},
        "receivers": [{"name": "none"}],
    }
    check("as it is", run("alertmanager", event, json.dumps([alert]).encode()), 0)
    for at in places([alert]):
        for odd in ODD:
            if at == ():
                expected = 0 if odd == [] else 75 if isinstance(odd, list) else 78
            elif len(at) == 1:
                expected = 0 if odd is MISSING else 75
            elif at[1] in ("status", "receivers"):
                expected = 0
            elif at[1:] in (("labels",), ("annotations",)):
                expected = 0 if odd == {} else 75
            else:
                is_gone = odd is MISSING and len(at) == 3
                expected = 0 if isinstance(odd, str) or is_gone else 75
            status, log, bodies = run("alertmanager", event, json.dumps(with_odd([alert], at, odd)).encode())
            # What came from Alertmanager goes back to it, and has no smaller limit.
            check((at, odd), (status, log, [body for body in bodies if len(body) < 1 << 20]), expected)
    for answer in [b"\xff", b"[", b"[NaN]", b"[" + b"9" * 5000 + b"]", b"[" * 100000]:
        check(answer, run("alertmanager", event, answer), 78)
    texts = ["", "[1]", "\u00b2", "9" * 50, "-1", "Mon, 32 Foo 99999", "Mon, 01 Jan 0001 00:00:00 -0000", "x" * 100000, "\ud800", ","]
    for text in texts + [None, ["a"], 1]:
        seconds = notify.seconds_of(text)
        assert seconds is None or 0 <= seconds < 1e9 or text == 1, (text, seconds)


def settings():
    event = json.load(sys.stdin)[0]
    no_url = ["[1]", "null", "{}", "\u00b2", "\udcff", "http://", "http:///x", "http://[", "http://[1]", "http://[x]:1", "http://%00/"]
    no_url += ["http://a..b", "http://h:0", "http://h:x", "http://u:p@h", "http://h#f", "x" * 100000, "http://h/\u00e9", "http://<h>"]
    cases = [("alertmanager", "CLOSEWAIT_ALERTMANAGER_URL", value, 78) for value in no_url + ["", " ", "\t", "http://h [1]"]]
    cases += [("pagerduty", "CLOSEWAIT_PAGERDUTY_URL", value, 78) for value in no_url]
    for value, expected in [("", 0), (" ", 0), ("300", 0), ("[1]", 78), ("\u00b2", 78), ("\u0663" * 4, 78), ("299", 78), ("1e5", 78), ("nan", 78)]:
        cases.append(("alertmanager", "CLOSEWAIT_ALERTMANAGER_HOLD_SECONDS", value, expected))
    for name in PROGRAMS:
        for value in ["", "[1]", "nan", "inf", "-inf", "1e400", "\u00b2", "\udcff"]:
            cases.append((name, "CLOSEWAIT_TIMEOUT_SECONDS", value, 0))
    for value, expected in [("[1]", 78), ("/x", 78), ("http:/x", 78), ("http://[", 78), ("socks5://h:1", 78), ("http://h:x", 78)] + [
        ("h:3128", 0), ("http://user:password@h:3128/", 0), ("", 0), ("http://[::1]:3128", 0), ("\udcff", 78)
    ]:
        cases.append(("alertmanager", "http_proxy", value, expected))
        cases.append(("pagerduty", "HTTPS_PROXY", value, expected))
        cases.append(("slack-webhook", "https_proxy", value, expected))
    for name, variable in [("pagerduty", "CLOSEWAIT_PAGERDUTY_KEY_FILE"), ("slack-webhook", "CLOSEWAIT_SLACK_URL_FILE")] + [
        ("alertmanager", "CLOSEWAIT_ALERTMANAGER_AUTHORIZATION_FILE")
    ]:
        cases += [(name, variable, value, 78) for value in [" ", "[1]", "/", "/dev/null", "x" * 100000, "\udcff", KEY]]
        for data in [b"", b"\0", b"\xff\xfe", b"a\nb", b"x" * 5000, b"\xc2\xb2", b" "]:
            cases.append((name, variable, data, 78))
    for number, (name, variable, value, expected) in enumerate(cases):
        given = in_file("odd-%d" % number, value) if isinstance(value, bytes) else value
        check((name, variable, value), run(name, event, settings={variable: given}), expected)
    # Without TLS only to this host, so that the header is not the reason to refuse.
    for header in [b"[1]", b"null", b"Basic", b"Basic \x21", b"Basic ====", b"Basic 4pyT", b"Bearer x", b"Basic /w=="]:
        given = {"CLOSEWAIT_ALERTMANAGER_AUTHORIZATION_FILE": in_file("header", header)}
        check(header, run("alertmanager", event, settings=dict(given, CLOSEWAIT_ALERTMANAGER_URL="https://h")), 0)
    # No standard input at all.
    stdin, stderr, sys.stdin, sys.stderr = sys.stdin, sys.stderr, None, io.StringIO()
    try:
        notify.main(lambda event: None)
    except SystemExit as end:
        assert end.code == 64, end.code
    finally:
        sys.stdin, sys.stderr = stdin, stderr


def bugs():
    """A failure that no code expects, and a message that no code has checked."""
    global checks
    text = json.dumps(json.load(sys.stdin)[0])
    for secret, hidden in [(KEY, True), (KEY.lower()[3:11], True), (KEY[:9].replace("4", "\\u0034"), True), (KEY[:7], False)]:
        for failure in [TypeError("marker " + secret), notify.Failure(75, "marker " + secret, "marker " + secret)]:

            def send(event):
                raise failure

            notify.hide_parts(KEY)
            stdin, stderr = sys.stdin, sys.stderr
            sys.stdin, sys.stderr = io.TextIOWrapper(io.BytesIO(text.encode())), io.StringIO()
            try:
                notify.main(send)
            except SystemExit as end:
                assert end.code == (75 if isinstance(failure, notify.Failure) else 70), end.code
            finally:
                log = sys.stderr.getvalue()
                sys.stdin, sys.stderr = stdin, stderr
            checks += 1
            assert ("marker" in log) != hidden and (notify.HIDDEN in log) == hidden, log


def layers():
    """Random pieces of a secret in up to three layers of escapes."""
    global checks
    secret = "aZ09/+=-_.~!$&'()*,;:@%41\\u0042&amp;Qw8Er7Ty6"
    notify.hide_parts(secret)
    chance = random.Random(16)

    def some(write):
        return lambda text: "".join(write(c) if chance.random() < 0.7 or c in "\\%&" else c for c in text)

    escapes = [
        some(lambda c: "\\u%04x" % ord(c)),
        some(lambda c: "%%%02X" % ord(c)),
        some(lambda c: "&#%d;" % ord(c)),
        some(lambda c: "&#x%x;" % ord(c)),
        lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
        lambda text: text.replace("&", "&amp;").replace("<", "&lt;").replace("'", "&#x27;"),
        lambda text: "".join(c + chance.choice(["", "", "\n", " ", "\0", "\t"]) for c in text),
    ]
    for _ in range(1500):
        size = chance.randint(16, len(secret))
        start = chance.randint(0, len(secret) - size)
        text = secret[start : start + size]
        applied = [chance.choice(escapes) for _ in range(chance.randint(0, 3))]
        for escape in applied:
            text = escape(text)
        checks += 1
        assert notify.quoted("the key " + text + " is wrong") is None, (secret[start : start + size], text)
    # Noise neither fails nor takes long.
    began = time.monotonic()
    for _ in range(1500):
        notify.quoted("".join(chance.choice("\\%&#xu{};0189afAFKn \u212a\u0130\ud800\0é") for _ in range(chance.randint(0, 60))))
    for part in ["a", "&a", "%2525", "\\\\", "&amp;amp;", "&#0", "&#x0000", "&#9", "&#xf", "%", "\\u{", "\\u005c"]:
        notify.quoted(part * (1 << 20))
        notify.quoted(part + part[-1] * 100000 + ";")
    assert time.monotonic() - began < 60, time.monotonic() - began


try:
    {"events": events, "answers": answers, "settings": settings, "bugs": bugs, "layers": layers}[PART]()
    print("as expected: %d" % checks)
finally:
    shutil.rmtree(folder)
