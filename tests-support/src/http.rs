//! Requests to programs on loopback.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    time::Duration,
};

/// Maximum time of one read of an answer.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Returns a port of loopback that is free at this moment, for programs that take no port 0.
///
/// # Errors
///
/// If the kernel has none.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Returns the body of an answer with status 200.
///
/// # Errors
///
/// If there is no answer, or one with another status.
pub fn get(port: u16, path: &str) -> io::Result<String> {
    let asked = || -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(REQUEST_LIMIT))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let failed = |error: io::Error| io::Error::new(error.kind(), format!("asking port {port} for {path}: {error}"));
    let text = asked().map_err(failed)?;
    match text.split_once("\r\n\r\n") {
        None => Err(io::Error::other(format!("{path}: an answer without an end of its headers"))),
        Some((head, body)) if head.lines().next().is_some_and(|line| line.contains(" 200 ")) => Ok(body.to_owned()),
        Some((head, body)) => Err(io::Error::other(format!("{path}: {head}\n{body}"))),
    }
}

/// Returns text as a part of a URL.
pub fn percent_encoded(text: &str) -> String {
    let encoded = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encoded).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_encoded_for_a_url() {
        assert_eq!(percent_encoded("up{a=\"b c\"}"), "up%7Ba%3D%22b%20c%22%7D");
    }
}
