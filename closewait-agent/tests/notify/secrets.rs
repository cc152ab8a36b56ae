//! Secrets that a service repeats: no part of one is in the agent's log, in whatever form the service writes it.

use std::fmt::Write as _;

use tests_support::sink::{Behavior, Sink, answer};

use super::{
    events::incident,
    hook::{Hook, KEY, Ran},
};

/// End of the URL of the webhook.
const SLACK_END: &str = "XXXXsecretXXXX";
/// What a message has in place of a text.
const HIDDEN: &str = "(its text is not shown: it contains a part of the secret)";
/// `prometheus:s3cr3t` in base64.
const BASIC: &str = "Basic cHJvbWV0aGV1czpzM2NyM3Q=";

/// Runs a hook towards a service with this behavior.
fn run(program: &'static str, behavior: Behavior) -> Ran {
    let sink = Sink::new(&[behavior]);
    let mut hook = Hook::new(program, &sink.url(""));
    // Short, as only the first try counts.
    hook.set("CLOSEWAIT_TIMEOUT_SECONDS", "3");
    if program == "alertmanager" {
        hook.set_file("CLOSEWAIT_ALERTMANAGER_AUTHORIZATION_FILE", &format!("Bearer {KEY}\n"));
    }
    hook.run(&incident())
}

/// Returns a text with each character as `each` writes it.
fn escaped(text: &str, each: impl Fn(&mut String, u32)) -> String {
    let mut escaped = String::new();
    text.chars().for_each(|c| each(&mut escaped, u32::from(c)));
    escaped
}

/// Returns forms in which a service may write a secret, or a part of one.
fn forms(secret: &str) -> Vec<String> {
    let json = escaped(secret, |to, c| write!(to, "\\u{c:04X}").expect("text"));
    let percent = escaped(secret, |to, c| write!(to, "%{c:02x}").expect("text"));
    let html = escaped(secret, |to, c| write!(to, "&#x{c:x};").expect("text"));
    let decimal = escaped(secret, |to, c| write!(to, "&#00{c};").expect("text"));
    let spaced: String = secret.chars().flat_map(|c| [c, '\n']).collect();
    let zeros = spaced.replace('\n', "\0");
    let dashed = spaced.replace('\n', "-");
    let (start, end) = (&secret[..8], &secret[secret.len() - 8..]);
    let mut forms = vec![secret.to_uppercase(), secret.to_lowercase(), start.to_owned(), end.to_owned()];
    forms.extend([json.replace('\\', "\\\\"), json.replace('\\', "%5C"), percent.replace('%', "%25")]);
    forms.extend([percent.replace('%', "&#37;"), format!("{}\n{}", &percent[..13], &percent[13..])]);
    forms.extend([json, percent, html, decimal, spaced, zeros, dashed]);
    // The cut of a message would leave a part of it.
    forms.extend((180..=200).step_by(4).map(|before| format!("{}{secret}", "-".repeat(before))));
    forms.push(format!("{}{secret}", "-".repeat(5000)));
    forms
}

#[test]
fn a_text_that_repeats_a_part_of_the_secret_in_any_form_is_not_shown() {
    for (program, secret) in [("alertmanager", KEY), ("pagerduty", KEY), ("slack-webhook", SLACK_END)] {
        for form in forms(secret) {
            let ran = run(program, answer(403, &format!("marker {form} marker")));
            assert_eq!(ran.code, Some(78), "{ran:?}");
            assert!(ran.log.contains(&format!("it answered 403 {HIDDEN}\nhint: ")), "{program} {form:?} {ran:?}");
            assert!(!ran.log.contains("marker"), "{ran:?}");
        }
    }
    for form in ["T000\\/B000\\/XXXX", "/services/T000/B000", "T000%2FB000", "t000.b000.xxxx"] {
        let ran = run("slack-webhook", answer(503, form));
        assert!(ran.code == Some(75) && ran.log.contains(&format!("it answered 503 {HIDDEN}; ")), "{ran:?}");
    }
}

#[test]
fn other_texts_are_shown() {
    let long = "x".repeat(300);
    for (program, text, shown) in [
        ("slack-webhook", "no_service", "no_service"),
        ("slack-webhook", "no such path below /services/", "no such path below /services/"),
        ("slack-webhook", "{\"error\":\"invalid\\u005fblocks\"}", "{\"error\":\"invalid\\u005fblocks\"}"),
        ("pagerduty", "invalid key 0123456, of seven characters", "invalid key 0123456, of seven characters"),
        ("alertmanager", "Bearer realm=\"closewait\"", "Bearer realm=\"closewait\""),
        ("pagerduty", &long, &format!("{}…", &long[..199])),
        ("pagerduty", "&#99999999999999999999; \\u{ffffff} %zz %", "&#99999999999999999999; \\u{ffffff} %zz %"),
    ] {
        let ran = run(program, answer(400, text));
        assert_eq!(ran.code, Some(78), "{ran:?}");
        assert!(ran.log.contains(&format!("it answered 400: {shown}\nhint: ")), "{program} {text} {ran:?}");
    }
}

#[test]
fn a_broken_answer_shows_no_part_of_the_secret() {
    for (program, secret) in [("alertmanager", KEY), ("pagerduty", KEY), ("slack-webhook", SLACK_END)] {
        for secret in
            [secret.to_lowercase(), secret[..9].to_owned(), escaped(secret, |to, c| to.push_str(&format!("%{c:x}")))]
        {
            let ran = run(program, Behavior::Raw(format!("denied {secret}\r\n\r\n")));
            assert_eq!(ran.code, Some(75), "{ran:?}");
            assert!(ran.log.contains(&format!(": BadStatusLine {HIDDEN}; ")), "{ran:?}");
            assert!(!ran.log.contains("denied"), "{ran:?}");
        }
    }
}

#[test]
fn user_and_password_are_secrets_too() {
    let refused = |body: &str| {
        let sink = Sink::new(&[answer(401, body)]);
        let mut hook = Hook::new("alertmanager", &sink.url(""));
        hook.set_file("CLOSEWAIT_ALERTMANAGER_AUTHORIZATION_FILE", BASIC);
        hook.run(&incident())
    };
    for body in
        ["s3cr3t is wrong", "prometheus:s3cr", "S3CR3T", "s3cr%33t", "cHJvbWV0aGV1", "HJvbWV0aG", "V1czpzM2NyM3Q"]
    {
        let ran = refused(body);
        assert!(ran.code == Some(78) && ran.log.contains(&format!("it answered 401 {HIDDEN}")), "{body} {ran:?}");
    }
    let ran = refused("Basic authorization required");
    assert!(ran.log.contains("it answered 401: Basic authorization required"), "{ran:?}");
}

#[test]
fn the_password_of_a_proxy_is_a_secret_too() {
    for (reason, shown) in [
        ("denied for agent:pr0xy", format!(": OSError {HIDDEN}")),
        ("denied: YWdlbnQ6cHIweHktcGFzcw==", format!(": OSError {HIDDEN}")),
        ("denied: PR0XY%2DPASS", format!(": OSError {HIDDEN}")),
        ("denied", "Tunnel connection failed: 407 denied".to_owned()),
    ] {
        // The proxy gets CONNECT; the name is never looked up.
        let proxy = Sink::new(&[Behavior::Raw(format!("HTTP/1.1 407 {reason}\r\n\r\n"))]);
        let mut hook = Hook::new("pagerduty", "https://pagerduty.invalid");
        hook.set("CLOSEWAIT_TIMEOUT_SECONDS", "3");
        hook.set("https_proxy", &format!("http://agent:pr0xy-pass@{}/", proxy.address));
        let ran = hook.run(&incident());
        assert_eq!(ran.code, Some(75), "{ran:?}");
        assert!(ran.log.contains(&shown), "{shown} {ran:?}");
        assert!(proxy.requests()[0].line.starts_with("CONNECT pagerduty.invalid:443"), "{:?}", proxy.requests());
    }
}
