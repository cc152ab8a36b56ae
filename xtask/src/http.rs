//! Requests to programs on loopback.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
};

use crate::prelude::*;

/// Maximum time of one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Returns a port of loopback that is free at this moment.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening on loopback failed")?;
    Ok(listener.local_addr().context("a listener without an address")?.port())
}

/// Returns the body of an answer with status 200.
pub(crate) fn get(port: u16, path: &str) -> Result<String> {
    let asked = || -> io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(REQUEST_LIMIT))?;
        write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        Ok(text)
    };
    let text = asked().with_context(|| format!("asking port {port} for {path} failed"))?;
    let (head, body) = text.split_once("\r\n\r\n").context("an answer without an end of its headers")?;
    ensure!(head.lines().next().is_some_and(|line| line.contains(" 200 ")), "{path}: {head}\n{body}");
    Ok(body.to_owned())
}

/// Returns text as a part of a URL.
pub(crate) fn percent_encoded(text: &str) -> String {
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
