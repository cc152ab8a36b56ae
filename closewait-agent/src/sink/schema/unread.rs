//! JSON objects of requests that programs have not read.

use serde::Serialize;

#[cfg(test)]
use crate::sink::document::*;
use closewait_engine::unread::{UnreadRequest, UnreadRequests};

/// Request that a program has not read, of one or several sockets.
#[derive(Serialize)]
#[cfg_attr(test, derive(JsonSchema))]
pub(in crate::sink) struct UnreadRequestObject<'a> {
    /// Protocol of the request; `null` for all other sockets together, with less frequent requests or bytes of no protocol that
    /// closewait knows.
    #[cfg_attr(test, schemars(with = "Option<RequestProtocolName>"))]
    protocol: Option<&'static str>,
    /// Method of HTTP/1; otherwise `null`.
    method: Option<&'static str>,
    /// Path of HTTP/1 without query and parameters, 128 characters at most, then `…`; `*` stands for a part that looks like a number or a
    /// token. `null` for other protocols, and for `CONNECT`.
    path: Option<&'a str>,
    /// Server name of TLS (SNI); otherwise `null`.
    server_name: Option<&'a str>,
    /// Number of sockets.
    count: u32,
}

impl<'a> UnreadRequestObject<'a> {
    /// Creates the objects of a group.
    pub(in crate::sink) fn all(unread: &'a UnreadRequests) -> Vec<Self> {
        let UnreadRequests { requests, others } = unread;
        let others = (*others > 0).then_some((None, *others));
        let requests = requests.iter().map(|(request, count)| (Some(request), *count));
        requests.chain(others).map(|(request, count)| Self::new(request, count)).collect()
    }

    fn new(request: Option<&'a UnreadRequest>, count: u32) -> Self {
        let (method, path, server_name) = match request {
            Some(UnreadRequest::Http { method, path }) => {
                (Some(method.name()), Some(path.as_str()).filter(|path| !path.is_empty()), None)
            }
            Some(UnreadRequest::Tls { server_name }) => (None, None, server_name.as_deref()),
            Some(UnreadRequest::Http2 | UnreadRequest::Redis | UnreadRequest::Postgres | UnreadRequest::Ssh) | None => {
                (None, None, None)
            }
        };
        Self { protocol: request.map(|request| request.protocol().name()), method, path, server_name, count }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use closewait_engine::unread::HttpMethod;

    #[test]
    fn the_last_object_counts_the_others() {
        let http = |method, path: &str| UnreadRequest::Http { method, path: path.to_owned() };
        let requests = vec![
            (http(HttpMethod::Post, "/orders"), 37),
            (http(HttpMethod::Connect, ""), 2),
            (UnreadRequest::Tls { server_name: Some("api.example.com".to_owned()) }, 1),
        ];
        let unread = UnreadRequests { requests, others: 4 };
        let object = |protocol, method, path, server_name, count| json!({ "protocol": protocol, "method": method, "path": path, "server_name": server_name, "count": count });
        let (http, tls) = (Some("http"), Some("tls"));
        let expected = json!([
            object(http, Some("POST"), Some("/orders"), None, 37),
            object(http, Some("CONNECT"), None, None, 2),
            object(tls, None, None, Some("api.example.com"), 1),
            object(None, None, None, None::<&str>, 4),
        ]);
        assert_eq!(serde_json::to_value(UnreadRequestObject::all(&unread)).unwrap(), expected);
    }
}
