//! Answers to queries while records arrive.

use super::*;
use crate::runtime::answers::{AnswerJob, AnswerThread, Answering};

/// Number of sockets about which the event loop does not answer by itself.
const MANY: usize = 300;

/// Returns the records of sockets that enter.
fn enters(numbers: std::ops::Range<usize>) -> impl Iterator<Item = Vec<u8>> {
    numbers.map(|number| enter(u16::try_from(number + 1).unwrap()))
}

/// Runs an agent that tracks [`MANY`] sockets, and makes answers with `make` beside its event loop.
fn run_answering(
    source: &FakeSource,
    path: &Path,
    make: impl FnMut(AnswerJob, Box<Engine>) + Send + 'static,
    drive: impl AsyncFnOnce(&Lines),
) {
    source.write(enters(0..MANY));
    let beside = |runtime: &mut Runtime<FakeSource>| {
        runtime.pending.answering = Answering::Beside(AnswerThread::start(make).unwrap())
    };
    run_changed(source, config(), no_jobs(), Some(path), beside, async |lines| {
        lines.wait_for("enter", MANY).await;
        drive(lines).await;
    });
}

fn asking(path: &Path) -> thread::JoinHandle<(AnswerHeader, usize)> {
    let path = path.to_owned();
    thread::spawn(move || list(&path))
}

#[test]
fn a_query_is_answered_while_records_come_without_an_end() {
    let source = FakeSource::default();
    source.state().endless = true;
    source.write([enter(1)]);
    let path = socket("query");
    run(&source, config(), no_jobs(), Some(&path), async |lines| {
        lines.wait_for("leave", 1).await;
        let asking = thread::spawn({
            let path = path.clone();
            move || list(&path)
        });
        wait_until("an answer", || asking.is_finished()).await;
        let left = lines.all().len();
        let (header, rows) = asking.join().unwrap();
        // The socket of the endless records may be present or not.
        assert!(header.total == rows as u64 && (1..=2).contains(&rows), "{header:?}, {rows} rows");
        wait_until("records after the answer", || lines.all().len() > left).await;
    });
    assert!(!fs::exists(&path).unwrap(), "the socket's file goes away");
}

#[test]
fn records_are_read_while_an_answer_is_made() {
    const ROUNDS: usize = 8;
    let (source, path) = (FakeSource::default(), socket("beside"));
    let (begins, began) = mpsc::channel();
    let (finish, finishes) = mpsc::channel();
    let make = move |job: AnswerJob, engine: Box<Engine>| {
        begins.send(()).unwrap();
        finishes.recv_timeout(LIMIT).expect("the event loop reads the records");
        job.make(&engine);
    };
    run_answering(&source, &path, make, async |lines| {
        let [first, second] = [asking(&path), asking(&path)];
        wait_until("the start of an answer", || began.try_recv().is_ok()).await;
        // Each time as many records as there is room for: one that the loop does not read would be lost.
        for round in 1..=ROUNDS {
            assert!(source.state().records.is_empty(), "round {round}");
            let number = MANY + round * CAPACITY;
            source.write(enters(number - CAPACITY..number));
            lines.wait_for("enter", number).await;
        }
        assert!(!first.is_finished() && !second.is_finished());
        let reads = source.state().reads;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(source.state().reads < reads + 100, "without records, the loop rests");
        finish.send(()).unwrap();
        wait_until("the start of the next answer", || began.try_recv().is_ok()).await;
        finish.send(()).unwrap();
        wait_until("answers", || first.is_finished() && second.is_finished()).await;
        let mut totals = [first, second].map(|asking| {
            let (header, rows) = asking.join().unwrap();
            assert_eq!(header.total, rows as u64);
            rows
        });
        totals.sort_unstable();
        assert_eq!(totals, [MANY, MANY + ROUNDS * CAPACITY], "each is of the time at which it began");
    });
}

#[test]
fn the_event_loop_answers_if_the_thread_has_ended() {
    let (source, path) = (FakeSource::default(), socket("ended"));
    let make = |_job, _engine| panic!("a bug in an answer");
    run_answering(&source, &path, make, async |_lines| {
        let first = asking(&path);
        wait_until("no answer", || first.is_finished()).await;
        assert!(first.join().is_err());
        let second = asking(&path);
        wait_until("an answer", || second.is_finished()).await;
        assert_eq!(second.join().unwrap().1, MANY);
    });
}
