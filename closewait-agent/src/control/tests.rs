//! Tests of agent and client together.

mod encoding;
mod while_made;

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process, thread,
    time::Duration,
};

use super::{client::ask_within, *};
use crate::clock;

const SHORT: Duration = Duration::from_millis(400);

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("closewait-control-{}-{name}", process::id()))
}

/// Queries an agent, and returns all frames of the answer together; `None` if there is no agent.
fn asked(path: &Path, question: &str) -> Result<Option<Vec<u8>>, ControlError> {
    asked_within(path, question, PATIENCE)
}

fn asked_within(path: &Path, question: &str, patience: Duration) -> Result<Option<Vec<u8>>, ControlError> {
    let mut answer = Vec::new();
    let take = |frame: &[u8]| {
        answer.extend_from_slice(frame);
        Ok(())
    };
    Ok(ask_within(path, &question, patience, take)?.then_some(answer))
}

/// Returns the line of a query.
fn line(question: &str) -> String {
    format!("{{\"protocol\":{PROTOCOL},\"query\":\"{question}\"}}\n")
}

/// Returns the first line of an answer.
fn head() -> String {
    format!("{{\"protocol\":{PROTOCOL},\"agent\":\"0.1.0\"}}\n")
}

/// Runs `asks` beside an agent that answers every query: refuses `no`, answers a number with that many bytes, and
/// others with themselves.
fn with_agent<T: Send + 'static>(name: &str, max_bytes: usize, asks: impl FnOnce(&Path) -> T + Send + 'static) -> T {
    let path = path(name);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut control = Control::<String>::listen(&path, max_bytes).unwrap();
        let asking = {
            let path = path.clone();
            thread::spawn(move || asks(&path))
        };
        while !asking.is_finished() {
            tokio::select! {
                asked = control.question() => {
                    let (question, client) = asked.unwrap();
                    answer(&question, client);
                }
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        asking.join().unwrap()
    })
}

fn answer(question: &str, client: QueryClient) {
    let mut answer = client.begin();
    let written = match question.parse() {
        Ok(bytes) => text(bytes).chunks(32 * 1024).try_for_each(|part| answer.frame(part)),
        Err(_) => answer.frame(question.as_bytes()),
    };
    match (question, written) {
        ("no", _) => answer.refuse("never"),
        (_, Ok(())) => answer.finish(),
        (_, Err(error)) => answer.refuse(&error.to_string()),
    }
}

/// Returns text of this length, as repetitive as the objects of `list`.
fn text(bytes: usize) -> Vec<u8> {
    let lines: Vec<u8> =
        (0_u32..500).flat_map(|number| format!("{{\"port\":8080,\"inode\":{number}}}\n").into_bytes()).collect();
    let mut text = lines.repeat(bytes / lines.len() + 1);
    text.truncate(bytes);
    text
}

/// Runs a fake agent that accepts one connection, and calls `does` with it.
fn with_other<T>(name: &str, does: impl FnOnce(UnixStream) + Send + 'static, asks: impl FnOnce(&Path) -> T) -> T {
    let path = path(name);
    let listener = UnixListener::bind(&path).unwrap();
    let other = thread::spawn(move || does(listener.accept().unwrap().0));
    let result = asks(&path);
    other.join().unwrap();
    fs::remove_file(&path).unwrap();
    result
}

fn read_question(stream: &mut UnixStream) {
    let mut byte = [0];
    while byte != *b"\n" {
        stream.read_exact(&mut byte).unwrap();
    }
}

#[test]
fn a_question_gets_its_answer() {
    let answer = with_agent("answer", 1 << 20, |path| asked(path, "two\nlines").unwrap());
    assert_eq!(answer.as_deref(), Some(&b"two\nlines"[..]));
}

#[test]
fn an_answer_that_is_larger_than_the_limit_for_all_passes() {
    const LENGTH: usize = 24 << 20;
    let answer = with_agent("large", 4 << 20, |path| asked(path, &LENGTH.to_string()).unwrap().unwrap());
    assert!(answer == text(LENGTH));
}

#[test]
fn a_refusal_says_why_and_what_to_do() {
    let error = with_agent("refusal", 1 << 20, |path| asked(path, "no").unwrap_err().to_string());
    assert!(error.contains("never") && error.contains("\nhint: ") && error.contains("--alone"), "{error}");
}

#[test]
fn nonsense_and_silence_delay_no_other_client() {
    let answer = with_agent("nonsense", 1 << 20, |path| {
        let silent = UnixStream::connect(path).unwrap();
        let mut rude = UnixStream::connect(path).unwrap();
        rude.write_all(b"{]\n").unwrap();
        let answer = asked(path, "hello").unwrap();
        let mut answer_to_rude = String::new();
        rude.read_to_string(&mut answer_to_rude).unwrap();
        assert!(answer_to_rude.contains("not understood"), "{answer_to_rude}");
        drop(silent);
        answer
    });
    assert_eq!(answer.as_deref(), Some(&b"hello"[..]));
}

#[test]
fn a_question_without_an_end_is_cut_off() {
    with_agent("endless", 1 << 20, |path| {
        let mut rude = UnixStream::connect(path).unwrap();
        rude.set_read_timeout(Some(PATIENCE)).unwrap();
        // Longer than the limit; the number of bytes read does not matter.
        let _cut_off = rude.write_all(&vec![b'x'; 2 * MAX_QUESTION]);
        let mut answer_to_rude = Vec::new();
        let _reset = rude.read_to_end(&mut answer_to_rude);
        assert_eq!(answer_to_rude, b"");
        assert!(asked(path, "hello").unwrap().is_some());
    });
}

#[test]
fn a_missing_agent_is_no_error() {
    assert!(asked(&path("nobody"), "hello").unwrap().is_none());
    let left = path("left");
    drop(UnixListener::bind(&left).unwrap());
    assert!(asked(&left, "hello").unwrap().is_none());
    fs::remove_file(left).unwrap();
}

#[test]
fn clients_that_do_not_read_share_one_limit_and_delay_no_other() {
    const LIMIT: usize = 8 << 20;
    const LENGTH: usize = 3 << 19;
    let path = path("silent");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut control = Control::<String>::listen(&path, LIMIT).unwrap();
        let silent: Vec<UnixStream> = (0..16)
            .map(|_| {
                let mut stream = UnixStream::connect(&path).unwrap();
                stream.write_all(line(&LENGTH.to_string()).as_bytes()).unwrap();
                stream
            })
            .collect();
        let beside = {
            let path = path.clone();
            thread::spawn(move || asked_within(&path, "hello", 10 * PATIENCE))
        };
        let mut most = 0;
        while !beside.is_finished() {
            tokio::select! {
                asked = control.question() => {
                    let (question, client) = asked.unwrap();
                    answer(&question, client);
                    most = most.max(control.bytes_in_flight());
                }
                () = tokio::time::sleep(Duration::from_millis(1)) => {}
            }
        }
        assert_eq!(beside.join().unwrap().unwrap().as_deref(), Some(&b"hello"[..]));
        assert!(most > 0 && most <= LIMIT, "{most} bytes for 16 answers of {LENGTH}");
        // The agent does not wait for them.
        let began = clock::now();
        while control.bytes_in_flight() > 0 && clock::now().since(began) < 4 * PATIENCE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(control.bytes_in_flight(), 0);
        drop(silent);
    });
}

#[test]
fn a_question_waits_for_room_and_is_refused_before_its_client_gives_up() {
    let path = path("room");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut control = Control::<String>::listen(&path, 4 << 20).unwrap();
        let (mut held, first) = {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(line("held").as_bytes()).unwrap();
            (stream, control.question().await.unwrap())
        };
        let mut full = first.1.begin();
        // Does not compress, and leaves less than an eighth, for any part of it that the kernel buffers.
        let noise: Vec<u8> = (0_u64..)
            .scan(1_u64, |state, _| {
                *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                Some((*state >> 56) as u8)
            })
            .take(4_120_000)
            .collect();
        full.frame(&noise).unwrap();
        full.finish();
        let ask_there = || {
            let path = path.clone();
            thread::spawn(move || asked(&path, "hello"))
        };
        let refused = ask_there();
        let until_refused = async {
            while !refused.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            _ = control.question() => panic!("there was no room"),
            () = until_refused => {}
        }
        let error = refused.join().unwrap().unwrap_err().to_string();
        assert!(error.contains("busy") && error.contains("--alone"), "{error}");
        // The client reads the answer, which frees the space.
        let served = ask_there();
        let reading = thread::spawn(move || {
            let mut all = Vec::new();
            held.read_to_end(&mut all).unwrap();
            all.len()
        });
        let (question, client) = control.question().await.unwrap();
        answer(&question, client);
        while !served.is_finished() || !reading.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(served.join().unwrap().unwrap().is_some());
        assert!(reading.join().unwrap() > 4_120_000);
    });
}

#[test]
fn a_client_that_has_gone_is_not_answered() {
    let path = path("gone");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut control = Control::<String>::listen(&path, 1 << 20).unwrap();
        let mut gone = UnixStream::connect(&path).unwrap();
        gone.write_all(line("gone").as_bytes()).unwrap();
        drop(gone);
        // A client that has only closed its sending direction still gets its answer.
        let mut half = UnixStream::connect(&path).unwrap();
        half.write_all(line("half").as_bytes()).unwrap();
        half.shutdown(std::net::Shutdown::Write).unwrap();
        let (question, _asker) = control.question().await.unwrap();
        assert_eq!(question, "half");
    });
}

#[test]
fn a_second_agent_is_refused_and_the_file_goes_with_the_first() {
    let path = path("second");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let first = Control::<String>::listen(&path, 1 << 20).unwrap();
        let error = Control::<String>::listen(&path, 1 << 20).unwrap_err().to_string();
        assert!(error.contains("another agent") && error.contains("\nhint: "), "{error}");
        drop(first);
        assert!(!path.exists());
    });
}

#[test]
fn an_agent_that_does_not_answer_is_an_error() {
    let error = with_other(
        "mute",
        |mut stream| {
            read_question(&mut stream);
            let _given_up = stream.read(&mut [0]);
        },
        |path| asked_within(path, "hello", Duration::from_secs(1)).unwrap_err(),
    );
    assert!(error.to_string().starts_with("the agent did not answer within 1s"), "{error}");
    assert!(error.permits_scan());
}

#[test]
fn an_agent_that_trickles_is_an_error() {
    let began = clock::now();
    let error = with_other(
        "trickle",
        |mut stream| {
            read_question(&mut stream);
            for _ in 0..100 {
                if stream.write_all(b"{").is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(50));
            }
        },
        |path| asked_within(path, "hello", SHORT).unwrap_err(),
    );
    assert!(matches!(error, ControlError::Slow { bytes: 1.., .. }), "{error}");
    assert!(clock::now().since(began) < Duration::from_secs(3));
}

#[test]
fn an_agent_that_cannot_accept_is_an_error() {
    let path = path("full");
    let socket = place::new_socket().unwrap();
    let address = rustix::net::SocketAddrUnix::new(&path).unwrap();
    rustix::net::bind(&socket, &address).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    // Takes the only place in its queue.
    let _waiting = UnixStream::connect(&path).unwrap();
    let error = asked_within(&path, "hello", SHORT).unwrap_err();
    fs::remove_file(&path).unwrap();
    assert!(matches!(error, ControlError::Slow { bytes: 0, .. }), "{error}");
}

/// Returns the error of a query to a fake agent that answers with these bytes.
fn error_of(name: &str, sent: Vec<u8>) -> ControlError {
    with_other(
        name,
        move |mut stream| {
            read_question(&mut stream);
            // A client that has read enough hangs up.
            let _gone = stream.write_all(&sent);
        },
        |path| asked(path, "hello").unwrap_err(),
    )
}

#[test]
fn what_is_no_answer_is_refused() {
    let frame = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes(), bytes].concat();
    let end = |frames: u64| [&[0; 4][..], &frames.to_le_bytes()].concat();
    for (name, sent, words) in [
        ("empty", Vec::new(), "hung up"),
        ("other", b"hello\n".to_vec(), "not understood"),
        ("none", head().into_bytes(), "was cut off"),
        ("short", [head().as_bytes(), &5_u32.to_le_bytes(), b"four"].concat(), "was cut off"),
        ("endless", [head().as_bytes(), &frame(b"four")].concat(), "was cut off"),
        ("fewer", [head().as_bytes(), &frame(b"four"), &end(2)].concat(), "1 parts of 2 came"),
        ("behind", [head().as_bytes(), &frame(b"four"), &end(1), b"x"].concat(), "follows its end"),
        ("huge", [head().as_bytes(), &(u32::MAX - 1).to_le_bytes()].concat(), "are possible"),
        (
            "ended",
            [head().as_bytes(), &frame(b"four"), &[0xff; 4], &3_u32.to_le_bytes(), b"no\x1b"].concat(),
            "no\\u{1b}",
        ),
        (
            "escape",
            format!("{{\"protocol\":{PROTOCOL},\"refused\":\"\\u001b[2J\"}}\n").into_bytes(),
            "gave no answer: \\u{1b}[2J",
        ),
    ] {
        let error = error_of(name, sent);
        assert!(error.to_string().contains(words) && !error.permits_scan(), "{name}: {error}");
    }
}

#[test]
fn an_agent_of_another_version_is_named_with_what_to_do() {
    let next = PROTOCOL + 1;
    for (name, sent, words) in [
        (
            "next",
            format!("{{\"protocol\":{next},\"agent\":\"9.1\\u0007\",\"new\":[]}}\n"),
            "agent of version 9.1\\u{7} at".to_owned(),
        ),
        ("refusing", format!("{{\"protocol\":{next},\"refused\":\"no\"}}\n"), format!("speaks version {next} of")),
        ("first", "{\"bytes\":5}\nhello".to_owned(), "speaks version 0 of".to_owned()),
        ("refused", "{\"refused\":\"no\"}\n".to_owned(), "speaks version 0 of".to_owned()),
    ] {
        let error = error_of(name, sent.into_bytes());
        assert!(matches!(error, ControlError::Version { .. }) && !error.permits_scan(), "{name}: {error}");
        let text = error.to_string();
        assert!(text.contains(&words) && text.contains(&format!("speaks version {PROTOCOL}\nhint: restart")), "{text}");
    }
}

#[test]
fn a_client_of_another_version_gets_the_version_of_the_agent() {
    with_agent("client", 1 << 20, |path| {
        for question in ["{\"form\":\"json\"}", "{\"protocol\":4000000000,\"query\":{\"new\":1}}"] {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(format!("{question}\n").as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
            assert_eq!(answer["protocol"], PROTOCOL);
            assert!(answer["refused"].as_str().unwrap().contains("speaks version"), "{answer}");
        }
    });
}

#[test]
fn an_answer_that_its_reader_refuses_is_an_error_without_control_characters() {
    let error = with_agent("refused", 1 << 20, |path| {
        ask(path, &"hello", |_frame| Err("\u{1b}[2J".to_owned())).unwrap_err().to_string()
    });
    assert!(error.contains("gave no answer: \\u{1b}[2J"), "{error}");
}

#[test]
fn a_first_line_without_an_end_is_not_read_for_ever() {
    let error = with_other(
        "line",
        |mut stream| {
            read_question(&mut stream);
            while stream.write_all(&[b'x'; 1 << 16]).is_ok() {}
        },
        |path| asked(path, "hello").unwrap_err(),
    );
    assert!(error.to_string().contains("does not end"), "{error}");
}

#[test]
fn a_path_that_is_too_long_is_reported() {
    let long = PathBuf::from(format!("/{}", "x".repeat(200)));
    assert!(matches!(asked(&long, "hello"), Err(ControlError::TooLong { .. })));
}
