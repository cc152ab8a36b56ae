//! Lines of `mountinfo` (proc_pid_mountinfo(5)).

/// Mount. Its paths are escaped as the kernel writes them: [`unescape`] returns their bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mount<'a> {
    /// Number of the mount.
    pub id: &'a [u8],
    /// Number of the parent mount.
    pub parent: &'a [u8],
    /// `MAJOR:MINOR` of the device.
    pub device: &'a [u8],
    /// Path within the mounted file system.
    pub root: &'a [u8],
    /// Path of the mount point.
    pub point: &'a [u8],
    /// Type of the file system.
    pub kind: &'a [u8],
    /// Source of the file system, such as a device.
    pub source: &'a [u8],
    /// Options of the file system, separated by commas.
    options: &'a [u8],
}

impl<'a> Mount<'a> {
    /// Parses one line; `None` if a field is missing.
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let (id, parent, device) = (fields.next()?, fields.next()?, fields.next()?);
        let (root, point) = (fields.next()?, fields.next()?);
        let mut fields = fields.skip_while(|field| *field != b"-").skip(1);
        let (kind, source, options) = (fields.next()?, fields.next()?, fields.next()?);
        Some(Self { id, parent, device, root, point, kind, source, options })
    }

    /// Returns the options of the file system, as the kernel writes them.
    pub fn options(self) -> impl Iterator<Item = &'a [u8]> {
        self.options.split(|byte| *byte == b',')
    }
}

/// Parses the text of `mountinfo`. Returns the mounts in its order.
pub fn mounts(text: &[u8]) -> impl Iterator<Item = Mount<'_>> {
    text.split(|byte| *byte == b'\n').filter_map(Mount::parse)
}

/// Decodes `\ooo` in a path of `mountinfo` (`mangle_path` in fs/seq_file.c, v6.18).
pub fn unescape(mangled: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(mangled.len());
    let mut rest = mangled;
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'\\').then(|| str::from_utf8(after.get(..3)?).ok()).flatten();
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                path.push(first);
                rest = after;
            }
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_before_and_after_the_optional_ones_are_read() {
        let text = b"36 35 98:0 /root /mnt\\0401 rw,noatime shared:1 master:2 - ext3 /dev/root rw,errors=continue\n\n";
        let found: Vec<_> = mounts(text).collect();
        let [mount] = found[..] else { panic!("{found:?}") };
        assert_eq!((mount.id, mount.parent, mount.device), (&b"36"[..], &b"35"[..], &b"98:0"[..]));
        assert_eq!((mount.root, unescape(mount.point)), (&b"/root"[..], b"/mnt 1".to_vec()));
        assert_eq!((mount.kind, mount.source), (&b"ext3"[..], &b"/dev/root"[..]));
        assert_eq!(mount.options().collect::<Vec<_>>(), [&b"rw"[..], b"errors=continue"]);
    }

    #[test]
    fn a_line_that_is_cut_is_no_mount() {
        for line in [&b""[..], b"1 2 3:4 /", b"1 2 3:4 / / rw", b"1 2 3:4 / / rw -", b"1 2 3:4 / / rw - ext4 a"] {
            assert_eq!(mounts(line).count(), 0);
        }
    }
}
