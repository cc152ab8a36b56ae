//! Services that refuse, fail, hang and redirect, and settings that are wrong.

use std::{
    fs::{self, File, Permissions},
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tests_support::sink::{Behavior, Sink, answer};

use super::{
    events::incident,
    hook::{Hook, KEY, Ran},
};

/// All hooks.
const PROGRAMS: [&str; 3] = ["alertmanager", "pagerduty", "slack-webhook"];

/// Runs a hook towards a service with this script. Returns the result and the number of requests.
fn run(program: &'static str, script: &[Behavior], timeout: &str) -> (Ran, usize) {
    let sink = Sink::new(script);
    let mut hook = Hook::new(program, &sink.url(""));
    hook.set("CLOSEWAIT_TIMEOUT_SECONDS", timeout);
    let ran = hook.run(&incident());
    (ran, sink.requests().len())
}

fn later(status: u16, after: &str) -> Behavior {
    Behavior::Answer(status, format!("Retry-After: {after}\r\n"), "slow down".to_owned())
}

#[test]
fn a_failure_that_may_pass_is_tried_again_and_reported() {
    let good = answer(202, "[]");
    for program in ["pagerduty", "slack-webhook"] {
        for (script, code, requests, said) in [
            (vec![later(429, "1"), good.clone()], 0, 2, "answered 429: slow down; next try in 1."),
            (vec![answer(503, ""), good.clone()], 0, 2, "answered 503"),
            (vec![Behavior::Close, Behavior::Garbage, good.clone()], 0, 3, "next try in"),
            (vec![answer(500, "\u{1b}[31mred")], 75, 3, "answered 500: \\u{1b}[31mred; tried 3 times"),
            (vec![Behavior::Close], 75, 3, "tried 3 times"),
            (vec![later(429, "3600")], 75, 1, "the next try in 3600 s would exceed --hook-timeout"),
            (vec![later(503, "Fri, 31 Dec 2100 23:59:59 GMT")], 75, 1, "would exceed --hook-timeout"),
            (vec![later(503, "soon"), good.clone()], 0, 2, "next try in"),
        ] {
            let (ran, seen) = run(program, &script, "30");
            assert_eq!((ran.code, seen), (Some(code), requests), "{program} {script:?} {ran:?}");
            assert!(ran.log.contains(said), "{program} {script:?} {ran:?}");
        }
    }
    let (ran, seen) =
        run("alertmanager", &[answer(503, ""), answer(200, "[]"), later(429, "0"), answer(200, "")], "30");
    assert_eq!((ran.code, seen), (Some(0), 4), "both requests are tried again: {ran:?}");
}

#[test]
fn a_web_page_in_place_of_the_service_is_a_failure() {
    for program in PROGRAMS {
        let (ran, seen) = run(program, &[answer(200, "\n <!doctype html><title>Log in</title>")], "30");
        assert_eq!((ran.code, seen), (Some(78), 1), "{program} {ran:?}");
        assert!(ran.log.contains("a web page answered 200") && ran.log.contains("hint: check the URL"), "{ran:?}");
    }
}

#[test]
fn a_refusal_is_not_tried_again() {
    for program in PROGRAMS {
        for status in [400, 401, 403, 404, 410] {
            let (ran, seen) = run(program, &[answer(status, "invalid")], "30");
            assert_eq!((ran.code, seen), (Some(78), 1), "{program} {ran:?}");
            assert!(ran.log.contains(&format!("answered {status}: invalid")), "{program} {ran:?}");
        }
    }
    for (body, code) in [("{}", 78), ("null", 78), ("", 78), ("[{\"labels\":7}]", 75), ("[1]", 75)] {
        let (ran, seen) = run("alertmanager", &[answer(200, body)], "30");
        assert_eq!((ran.code, seen), (Some(code), 1), "not Alertmanager: {body} {ran:?}");
        assert!(ran.log.contains("hint: check CLOSEWAIT_ALERTMANAGER_URL"), "{ran:?}");
    }
}

#[test]
fn a_hook_ends_before_the_agent_ends_it() {
    for program in PROGRAMS {
        for behavior in [Behavior::Hang, Behavior::Trickle] {
            let (ran, seen) = run(program, std::slice::from_ref(&behavior), "4");
            assert!(ran.took < Duration::from_secs(4), "{program} {behavior:?} {ran:?}");
            assert_eq!((ran.code, seen), (Some(75), 1), "{program} {behavior:?} {ran:?}");
        }
    }
    // Without a service there is no reason to wait.
    let mut hook = Hook::new("pagerduty", "http://127.0.0.1:9");
    hook.set("CLOSEWAIT_TIMEOUT_SECONDS", "20");
    let ran = hook.run(&incident());
    assert_eq!(ran.code, Some(75), "{ran:?}");
    assert!(ran.log.contains("Connection refused; tried 3 times") && ran.took < Duration::from_secs(6), "{ran:?}");
}

#[test]
fn a_try_that_is_given_up_does_not_crash_the_hook_at_its_end() {
    let mut hook = Hook::new("pagerduty", "https://pagerduty.invalid");
    hook.set("https_proxy", "http://127.0.0.1:9");
    hook.set("CLOSEWAIT_TIMEOUT_SECONDS", "2");
    // The file with the certificates of the authorities has no end: the time ends while the try reads it.
    let (certificate, endless) = (hook.path("certificate.pem"), hook.path("endless.pem"));
    make_certificate("127.0.0.1", &certificate, &hook.path("key.pem"));
    assert!(Command::new("mkfifo").arg(&endless).status().expect("mkfifo").success());
    hook.set("SSL_CERT_FILE", endless.to_str().expect("UTF-8"));
    let text = &fs::read(&certificate).expect("a certificate");
    for _ in 0..3 {
        // A reader, so that the writer waits for none and ends with the run, whether or not the hook opens the file.
        let reader = File::options().read(true).write(true).open(&endless).expect("a pipe");
        let mut pipe = File::options().write(true).open(&endless).expect("a pipe");
        thread::scope(|threads| {
            let writer = threads.spawn(move || {
                let mut written = 0;
                while pipe.write_all(text).is_ok() {
                    written += 1;
                    thread::sleep(Duration::from_micros(100));
                }
                written
            });
            let ran = hook.run(&incident());
            drop(reader);
            assert_eq!(ran.code, Some(75), "{ran:?}");
            assert!(ran.log.contains("no answer within"), "{ran:?}");
            assert!(writer.join().expect("a writer") > 100, "the hook read few certificates");
        });
    }
}

#[test]
fn one_service_of_two_that_hangs_does_not_hold_up_the_other() {
    let (hangs, works) = (Sink::new(&[Behavior::Hang]), Sink::new(&[answer(200, "[]")]));
    let mut hook = Hook::new("alertmanager", &format!("{} {}", hangs.url(""), works.url("/prefix/")));
    hook.set("CLOSEWAIT_TIMEOUT_SECONDS", "4");
    let ran = hook.run(&incident());
    assert_eq!(ran.code, Some(75), "{ran:?}");
    let lines: Vec<_> = works.requests().iter().map(|request| request.line.clone()).collect();
    assert_eq!((lines.len(), lines[1].as_str()), (2, "POST /prefix/api/v2/alerts"));
}

#[test]
fn a_redirection_is_not_followed_and_no_proxy_sees_a_request_without_tls() {
    for program in PROGRAMS {
        let other = Sink::new(&[answer(200, "[]")]);
        let location = format!("Location: {}\r\n", other.url("/elsewhere"));
        for (status, location) in
            [301, 302, 303, 307, 308].map(|status| (status, location.as_str())).into_iter().chain([
                // Not a URL.
                (302, "Location: http://[\r\n"),
                (307, ""),
            ])
        {
            let (ran, seen) = run(program, &[Behavior::Answer(status, location.to_owned(), String::new())], "30");
            assert_eq!((ran.code, seen), (Some(78), 1), "{program} {ran:?}");
        }
        let sink = Sink::new(&[answer(200, "[]")]);
        let mut hook = Hook::new(program, &sink.url(""));
        hook.set("http_proxy", &other.url("/"));
        assert_eq!(hook.run(&incident()).code, Some(0));
        assert_eq!(other.requests().len(), 0, "{program}");
    }
}

#[test]
fn a_wrong_setting_is_named_without_its_value() {
    let refused = |hook: &Hook, said: &str| {
        let ran = hook.run(&incident());
        assert_eq!(ran.code, Some(78), "{ran:?}");
        assert!(ran.log.contains(said), "{said}: {ran:?}");
    };
    let base = "http://127.0.0.1:9";
    for (program, name) in
        [("pagerduty", "CLOSEWAIT_PAGERDUTY_KEY_FILE"), ("slack-webhook", "CLOSEWAIT_SLACK_URL_FILE")]
    {
        let mut hook = Hook::new(program, base);
        let path = hook.path(name);
        for (mode, said) in [(0o644, "other users may read"), (0o660, "other users may read or change")] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).expect("chmod");
            refused(&hook, said);
        }
        hook.set_file(name, &format!("{KEY}\n{KEY}\n"));
        refused(&hook, "is not one line of ASCII text");
        hook.set_file(name, &"x".repeat(5000));
        refused(&hook, "is not one line");
        hook.set_file(name, "");
        refused(&hook, "is not one line");
        hook.set_file(name, "invalid");
        refused(&hook, if program == "pagerduty" { "has no key of 32" } else { "has no valid URL" });
        // The secret in place of its file.
        hook.set(name, KEY);
        refused(&hook, "No such file or directory\nhint: give the path of a file");
        hook.set(name, "/");
        refused(&hook, "cannot read the file");
        hook.set(name, "");
        refused(&hook, &format!("{name} is not set"));
        let fifo = hook.path("fifo");
        assert!(Command::new("mkfifo").arg("-m600").arg(&fifo).status().expect("mkfifo").success());
        hook.set(name, fifo.to_str().expect("UTF-8"));
        refused(&hook, "it is not a regular file");
    }
    let mut hook = Hook::new("pagerduty", base);
    for url in ["http://example.com/", "http://127.0.0.1.example.com/", "http://127.0.0.1@example.com/"] {
        hook.set("CLOSEWAIT_PAGERDUTY_URL", url);
        refused(&hook, "CLOSEWAIT_PAGERDUTY_URL has");
    }
    let long = format!("http://{}.com", "a".repeat(64));
    let mut hook = Hook::new("alertmanager", base);
    for url in
        ["http://[::1", "ftp://host", "http://", "host:9093", "http://user:password@host", "http://h:99999", &long]
    {
        hook.set("CLOSEWAIT_ALERTMANAGER_URL", url);
        refused(&hook, "CLOSEWAIT_ALERTMANAGER_URL has no valid URL");
    }
    hook.set("CLOSEWAIT_ALERTMANAGER_URL", "http://alertmanager.example:9093");
    hook.set_file("CLOSEWAIT_ALERTMANAGER_AUTHORIZATION_FILE", "Bearer 0123456789");
    refused(&hook, "without TLS");
    let mut hook = Hook::new("alertmanager", base);
    for hold in ["10", "soon", "99999999999999"] {
        hook.set("CLOSEWAIT_ALERTMANAGER_HOLD_SECONDS", hold);
        refused(&hook, "is not between 300 and 2592000");
    }
}

#[test]
fn a_header_for_alertmanager_comes_from_a_file() {
    let sink = Sink::new(&[answer(200, "[]")]);
    let mut hook = Hook::new("alertmanager", &sink.url(""));
    hook.set_file("CLOSEWAIT_ALERTMANAGER_AUTHORIZATION_FILE", "Bearer 0123456789\n");
    assert_eq!(hook.run(&incident()).code, Some(0));
    let requests = sink.requests();
    assert!(requests.iter().all(|request| request.headers.contains(&"Authorization: Bearer 0123456789".to_owned())));
    assert_eq!(requests.len(), 2);
}

/// Service with TLS: accepts any request.
const TLS_SERVER: &str = "
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(202)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(('127.0.0.1', 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1], sys.argv[2])
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
";

/// Writes a certificate for an address that is its own authority, and its key.
fn make_certificate(address: &str, certificate: &Path, key: &Path) {
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=test"])
        .args(["-addext", &format!("subjectAltName=IP:{address}"), "-keyout"])
        .arg(key)
        .arg("-out")
        .arg(certificate)
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{made:?}");
}

#[test]
fn a_certificate_and_its_name_are_verified() {
    let mut hook = Hook::new("pagerduty", "http://127.0.0.1:9");
    for (name, trusted, code) in [("127.0.0.1", true, 0), ("127.0.0.1", false, 78), ("127.0.0.2", true, 78)] {
        let (certificate, key) = (hook.path("certificate.pem"), hook.path("key.pem"));
        make_certificate(name, &certificate, &key);
        let mut server = Command::new("/usr/bin/python3");
        server.args(["-c", TLS_SERVER]).args([&certificate, &key]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = server.spawn().expect("python3");
        let mut port = String::new();
        BufReader::new(server.stdout.take().expect("a pipe")).read_line(&mut port).expect("a port");
        hook.set("CLOSEWAIT_PAGERDUTY_URL", &format!("https://127.0.0.1:{}/v2/enqueue", port.trim()));
        hook.set("SSL_CERT_FILE", if trusted { certificate.to_str().expect("UTF-8") } else { "" });
        let ran = hook.run(&incident());
        server.kill().expect("a running server");
        server.wait().expect("its end");
        assert_eq!(ran.code, Some(code), "{name} {trusted} {ran:?}");
        assert!(code == 0 || ran.log.contains("its certificate is not valid"), "{ran:?}");
    }
}
