//! Server name of a `ClientHello` (RFC 8446, section 4.1.2; RFC 6066, section 3).

/// Content type of a handshake record.
const HANDSHAKE: u8 = 22;
/// Type of the handshake message.
const CLIENT_HELLO: u8 = 1;
/// Type of the extension with the server's name.
const SERVER_NAME: u16 = 0;
/// Type of a name that is a host's.
const HOST_NAME: u8 = 0;
/// Maximum length of a host's name, bytes.
const MAX_NAME: usize = 253;

/// Bytes that remain to be read.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }
}

/// Returns the server name of a `ClientHello`, `Some(None)` for one without a name in these bytes; `None` if they are no `ClientHello`.
pub(super) fn server_name(bytes: &[u8]) -> Option<Option<String>> {
    let mut rest = Rest(bytes);
    let [HANDSHAKE, 3, 0..=4, _, _, CLIENT_HELLO, 0, _, _, 3, 0..=4] = rest.take(11)? else { return None };
    Some(name_of_hello(rest))
}

/// Returns the server name of what follows the version of a `ClientHello`. The message may be longer than these bytes, or have several
/// records: then the name can be missing.
fn name_of_hello(mut rest: Rest<'_>) -> Option<String> {
    let _random = rest.take(32)?;
    let session = rest.byte()?;
    let _session = rest.take(session.into())?;
    let ciphers = rest.number()?;
    let _ciphers = rest.take(ciphers.into())?;
    let compressions = rest.byte()?;
    let _compressions = rest.take(compressions.into())?;
    let extensions = rest.number()?;
    rest.0 = rest.0.get(..usize::from(extensions)).unwrap_or(rest.0);
    loop {
        let (kind, length) = (rest.number()?, rest.number()?);
        let content = rest.take(length.into())?;
        if kind == SERVER_NAME {
            return host_name(content);
        }
    }
}

/// Returns the host's name of the extension, if it is one.
fn host_name(extension: &[u8]) -> Option<String> {
    let mut rest = Rest(extension);
    let _length = rest.number()?;
    let _host = rest.byte().filter(|kind| *kind == HOST_NAME)?;
    let length = rest.number()?;
    let name = rest.take(length.into())?;
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    let name = Some(name).filter(|name| (1..=MAX_NAME).contains(&name.len()) && name.iter().all(is_plain))?;
    Some(str::from_utf8(name).ok()?.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefixed(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
    }

    /// Returns a record with a `ClientHello` that has these extensions.
    fn hello(extensions: &[u8]) -> Vec<u8> {
        let body = [&[3_u8, 3][..], &[7; 32], &[4, 1, 2, 3, 4], &prefixed(&[0x13, 1]), &[1, 0], &prefixed(extensions)]
            .concat();
        let message = [&[CLIENT_HELLO, 0][..], &prefixed(&body)].concat();
        [&[HANDSHAKE, 3, 1][..], &prefixed(&message)].concat()
    }

    /// Returns the extension with a name of this kind.
    fn named(kind: u8, name: &[u8]) -> Vec<u8> {
        let entry = [&[kind][..], &prefixed(name)].concat();
        [&SERVER_NAME.to_be_bytes()[..], &prefixed(&prefixed(&entry))].concat()
    }

    #[test]
    fn the_name_is_found_behind_other_extensions() {
        let others = [&[0x0a, 0x0a, 0, 0][..], &[0, 43, 0, 3, 2, 3, 4]].concat();
        let whole = hello(&[&others[..], &named(HOST_NAME, b"API.Example.com"), &[0, 51, 0, 1, 9]].concat());
        assert_eq!(server_name(&whole), Some(Some("api.example.com".to_owned())));
        // Each shorter beginning is TLS without a name, or too short to tell.
        let mut named_from = None;
        for length in 0..whole.len() {
            match server_name(&whole[..length]) {
                None => assert!(length < 11, "{length}"),
                Some(None) => assert!(length >= 11 && named_from.is_none(), "{length}"),
                Some(Some(_)) => named_from = named_from.or(Some(length)),
            }
        }
        assert_eq!(named_from, Some(whole.len() - 5), "the name ends before the last extension");
    }

    #[test]
    fn odd_names_are_not_shown() {
        for extensions in [
            named(HOST_NAME, b"a\x1b[2J"),
            named(HOST_NAME, b""),
            named(HOST_NAME, &[b'a'; 254]),
            named(1, b"a.example"),
            Vec::new(),
            vec![0, 0],
            vec![0, 0, 0, 9, 0],
        ] {
            assert_eq!(server_name(&hello(&extensions)), Some(None), "{extensions:?}");
        }
    }

    #[test]
    fn other_records_are_no_hello() {
        let mut other = hello(&[]);
        other[0] = 23;
        assert_eq!(server_name(&other), None, "application data");
        let mut server = hello(&[]);
        server[5] = 2;
        assert_eq!(server_name(&server), None, "ServerHello");
        assert_eq!(server_name(b"\x16\x03\x01"), None);
    }
}
