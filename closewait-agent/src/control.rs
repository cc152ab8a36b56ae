//! The Unix socket on which a running agent answers `closewait list`.
//!
//! One question and one answer a connection, each a line of JSON; behind the answer's line comes the text that it
//! announces. Only root, or whoever runs the agent, may connect.

use std::{
    fs, io,
    io::{Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream as StdUnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use thiserror::Error;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinHandle,
};

/// Where the agent listens unless told otherwise.
pub const PATH: &str = "/run/closewait/agent.sock";
/// Longest question, bytes.
const QUESTION: u64 = 64 * 1024;
/// So many may ask, and be about to take their answers, at the same time; others wait.
const WAITING: usize = 16;
/// A question has to come, and an answer to be taken, within this time.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the agent cannot be asked.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Somebody else answers there.
    #[error("another agent answers at {}; give this one a --socket of its own, or stop the other", path.display())]
    Taken {
        /// Where.
        path: PathBuf,
    },
    /// It cannot listen.
    #[error("{call} for {} failed; give a --socket in a folder that this user may write to", path.display())]
    Listen {
        /// The system call.
        call: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An agent is there that may not be asked, or that gave no answer.
    #[error("asking the agent at {} failed ({call}); run as the user that runs it, or give --alone", path.display())]
    Ask {
        /// The system call.
        call: &'static str,
        /// Where.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The agent did not understand, or its answer was not understood.
    #[error("the agent at {} gave no answer: {why}; is it of the same version? Else give --alone", path.display())]
    Answer {
        /// Where.
        path: PathBuf,
        /// What it said instead.
        why: String,
    },
}

/// The line before the text of an answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    /// So many bytes follow.
    Bytes(usize),
    /// So many bytes follow, and they are not all.
    Part {
        /// Of the text.
        bytes: usize,
        /// What is missing.
        missing: String,
    },
    /// There is none, and this is why.
    Refused(String),
}

/// The socket of a running agent. Its file goes away with it.
#[derive(Debug)]
pub struct Control<Q> {
    questions: mpsc::Receiver<(Q, Asker)>,
    listening: JoinHandle<()>,
    path: PathBuf,
}

impl<Q: DeserializeOwned + Send + 'static> Control<Q> {
    /// Listens at `path`, in the running tokio runtime. A file that an agent has left behind there is replaced.
    ///
    /// # Errors
    ///
    /// If another agent answers there, or the file cannot be made.
    pub fn listen(path: &Path) -> Result<Self, ControlError> {
        let failed = |call| move |source| ControlError::Listen { call, path: path.to_owned(), source };
        if StdUnixStream::connect(path).is_ok() {
            return Err(ControlError::Taken { path: path.to_owned() });
        }
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(failed("mkdir"))?;
        }
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("unlink")(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(path).map_err(failed("bind"))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed("chmod"))?;
        let (ask, questions) = mpsc::channel(WAITING);
        let listening = tokio::spawn(accept(listener, ask));
        Ok(Self { questions, listening, path: path.to_owned() })
    }

    /// The next question that is asked. Nothing is lost if this is dropped while it waits.
    pub async fn question(&mut self) -> Option<(Q, Asker)> {
        self.questions.recv().await
    }
}

impl<Q> Drop for Control<Q> {
    fn drop(&mut self) {
        self.listening.abort();
        // It may be gone already.
        let _gone: io::Result<()> = fs::remove_file(&self.path);
    }
}

/// Hands every question on. Whoever connects and asks none is left alone.
async fn accept<Q: DeserializeOwned + Send + 'static>(listener: UnixListener, ask: mpsc::Sender<(Q, Asker)>) {
    let places = Arc::new(Semaphore::new(WAITING));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let Ok((stream, _nameless)) = listener.accept().await else {
            // Out of descriptors, perhaps: not the end of the agent.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let ask = ask.clone();
        tokio::spawn(async move {
            let mut asker = Asker { stream, _place: place };
            let mut question = Vec::new();
            if let Ok(Ok(())) = tokio::time::timeout(PATIENCE, read_line(&mut asker.stream, &mut question)).await {
                match serde_json::from_slice(&question) {
                    // The agent may be ending.
                    Ok(question) => drop(ask.send((question, asker)).await),
                    Err(error) => asker.answer(Err(format!("the question was not understood: {error}")), None),
                }
            }
        });
    }
}

/// Whoever has asked.
#[derive(Debug)]
pub struct Asker {
    stream: UnixStream,
    /// Until the answer is taken: answers can be large.
    _place: OwnedSemaphorePermit,
}

impl Asker {
    /// Answers in the background: one who does not take the answer holds up nobody. `missing` says what is not in it.
    pub fn answer(mut self, answer: Result<Vec<u8>, String>, missing: Option<String>) {
        tokio::spawn(async move {
            let (line, bytes) = match (answer, missing) {
                (Ok(bytes), None) => (Answer::Bytes(bytes.len()), bytes),
                (Ok(text), Some(missing)) => (Answer::Part { bytes: text.len(), missing }, text),
                (Err(why), _) => (Answer::Refused(why), Vec::new()),
            };
            let Ok(mut line) = serde_json::to_vec(&line) else { return };
            line.push(b'\n');
            let write = async {
                self.stream.write_all(&line).await?;
                self.stream.write_all(&bytes).await?;
                self.stream.shutdown().await
            };
            // One who is gone or too slow has lost interest.
            let _lost: Result<io::Result<()>, _> = tokio::time::timeout(PATIENCE, write).await;
        });
    }
}

async fn read_line(stream: &mut UnixStream, to: &mut Vec<u8>) -> io::Result<()> {
    let mut limited = stream.take(QUESTION);
    while to.last() != Some(&b'\n') {
        if limited.read_buf(to).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// Asks the agent at `path`. `None` if there is none.
///
/// # Errors
///
/// If there is one that cannot be asked, or that gives no answer.
pub fn ask(path: &Path, question: &impl Serialize) -> Result<Option<Vec<u8>>, ControlError> {
    let failed = |call| move |source| ControlError::Ask { call, path: path.to_owned(), source };
    let refused = |why| ControlError::Answer { path: path.to_owned(), why };
    let mut stream = match StdUnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(failed("connect")(error)),
    };
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed("setsockopt"))?;
    let mut line = serde_json::to_vec(question).map_err(|error| refused(error.to_string()))?;
    line.push(b'\n');
    stream.write_all(&line).map_err(failed("write"))?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed("read"))?;
    let end = answer.iter().position(|byte| *byte == b'\n').ok_or_else(|| refused("it hung up".to_owned()))?;
    let (length, missing) = match serde_json::from_slice(&answer[..end]) {
        Ok(Answer::Bytes(length)) => (length, None),
        Ok(Answer::Part { bytes, missing }) => (bytes, Some(missing)),
        Ok(Answer::Refused(why)) => return Err(refused(why)),
        Err(error) => return Err(refused(error.to_string())),
    };
    if answer.len() - end - 1 != length {
        return Err(refused("its answer is cut off".to_owned()));
    }
    if let Some(missing) = missing {
        log::warn!("{missing}");
    }
    Ok(Some(answer.split_off(end + 1)))
}

#[cfg(test)]
mod tests {
    use std::{process, thread};

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("closewait-control-{}-{name}", process::id()))
    }

    /// Runs an agent that answers `answers` questions, and asks it meanwhile.
    fn with_agent<T: Send + 'static>(name: &str, answers: usize, ask: impl FnOnce(&Path) -> T + Send + 'static) -> T {
        let path = path(name);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut control = Control::<String>::listen(&path).unwrap();
            let asking = {
                let path = path.clone();
                thread::spawn(move || ask(&path))
            };
            for _ in 0..answers {
                let (question, asker) = control.question().await.unwrap();
                let missing = (question == "much").then(|| "the rest".to_owned());
                asker.answer(
                    if question == "no" { Err("never".to_owned()) } else { Ok(question.into_bytes()) },
                    missing,
                );
            }
            while !asking.is_finished() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            asking.join().unwrap()
        })
    }

    #[test]
    fn a_question_gets_its_answer() {
        let answer = with_agent("answer", 1, |path| ask(path, &"two\nlines").unwrap());
        assert_eq!(answer.as_deref(), Some(&b"two\nlines"[..]));
    }

    #[test]
    fn an_answer_that_is_not_all_is_an_answer() {
        let answer = with_agent("part", 1, |path| ask(path, &"much").unwrap());
        assert_eq!(answer.as_deref(), Some(&b"much"[..]));
    }

    #[test]
    fn a_refusal_says_why_and_what_to_do() {
        let error = with_agent("refusal", 1, |path| ask(path, &"no").unwrap_err().to_string());
        assert!(error.contains("never") && error.contains("--alone"), "{error}");
    }

    #[test]
    fn nonsense_and_silence_hold_up_nobody() {
        let answer = with_agent("nonsense", 1, |path| {
            let silent = StdUnixStream::connect(path).unwrap();
            drop(silent);
            let mut rude = StdUnixStream::connect(path).unwrap();
            rude.write_all(b"{]\n").unwrap();
            ask(path, &"hello").unwrap()
        });
        assert_eq!(answer.as_deref(), Some(&b"hello"[..]));
    }

    #[test]
    fn nobody_there_is_no_error() {
        assert!(ask(&path("nobody"), &"hello").unwrap().is_none());
    }

    #[test]
    fn a_second_agent_is_told_and_a_leftover_is_replaced() {
        let path = path("second");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            fs::write(&path, b"").unwrap();
            let first = Control::<String>::listen(&path).unwrap();
            let error = Control::<String>::listen(&path).unwrap_err().to_string();
            assert!(error.contains("another agent"), "{error}");
            drop(first);
            assert!(!path.exists());
        });
    }
}
