//! Fields of the tracker that a checkpoint does not contain.

use super::Tracker;
use crate::track::schedule::Schedule;

impl Tracker {
    /// Restores the fields that a checkpoint does not contain, because they follow from the sockets.
    pub(crate) fn restored(&mut self) {
        (self.schedule, self.reported) = (Schedule::default(), 0);
        #[expect(clippy::disallowed_methods, reason = "sorted in the next line")]
        let mut due: Vec<_> = self.sockets.iter().map(|(key, one)| (one.due, *key, one.reported)).collect();
        due.sort_unstable();
        for (due, key, reported) in due {
            self.reported += usize::from(reported);
            if reported {
                self.schedule.insert_again(due, key);
            } else {
                self.schedule.insert_first(due, key);
            }
        }
    }
}
