//! Unread requests of a group of sockets.

use std::{cmp::Reverse, collections::BTreeMap};

use serde::{Deserialize, Serialize};

use super::UnreadRequest;

/// Maximum number of different requests of a group.
const MAX_REQUESTS: usize = 5;

/// Requests that a program has not read from the sockets of a group, as far as the agent has peeked at them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadRequests {
    /// Most frequent requests, five at most, with the number of sockets of each.
    pub requests: Vec<(UnreadRequest, u32)>,
    /// Number of sockets with other requests, or with bytes of no protocol that closewait knows.
    pub others: u32,
}

impl UnreadRequests {
    /// Groups the requests of sockets, `None` for a socket with bytes of no known protocol; returns `None` without sockets.
    pub(crate) fn of<'a>(requests: impl Iterator<Item = Option<&'a UnreadRequest>>) -> Option<Self> {
        let (mut counts, mut others) = (BTreeMap::<&UnreadRequest, u32>::new(), 0_u32);
        for request in requests {
            match request {
                Some(request) => *counts.entry(request).or_default() += 1,
                None => others += 1,
            }
        }
        let mut counts: Vec<_> = counts.into_iter().collect();
        counts.sort_by_key(|(request, count)| (Reverse(*count), *request));
        others += counts.iter().skip(MAX_REQUESTS).map(|(_, count)| count).sum::<u32>();
        let requests = counts.into_iter().take(MAX_REQUESTS).map(|(request, count)| (request.clone(), count)).collect();
        let all = Self { requests, others };
        (!all.requests.is_empty() || others > 0).then_some(all)
    }

    /// Returns the requests for people: `POST /orders 37, GET /health 2, others 3`.
    pub fn text(&self) -> String {
        let others = match (self.others, self.requests.is_empty()) {
            (0, _) => None,
            (others, true) => Some(format!("of an unknown protocol {others}")),
            (others, false) => Some(format!("others {others}")),
        };
        let requests = self.requests.iter().map(|(request, count)| format!("{request} {count}"));
        requests.chain(others).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unread::HttpMethod;

    fn get(path: &str) -> UnreadRequest {
        UnreadRequest::Http { method: HttpMethod::Get, path: path.to_owned() }
    }

    #[test]
    fn the_most_frequent_requests_come_first_and_the_rest_is_counted() {
        let paths = ["/a", "/b", "/b", "/c", "/d", "/e", "/f", "/g"].map(get);
        let all = UnreadRequests::of(paths.iter().map(Some).chain([None])).unwrap();
        assert_eq!(all.text(), "GET /b 2, GET /a 1, GET /c 1, GET /d 1, GET /e 1, others 3");
        assert_eq!(all.requests.len(), MAX_REQUESTS);
        assert_eq!(UnreadRequests::of([None, None].into_iter()).unwrap().text(), "of an unknown protocol 2");
        assert_eq!(UnreadRequests::of([Some(&UnreadRequest::Http2)].into_iter()).unwrap().text(), "HTTP/2 1");
        assert_eq!(UnreadRequests::of(std::iter::empty()), None);
    }
}
