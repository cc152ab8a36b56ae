//! Request lines of HTTP/1.

use serde::{Deserialize, Serialize};

use super::{UnreadRequest, path};

/// Method of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum HttpMethod {
    /// `GET`.
    Get,
    /// `HEAD`.
    Head,
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `DELETE`.
    Delete,
    /// `CONNECT`.
    Connect,
    /// `OPTIONS`.
    Options,
    /// `TRACE`.
    Trace,
    /// `PATCH`.
    Patch,
    /// `PROPFIND`.
    Propfind,
    /// `PROPPATCH`.
    Proppatch,
    /// `MKCOL`.
    Mkcol,
    /// `COPY`.
    Copy,
    /// `MOVE`.
    Move,
    /// `LOCK`.
    Lock,
    /// `UNLOCK`.
    Unlock,
    /// `REPORT`.
    Report,
    /// `SEARCH`.
    Search,
    /// `PURGE`.
    Purge,
}

impl HttpMethod {
    /// All methods that closewait knows: those of RFC 9110 and RFC 5789, those of WebDAV, and one of caches. Another word is not shown: it
    /// may be no method.
    pub const ALL: [Self; 19] = [
        Self::Get,
        Self::Head,
        Self::Post,
        Self::Put,
        Self::Delete,
        Self::Connect,
        Self::Options,
        Self::Trace,
        Self::Patch,
        Self::Propfind,
        Self::Proppatch,
        Self::Mkcol,
        Self::Copy,
        Self::Move,
        Self::Lock,
        Self::Unlock,
        Self::Report,
        Self::Search,
        Self::Purge,
    ];

    /// Returns the name in requests.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
            Self::Patch => "PATCH",
            Self::Propfind => "PROPFIND",
            Self::Proppatch => "PROPPATCH",
            Self::Mkcol => "MKCOL",
            Self::Copy => "COPY",
            Self::Move => "MOVE",
            Self::Lock => "LOCK",
            Self::Unlock => "UNLOCK",
            Self::Report => "REPORT",
            Self::Search => "SEARCH",
            Self::Purge => "PURGE",
        }
    }
}

/// Returns the request of HTTP/1 that the bytes begin with. A line without an end has to be cut: then its version is missing, too.
pub(super) fn request(mut bytes: &[u8], is_cut: bool) -> Option<UnreadRequest> {
    // A server ignores empty lines before a request (RFC 9112, section 2.2).
    while let Some(rest) = bytes.strip_prefix(b"\r\n") {
        bytes = rest;
    }
    let (line, has_end) = match bytes.iter().position(|byte| *byte == b'\n') {
        Some(end) => (bytes.get(..end)?, true),
        None if is_cut => (bytes, false),
        None => return None,
    };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|byte| *byte == b' ');
    let (method, target) = (words.next()?, words.next()?);
    let method = HttpMethod::ALL.into_iter().find(|known| known.name().as_bytes() == method)?;
    if has_end && (!matches!(words.next(), Some(b"HTTP/1.1" | b"HTTP/1.0")) || words.next().is_some()) {
        return None;
    }
    // The target of CONNECT is a host.
    let path = if method == HttpMethod::Connect { String::new() } else { path::of_target(target)? };
    Some(UnreadRequest::Http { method, path })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8], is_cut: bool) -> Option<String> {
        request(bytes, is_cut).map(|request| request.to_string())
    }

    #[test]
    fn a_request_line_has_a_method_a_target_and_a_version() {
        for (bytes, expected) in [
            ("GET / HTTP/1.1\r\n", Some("GET /")),
            ("GET / HTTP/1.0\n", Some("GET /")),
            ("\r\n\r\nGET / HTTP/1.1\r\nHost: x", Some("GET /")),
            ("OPTIONS * HTTP/1.1\r\n", Some("OPTIONS *")),
            ("CONNECT db.example:5432 HTTP/1.1\r\n", Some("CONNECT")),
            ("PROPFIND /dav HTTP/1.1\r\n", Some("PROPFIND /dav")),
            ("GET / HTTP/2\r\n", None),
            ("GET /\r\n", None),
            ("GET / HTTP/1.1", None),
            ("GET  / HTTP/1.1\r\n", None),
            ("GET / HTTP/1.1 \r\n", None),
            ("PASSWORD secret HTTP/1.1\r\n", None),
            ("get / HTTP/1.1\r\n", None),
            (" GET / HTTP/1.1\r\n", None),
            ("\r\n", None),
            ("", None),
        ] {
            assert_eq!(shown(bytes.as_bytes(), false).as_deref(), expected, "{bytes:?}");
        }
    }

    #[test]
    fn the_line_of_a_long_target_can_be_cut() {
        let line = format!("GET /orders?{}", "x".repeat(2000));
        assert_eq!(shown(line.as_bytes(), true).as_deref(), Some("GET /orders"));
        assert_eq!(shown(line.as_bytes(), false), None, "the client sent no whole line");
        assert_eq!(shown(b"GET /orders HTT", true).as_deref(), Some("GET /orders"));
        assert_eq!(shown(b"GET ", true), None);
        assert_eq!(shown(b"GET", true), None);
    }

    #[test]
    fn each_method_is_known_by_its_name() {
        for method in HttpMethod::ALL {
            let line = format!("{} / HTTP/1.1\r\n", method.name());
            assert!(
                matches!(request(line.as_bytes(), false), Some(UnreadRequest::Http { method: of, .. }) if of == method)
            );
        }
    }
}
