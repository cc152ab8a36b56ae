//! One line about an incident, for an alert, a ticket and the text of `closewait run`.

use std::{borrow::Cow, fmt::Write as _};

use super::{Certainty, Class, Forecast, Limit, Pileup, PileupEnd, PileupGroup};
use crate::{
    text::{duration, rate, time_left},
    time::BootTime,
};

/// Maximum length of a summary, characters.
pub const MAX_SUMMARY_CHARS: usize = 120;
/// End of a name that is cut.
const CUT: &str = "..";

impl PileupGroup {
    /// Returns the port or remote endpoint in its shortest form: `:8080`, `-> 10.0.0.7:443`.
    pub fn place(&self) -> String {
        match (self.local_port, self.remote) {
            (Some(port), _) => format!(":{port}"),
            (None, Some(remote)) => format!("-> {remote}"),
            (None, None) => "(groups over the limit)".to_owned(),
        }
    }
}

impl Pileup {
    /// Returns the word for the problem: its class as in [`Self::class_label`], or `full` if a limit is reached.
    pub fn label(&self) -> String {
        let is_full = self.forecast.as_ref().is_some_and(Forecast::is_reached);
        if is_full { "full".to_owned() } else { self.class_label() }
    }

    /// Returns the class of the problem, with a question mark if it is a guess. An unknown cause is no guess: it is `grows`.
    pub fn class_label(&self) -> String {
        let class = self.verdict.class;
        if class == Class::Unknown {
            return "grows".to_owned();
        }
        let word = if class == Class::NeverAccepted { "unaccepted" } else { class.name() };
        let doubt = if self.verdict.certainty == Certainty::Low { "?" } else { "" };
        format!("{word}{doubt}")
    }

    /// Returns the number of sockets in CLOSE_WAIT.
    pub const fn in_close_wait(&self) -> u64 {
        self.count.saturating_sub(self.ended)
    }

    /// Returns the words after the number of sockets: `all` if all are in CLOSE_WAIT, otherwise how many have ended.
    pub fn count_words<'t>(&self, all: &'t str) -> Cow<'t, str> {
        match self.ended {
            0 => all.into(),
            ended => format!("not closed ({ended} ended)").into(),
        }
    }

    /// Returns the numbers of the incident: count of the `sockets`, growth, and the limit that is exhausted first.
    pub fn numbers(&self, sockets: &str) -> String {
        let mut text = format!("{} {}", self.count, self.count_words(sockets));
        let mut push = |part: std::fmt::Arguments<'_>| {
            let _infallible: std::fmt::Result = text.write_fmt(part);
        };
        if let Some(slope) = self.slope.filter(|slope| slope.per_second > 0.0) {
            push(format_args!(", +{}", rate(slope.per_second)));
        }
        if let Some(forecast) = &self.forecast {
            push(format_args!(", {}", limit(forecast)));
        }
        text
    }

    /// Returns the incident in one line of at most [`MAX_SUMMARY_CHARS`] characters.
    pub fn summary(&self) -> String {
        line(&self.label(), self.service().name().as_deref(), &self.group, &self.numbers("in CLOSE_WAIT"))
    }
}

impl PileupEnd {
    /// Returns the way in which the incident ended at `at`, and its numbers.
    pub fn numbers(&self, at: BootTime) -> String {
        let Self { began, how, most, count, .. } = self;
        let lasted = duration(at.since(*began));
        format!("{} after {lasted}, {count} of {most} remain", how.words())
    }

    /// Returns the end of the incident at `at` in one line of at most [`MAX_SUMMARY_CHARS`] characters.
    pub fn summary(&self, at: BootTime) -> String {
        line("resolved", self.service.as_deref(), &self.group, &self.numbers(at))
    }
}

/// Returns the text on a limit: the time until it is reached, or the amount that is used.
fn limit(forecast: &Forecast) -> String {
    let Forecast { limit, used, most, left, .. } = forecast;
    let (left, most) = (time_left(*left), limit.configured(*most));
    match (limit, forecast.is_reached()) {
        (Limit::Descriptors, true) => format!("{used}/{most} fds"),
        (Limit::Backlog, true) => format!("backlog {used}/{most}"),
        (Limit::Connections, true) => format!("connections {used}/{most}"),
        (Limit::Descriptors, false) => format!("full in {left}"),
        (Limit::Backlog, false) => format!("backlog full in {left}"),
        (Limit::Connections, false) => format!("connection limit in {left}"),
    }
}

/// Returns `label: service place, numbers`. Only the name of the service can be long, so it is cut first.
fn line(label: &str, service: Option<&str>, group: &PileupGroup, numbers: &str) -> String {
    let rest = format!(" {}, {numbers}", group.place());
    let free = MAX_SUMMARY_CHARS.saturating_sub(label.chars().count() + 2 + rest.chars().count());
    let line = format!("{label}: {}{rest}", cut(service.unwrap_or("unknown owner"), free));
    cut(&line, MAX_SUMMARY_CHARS)
}

/// Returns `text`, cut to `most` characters.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(CUT.len())).chain(CUT.chars()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Role;

    const PORT: PileupGroup =
        PileupGroup { role: Some(Role::Server), netns: None, cgroup: None, local_port: Some(25_140), remote: None };

    fn forecast(limit: Limit, used: u64) -> Forecast {
        let left = Duration::from_secs(37);
        Forecast { limit, used, most: 1024, read_at: BootTime(0), left, at_least: left, at_most: None }
    }

    #[test]
    fn a_summary_has_service_place_and_numbers() {
        let numbers = "324 in CLOSE_WAIT, +20/s, full in 37s";
        let expected = "hung: java[23415] ShopApi :25140, 324 in CLOSE_WAIT, +20/s, full in 37s";
        assert_eq!(line("hung", Some("java[23415] ShopApi"), &PORT, numbers), expected);
        assert_eq!(line("hung", None, &PORT, "6 in CLOSE_WAIT"), "hung: unknown owner :25140, 6 in CLOSE_WAIT");
    }

    #[test]
    fn a_long_name_is_cut_and_the_numbers_stay() {
        for service in ["x".repeat(500), "ä".repeat(500)] {
            let summary = line("hung", Some(&service), &PORT, "324 in CLOSE_WAIT");
            assert_eq!(summary.chars().count(), MAX_SUMMARY_CHARS, "{summary}");
            assert!(summary.ends_with(".. :25140, 324 in CLOSE_WAIT"), "{summary}");
        }
        assert_eq!(line("hung", Some("x"), &PORT, &"9".repeat(500)).chars().count(), MAX_SUMMARY_CHARS);
    }

    #[test]
    fn a_limit_is_near_or_reached() {
        let texts = Limit::ALL.map(|of| [limit(&forecast(of, 500)), limit(&forecast(of, 1024))]);
        assert_eq!(
            texts,
            [
                ["full in 37s", "1024/1024 fds"],
                ["backlog full in 37s", "backlog 1024/1023"],
                ["connection limit in 37s", "connections 1024/1024"],
            ]
        );
    }
}
