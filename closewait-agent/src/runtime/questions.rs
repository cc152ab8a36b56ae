//! Questions of other commands: what is missing is found out, then they are answered.

use std::time::Duration;

use super::{Purpose, Runtime, Then};
use crate::{
    clock::{self, TimeAnchor},
    control::Asker,
    engine::{model::Inquiry, query::Query, time::Boot},
    sink,
    source::{
        ended,
        program::LookFor,
        worker::{Job, JobId},
    },
};

/// Owners of which a question finds out whether they have ended, at some microseconds each.
const OWNERS_CHECKED: usize = 1024;
/// Time that a question waits for owners and names. After that it is answered with what is known: the client waits for 5 s.
const QUESTION_PATIENCE: Duration = Duration::from_secs(2);

/// A question that waits for an answer.
pub(super) struct Question {
    query: Query,
    asker: Asker,
    /// The job that it waits for.
    pub(super) waits_for: Option<JobId>,
    /// Whether it has waited for the names of cgroups.
    named: bool,
    pub(super) until: Boot,
}

impl Runtime {
    /// Somebody asks: what is missing is found out first.
    pub(super) fn asked(&mut self, query: Query, asker: Asker) {
        let now = clock::now();
        self.look(self.intake.engine.not_looked_at(now), LookFor::Waiting, Then::Nothing);
        let gone = Then::Gone(now, self.lost());
        self.look(self.intake.engine.descriptors_left(), LookFor::Lingering, gone);
        let owners = self.intake.engine.owner_pids(OWNERS_CHECKED);
        let waits_for = if owners.into_iter().any(ended::has_ended) {
            // A scan that is running may have seen their descriptors.
            Some(self.find_owners(Purpose::Owners))
        } else if self.intake.engine.wants_walk(now) {
            let scans = self.pending.jobs.iter().rev();
            let running = scans.filter(|(_, purpose)| **purpose == Purpose::Owners).map(|(id, _)| *id).next();
            Some(running.unwrap_or_else(|| self.find_owners(Purpose::Owners)))
        } else {
            None
        };
        let question = Question { query, asker, waits_for, named: false, until: now + QUESTION_PATIENCE };
        self.pending.questions.push(question);
    }

    /// Answers those who wait for nothing any more, of what is true now.
    pub(super) fn answer_questions(&mut self, now: Boot) {
        for mut question in std::mem::take(&mut self.pending.questions) {
            let late = question.until <= now;
            if !late && question.waits_for.is_none() && !question.named {
                question.named = true;
                let cgroups = self.intake.engine.unnamed_cgroups();
                question.waits_for = (!cgroups.is_empty()).then(|| {
                    let inquiry = Inquiry { cgroups, ..Inquiry::default() };
                    self.begin(Job::Inquiry(Box::new(inquiry)), Purpose::Question)
                });
            }
            if late || (question.waits_for.is_none() && self.pending.looks.is_empty()) {
                self.answer(&question.query, question.asker);
            } else {
                self.pending.questions.push(question);
            }
        }
    }

    fn answer(&self, query: &Query, asker: Asker) {
        let mut body = asker.body();
        let engine = &self.intake.engine;
        match sink::answer::answer(engine, query, clock::now(), TimeAnchor::now(), &mut body) {
            Ok(missing) => asker.answer(body, missing),
            Err(error) => asker.refuse(error.to_string()),
        }
    }
}
