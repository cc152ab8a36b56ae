use std::{
    io::{PipeReader, Read as _, pipe},
    sync::mpsc::channel,
};

use super::*;

/// Items with values, and items without, each with the reason.
type Taken = (Vec<u32>, Vec<(u32, String)>);

/// Blocks on a pipe whenever the item is 7.
fn read_or_wait(items: Vec<u32>, end: PipeReader, patience: &mut Patience) -> Taken {
    let end = Mutex::new(end);
    let mut taken = Taken::default();
    let work = move |item: &u32, job: &ItemJob<u32>| {
        job.about(Subject::Process(*item, Some(1))).unwrap();
        if *item == 7 {
            job.step("the pipe");
            let _closed = lock(&end).read(&mut [0]);
        }
        job.put(*item);
    };
    each(items, patience, work, |item, result| match result {
        ReadResult::Value(value) => taken.0.push(value),
        ReadResult::Unanswered(why) => taken.1.push((*item, why.to_string())),
    });
    taken
}

fn waits(subject: &Subject) -> bool {
    lock(&ABANDONED).iter().any(|thread| thread.subject.as_ref() == Some(subject))
}

#[test]
fn an_item_that_does_not_answer_is_left_alone_and_the_others_are_not() {
    let (from, to) = pipe().unwrap();
    let mut patience = Patience::default();
    let began = clock::now();
    let (values, unanswered) = read_or_wait(vec![1, 7, 2, 3], from, &mut patience);
    let took = clock::now().since(began);
    assert_eq!(values, [1, 2, 3]);
    assert_eq!(unanswered, [(7, "the pipe did not answer within 250ms (its file system may hang)".to_owned())]);
    assert!((ANSWER_WITHIN..Duration::from_secs(2)).contains(&took), "{took:?}");
    assert!(patience.waits <= patience::INSPECTION_WAITS - ANSWER_WITHIN);
    let subject = Subject::Process(7, Some(1));
    assert!(matches!(may_wait_for(&subject), Err(ReadFailure::StillWaits)));
    may_wait_for(&Subject::Process(8, Some(1))).unwrap();
    // It answers, so that it may be read again.
    drop(to);
    for _ in 0..100 {
        if !waits(&subject) {
            break;
        }
        thread::sleep(TICK);
    }
    may_wait_for(&subject).unwrap();
}

#[test]
fn a_read_that_is_slow_but_makes_progress_is_waited_for() {
    let work = |item: &u32, job: &ItemJob<u32>| {
        for _ in 0..8 {
            thread::sleep(ANSWER_WITHIN / 3);
            job.progress();
        }
        job.put(*item);
    };
    let mut values = Vec::new();
    each(vec![4], &mut Patience::default(), work, |_item, result| match result {
        ReadResult::Value(value) => values.push(value),
        ReadResult::Unanswered(why) => panic!("{why}"),
    });
    assert_eq!(values, [4]);
}

#[test]
fn the_time_of_an_inspection_is_not_exceeded() {
    let mut patience = Patience { takes: Duration::from_millis(300), ..Patience::default() };
    let work = |_item: &u32, job: &ItemJob<u32>| {
        for _ in 0..30 {
            thread::sleep(Duration::from_millis(50));
            job.progress();
        }
    };
    let mut unanswered = Vec::new();
    each(vec![1, 2], &mut patience, work, |item, result| match result {
        ReadResult::Value(value) => panic!("{value}"),
        ReadResult::Unanswered(why) => unanswered.push((*item, why.to_string())),
    });
    let why = "reads of others have used up the time of this inspection".to_owned();
    assert_eq!(unanswered, [(1, why.clone()), (2, why)]);
}

#[test]
fn a_panic_continues_in_the_caller() {
    let run = || {
        run(Subject::Path("/panic".into()), "it", &mut Patience::default(), || {
            assert_eq!(1, 2, "as it should be");
        })
    };
    let payload = panic::catch_unwind(run).unwrap_err();
    assert!(payload.downcast_ref::<String>().unwrap().contains("as it should be"));
    assert!(!waits(&Subject::Path("/panic".into())));
}

#[test]
fn one_thing_is_tried_once_for_as_long_as_it_waits() {
    let (sender, receiver) = channel::<()>();
    let receiver = Mutex::new(receiver);
    let subject = || Subject::Path("/hung/path".into());
    let late = run(subject(), "a path", &mut Patience::for_one_read(), move || {
        let _closed = lock(&receiver).recv();
    });
    assert!(matches!(late, Err(ReadFailure::Late { step: "a path" })), "{late:?}");
    let tried = run(subject(), "a path", &mut Patience::for_one_read(), || ());
    assert!(matches!(tried, Err(ReadFailure::StillWaits)), "{tried:?}");
    drop(sender);
}

#[test]
fn no_read_starts_while_many_are_blocked() {
    let thread = |pid| Abandoned { subject: Some(Subject::Process(pid, Some(1))), watch: Arc::default() };
    let mut abandoned: Vec<_> = (0..7).map(thread).collect();
    allowed(&abandoned, &Subject::Process(99, Some(1))).unwrap();
    assert!(matches!(allowed(&abandoned, &Subject::Process(3, Some(1))), Err(ReadFailure::StillWaits)));
    allowed(&abandoned, &Subject::Process(3, Some(2))).unwrap();
    abandoned.push(thread(7));
    assert!(matches!(allowed(&abandoned, &Subject::Process(99, Some(1))), Err(ReadFailure::TooMany)));
}

#[test]
fn stacks_that_take_long_keep_no_other_reads_from_starting() {
    let thread = |subject| Abandoned { subject: Some(subject), watch: Arc::default() };
    let mut abandoned = vec![thread(Subject::Stacks(1))];
    assert!(matches!(allowed(&abandoned, &Subject::Stacks(1)), Err(ReadFailure::SlowStacks)));
    allowed(&abandoned, &Subject::Process(1, None)).unwrap();
    allowed(&abandoned, &Subject::Stacks(2)).unwrap();
    abandoned.push(thread(Subject::Stacks(2)));
    assert!(matches!(allowed(&abandoned, &Subject::Stacks(3)), Err(ReadFailure::OtherSlowStacks)));
    abandoned.extend((10..17).map(|pid| thread(Subject::Process(pid, None))));
    allowed(&abandoned, &Subject::Process(3, None)).unwrap();
    abandoned.push(thread(Subject::Process(3, None)));
    assert!(matches!(allowed(&abandoned, &Subject::Process(4, None)), Err(ReadFailure::TooMany)));
    // What keeps the process from being read keeps its stacks, too.
    assert!(matches!(allowed(&abandoned[2..], &Subject::Stacks(3)), Err(ReadFailure::SlowStacks)));
}

#[test]
fn a_peek_that_waits_keeps_only_other_peeks_from_starting() {
    let thread = |subject| Abandoned { subject: Some(subject), watch: Arc::default() };
    let mut abandoned = vec![thread(Subject::Peek(1))];
    assert!(matches!(allowed(&abandoned, &Subject::Peek(2)), Err(ReadFailure::TooMany)));
    abandoned.extend((10..17).map(|pid| thread(Subject::Process(pid, None))));
    for subject in [Subject::Process(1, None), Subject::Stacks(1), Subject::Process(2, None)] {
        allowed(&abandoned, &subject).unwrap();
    }
    // Reads that do not answer keep peeks from starting, too.
    abandoned[0] = thread(Subject::Process(1, None));
    assert!(matches!(allowed(&abandoned, &Subject::Peek(1)), Err(ReadFailure::StillWaits)));
    assert!(matches!(allowed(&abandoned, &Subject::Peek(2)), Err(ReadFailure::TooMany)));
}

#[test]
fn a_read_of_stacks_that_computes_for_too_long_blames_no_file_system() {
    let left = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&left);
    let patience = &mut Patience { takes: Duration::from_millis(100), ..Patience::default() };
    let answer = run_in_steps(Subject::Stacks(8), "its stacks", patience, move |job| {
        while !job.is_left_behind() {
            job.progress();
        }
        ended.store(true, Ordering::Release);
    });
    assert!(matches!(answer, Err(ReadFailure::SlowStacks)), "{answer:?}");
    assert_eq!(ReadFailure::SlowStacks.to_string(), "reading them takes too long");
    let ends = (0..100).any(|_| {
        thread::sleep(TICK);
        left.load(Ordering::Acquire)
    });
    assert!(ends, "the thread ends after it was left behind");
}
