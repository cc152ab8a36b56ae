//! Sockets that have entered and exited by the time of their only record.

use super::Tracker;
use crate::{
    model::{Dwell, Socket, SocketKey},
    time::BootTime,
    track::departed::Left,
};

impl Tracker {
    /// Does what [`Self::enter`] at `entered` and [`Self::leave`] at `at` do together, if that changes no tracked socket; else does
    /// nothing.
    pub(crate) fn pass(&mut self, key: SocketKey, entered: BootTime, at: BootTime, socket: &Socket) -> Option<Left> {
        if self.sockets.len() >= self.most || self.find(key, socket).is_some() {
            return None;
        }
        self.overflow.remove(socket);
        self.scans.left(socket, at);
        Some(Left { missed: None, tracked: None, dwell: Some(Dwell::Exact(at.since(entered))) })
    }
}
