//! Header that a proxy puts before a connection (the PROXY protocol of HAProxy, doc/proxy-protocol.txt).

/// Maximum length of a header of version 1, bytes, with its end.
const MAX_V1: usize = 107;
/// Beginning of a header of version 2.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Returns the bytes behind such a header, or all bytes if there is none.
pub(super) fn behind_header(bytes: &[u8]) -> &[u8] {
    behind_v1(bytes).or_else(|| behind_v2(bytes)).unwrap_or(bytes)
}

fn behind_v1(bytes: &[u8]) -> Option<&[u8]> {
    let head = bytes.get(..MAX_V1.min(bytes.len())).filter(|head| head.starts_with(b"PROXY "))?;
    let end = head.windows(2).position(|pair| pair == b"\r\n")?;
    bytes.get(end + 2..)
}

fn behind_v2(bytes: &[u8]) -> Option<&[u8]> {
    let rest = bytes.strip_prefix(V2)?;
    let [version, _family, high, low, behind @ ..] = rest else { return None };
    behind.get(usize::from(u16::from_be_bytes([*high, *low]))..).filter(|_| version >> 4 == 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_are_skipped_and_nothing_else() {
        let v2 = |length: u8| [V2, &[0x21, 0x11, 0, length], b"abcdGET /"].concat();
        for (bytes, expected) in [
            (&b"PROXY TCP4 10.0.0.9 10.0.0.5 51234 80\r\nGET /"[..], &b"GET /"[..]),
            (b"PROXY UNKNOWN\r\n", b""),
            (b"PROXY without an end", b"PROXY without an end"),
            (&v2(4), b"GET /"),
            (&v2(9), b""),
            (&v2(10), &v2(10)),
            (V2, V2),
            (b"GET / HTTP/1.1\r\n", b"GET / HTTP/1.1\r\n"),
            (b"", b""),
        ] {
            assert_eq!(behind_header(bytes), expected, "{}", bytes.escape_ascii());
        }
        let long = [&b"PROXY "[..], &[b'x'; MAX_V1], b"\r\nGET /"].concat();
        assert_eq!(behind_header(&long), long);
    }
}
