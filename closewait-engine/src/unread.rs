//! Requests that programs have not read, from the first bytes of sockets' receive queues.
//!
//! The bytes are whatever a peer has sent. [`parse`] is pure, reads each byte a bounded number of times, and returns only names: method
//! and path of HTTP/1, the server name of TLS, or the protocol alone. Queries, headers and bodies never leave it.

mod http;
mod path;
mod proxied;
mod summary;
mod tls;

use std::fmt;

use serde::{Deserialize, Serialize};

use self::path::short_field;
pub use self::{http::HttpMethod, summary::UnreadRequests};
use crate::text::harmless_field;

/// Maximum number of bytes of a receive queue that the agent reads for [`parse`].
pub const MAX_PEEKED: usize = 2048;

/// First request in a receive queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UnreadRequest {
    /// Request of HTTP/1.0 or HTTP/1.1.
    Http {
        /// Method of the request.
        method: HttpMethod,
        /// Path without query and parameters, 128 characters at most; `*` stands for parts that look like values. Empty for `CONNECT`.
        #[serde(deserialize_with = "short_field")]
        path: String,
    },
    /// Beginning of a connection of HTTP/2 without TLS.
    Http2,
    /// `ClientHello` of TLS.
    Tls {
        /// Name of the server (SNI), in lower case; `None` if the first bytes contain none.
        #[serde(deserialize_with = "harmless_field")]
        server_name: Option<String>,
    },
    /// Command of Redis (RESP).
    Redis,
    /// Beginning of a connection of `PostgreSQL`.
    Postgres,
    /// Beginning of a connection of SSH.
    Ssh,
}

/// Protocol of an [`UnreadRequest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestProtocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// TLS.
    Tls,
    /// Redis.
    Redis,
    /// `PostgreSQL`.
    Postgres,
    /// SSH.
    Ssh,
}

impl RequestProtocol {
    /// Returns the name in events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Tls => "tls",
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Ssh => "ssh",
        }
    }
}

impl UnreadRequest {
    /// Returns the protocol.
    pub const fn protocol(&self) -> RequestProtocol {
        match self {
            Self::Http { .. } => RequestProtocol::Http,
            Self::Http2 => RequestProtocol::Http2,
            Self::Tls { .. } => RequestProtocol::Tls,
            Self::Redis => RequestProtocol::Redis,
            Self::Postgres => RequestProtocol::Postgres,
            Self::Ssh => RequestProtocol::Ssh,
        }
    }
}

impl fmt::Display for UnreadRequest {
    /// Writes the request for people: `POST /orders`, `HTTP/2`, `TLS api.example.com`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { method, path } if path.is_empty() => f.write_str(method.name()),
            Self::Http { method, path } => write!(f, "{} {path}", method.name()),
            Self::Http2 => f.write_str("HTTP/2"),
            Self::Tls { server_name: Some(name) } => write!(f, "TLS {name}"),
            Self::Tls { server_name: None } => f.write_str("TLS"),
            Self::Redis => f.write_str("Redis"),
            Self::Postgres => f.write_str("PostgreSQL"),
            Self::Ssh => f.write_str("SSH"),
        }
    }
}

/// Returns the request that begins with `bytes`, the first [`MAX_PEEKED`] bytes of a receive queue at most; `None` if they are of no
/// protocol that closewait knows. `is_cut` is whether the queue can have more bytes.
pub fn parse(bytes: &[u8], is_cut: bool) -> Option<UnreadRequest> {
    let bytes = proxied::behind_header(bytes);
    if bytes.starts_with(b"PRI * HTTP/2.0\r\n") {
        return Some(UnreadRequest::Http2);
    }
    if bytes.starts_with(b"SSH-2.0-") || bytes.starts_with(b"SSH-1.99-") {
        return Some(UnreadRequest::Ssh);
    }
    if is_redis(bytes) {
        return Some(UnreadRequest::Redis);
    }
    if is_postgres(bytes) {
        return Some(UnreadRequest::Postgres);
    }
    if let Some(server_name) = tls::server_name(bytes) {
        return Some(UnreadRequest::Tls { server_name });
    }
    http::request(bytes, is_cut)
}

/// Whether the bytes begin an array of strings (`*2\r\n$3\r\n`, the form in which clients of Redis send commands: RESP, "Sending commands
/// to a Redis server").
fn is_redis(bytes: &[u8]) -> bool {
    // No command has a billion parts or bytes.
    let behind_number = |bytes: &[u8], mark: u8| {
        let digits = bytes.strip_prefix(&[mark])?;
        let length = digits.iter().take(10).take_while(|byte| byte.is_ascii_digit()).count();
        (length > 0 && digits.get(length..)?.starts_with(b"\r\n")).then_some(1 + length + 2)
    };
    let strings = behind_number(bytes, b'*').and_then(|length| bytes.get(length..));
    strings.and_then(|strings| behind_number(strings, b'$')).is_some()
}

/// Whether the bytes begin with a message that begins a connection of `PostgreSQL`: `StartupMessage` of version 3.0 or 3.2, `SSLRequest`,
/// `GSSENCRequest` or `CancelRequest` (PostgreSQL's documentation, "Message Formats").
fn is_postgres(bytes: &[u8]) -> bool {
    /// Maximum length of the first message, bytes (`MAX_STARTUP_PACKET_LENGTH`, src/include/libpq/pqcomm.h).
    const MAX_STARTUP: u32 = 10_000;
    let number = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?));
    match number(0).zip(number(4)) {
        Some((8, code)) => code == 80_877_103 || code == 80_877_104,
        Some((length, code)) if (9..=MAX_STARTUP).contains(&length) => {
            matches!(code, 0x0003_0000 | 0x0003_0002) || (code == 80_877_102 && length >= 16)
        }
        Some(_) | None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(bytes: &[u8]) -> Option<String> {
        parse(bytes, false).map(|request| request.to_string())
    }

    #[test]
    fn protocols_are_told_by_their_first_bytes() {
        let startup = [&[0, 0, 0, 41, 0, 3, 0, 0][..], b"user\0alice\0database\0secret\0\0"].concat();
        for (bytes, expected) in [
            (&b"POST /orders?key=1 HTTP/1.1\r\nHost: a\r\n\r\n"[..], Some("POST /orders")),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some("HTTP/2")),
            (b"*2\r\n$4\r\nAUTH\r\n$6\r\nsecret\r\n", Some("Redis")),
            (b"*2\r\n+4\r\n", None),
            (b"*\r\n$4\r\n", None),
            (b"*99999999999\r\n$4\r\n", None),
            (&startup, Some("PostgreSQL")),
            (&[0, 0, 0, 8, 4, 210, 22, 47], Some("PostgreSQL")),
            (&[0, 0, 0, 9, 4, 210, 22, 47], None),
            (&[0, 3, 0, 0, 0, 3, 0, 0], None),
            (b"SSH-2.0-OpenSSH_9.7\r\n", Some("SSH")),
            (b"", None),
            (b"hello", None),
            (b"HTTP/1.1 200 OK\r\n\r\n", None),
            (&[0; MAX_PEEKED], None),
        ] {
            assert_eq!(shown(bytes).as_deref(), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_recorded_request_is_read_back_and_a_forged_one_is_harmless_and_short() {
        let request = UnreadRequest::Http { method: HttpMethod::Post, path: "/orders".to_owned() };
        let mut recorded = serde_json::to_value(&request).unwrap();
        assert_eq!(serde_json::from_value::<UnreadRequest>(recorded.clone()).unwrap(), request);
        recorded["Http"]["path"] = format!("/\u{1b}[2J{}", "x".repeat(10_000)).into();
        let forged = serde_json::from_value::<UnreadRequest>(recorded).unwrap().to_string();
        assert!(forged.starts_with("POST /\\u{1b}[2Jxxx") && forged.ends_with('…'), "{forged}");
        assert_eq!(forged.chars().count(), "POST ".len() + path::MAX_PATH + 1);
    }
}
