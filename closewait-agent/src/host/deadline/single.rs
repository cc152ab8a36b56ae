//! One piece of work with an answer.

use std::any::Any;

use super::{ItemJob, Patience, ReadFailure, ReadResult, Subject, each, may_wait_for};

/// Does one piece of work on its own thread, if no other thread is blocked on the same subject.
///
/// # Errors
///
/// If there is no answer in time, or the work was not tried.
pub fn run<T: Send + 'static>(
    subject: Subject,
    step: &'static str,
    patience: &mut Patience,
    work: impl Fn() -> T + Send + Sync + 'static,
) -> Result<T, ReadFailure> {
    run_in_steps(subject, step, patience, move |_job| work())
}

/// Does what [`run`] does for work of many reads, which tells its job that it makes progress ([`ItemJob::progress`]).
///
/// # Errors
///
/// See [`run`].
pub fn run_in_steps<T: Send + 'static>(
    subject: Subject,
    step: &'static str,
    patience: &mut Patience,
    work: impl Fn(&ItemJob<BoxedAnswer>) -> T + Send + Sync + 'static,
) -> Result<T, ReadFailure> {
    let answer = run_boxed(subject, step, patience, Box::new(move |job| Box::new(work(job)) as BoxedAnswer))?;
    // Nothing else is in the box.
    answer.downcast().map(|answer| *answer).map_err(|_other| ReadFailure::StillWaits)
}

/// Answer of [`run`] of any type.
pub type BoxedAnswer = Box<dyn Any + Send>;
/// Work of [`run`].
type BoxedWork = Box<dyn Fn(&ItemJob<BoxedAnswer>) -> BoxedAnswer + Send + Sync>;

/// Does what [`run`] does, for all types of answers: the program has its thread and its queue only once.
fn run_boxed(
    subject: Subject,
    step: &'static str,
    patience: &mut Patience,
    work: BoxedWork,
) -> Result<BoxedAnswer, ReadFailure> {
    may_wait_for(&subject)?;
    let mut answer = Err(ReadFailure::StillWaits);
    let work = move |subject: &Subject, job: &ItemJob<BoxedAnswer>| {
        if job.about(subject.clone()).is_ok() {
            job.step(step);
            job.put(work(job));
        }
    };
    each(vec![subject], patience, work, |_subject, result| match result {
        ReadResult::Value(value) => answer = Ok(value),
        // A value that arrived counts.
        ReadResult::Unanswered(_) if answer.is_ok() => {}
        ReadResult::Unanswered(why) => answer = Err(why),
    });
    answer
}
