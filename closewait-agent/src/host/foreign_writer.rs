//! Users besides root and this process's own who can change a file, or replace it.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use rustix::{fs::getxattr, io::Errno};

use super::in_time::call;

/// Mode bit: others may write.
const OTHERS_WRITE: u32 = 0o002;
/// Mode bit of a folder: users with write access cannot change files of others.
const STICKY: u32 = 0o1000;
/// Maximum length of an extended attribute, bytes (`XATTR_SIZE_MAX`).
const MAX_LIST_BYTES: usize = 64 << 10;

/// User who can change a file or a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForeignWriter {
    /// Any user.
    Any,
    /// User or group of its access control list, as `user 1000`.
    Listed(String),
    /// Owner, by user id.
    Owner(u32),
}

/// Failed call of a check.
#[derive(Debug)]
pub struct CheckError {
    /// Name of the system call.
    pub call: &'static str,
    /// Error of the system.
    pub error: io::Error,
}

/// Returns a user besides root and `user` who can change the file of a resolved path, and what that user can write to: the
/// file or a folder above it, in which the user can replace the file. Waits for its file system.
///
/// # Errors
///
/// If the file, a folder or its access control list cannot be read.
pub fn foreign_writer(path: &Path, user: u32) -> Result<Option<(PathBuf, ForeignWriter)>, CheckError> {
    call("stat");
    for part in path.ancestors() {
        let found = fs::metadata(part).map_err(|error| CheckError { call: "stat", error })?;
        let shields = found.is_dir() && found.mode() & STICKY != 0;
        if found.mode() & OTHERS_WRITE != 0 && !shields {
            return Ok(Some((part.to_owned(), ForeignWriter::Any)));
        }
        let listed = if shields { Ok(None) } else { listed_writer(part, user) };
        if let Some(who) = listed.map_err(|error| CheckError { call: "getxattr", error })? {
            return Ok(Some((part.to_owned(), ForeignWriter::Listed(who))));
        }
        if found.uid() != 0 && found.uid() != user {
            return Ok(Some((part.to_owned(), ForeignWriter::Owner(found.uid()))));
        }
    }
    Ok(None)
}

/// Returns a user or group, besides root and `user`, that may write by the access control list of a file (acl(5)).
fn listed_writer(path: &Path, user: u32) -> io::Result<Option<String>> {
    let mut list = vec![0_u8; MAX_LIST_BYTES];
    match getxattr(path, c"system.posix_acl_access", &mut *list) {
        Ok(length) => Ok(writer_of(list.get(..length).unwrap_or_default(), user)),
        // The file has no list, or its file system has no lists.
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns a writer of [`listed_writer`], of the value of the extended attribute (include/uapi/linux/posix_acl_xattr.h at v5.10).
fn writer_of(list: &[u8], user: u32) -> Option<String> {
    /// A user by number.
    const USER: u16 = 0x02;
    /// A group by number.
    const GROUP: u16 = 0x08;
    /// Upper bound of all listed permissions.
    const MASK: u16 = 0x10;
    const WRITE: u16 = 2;
    let entries = || {
        list.get(4..).unwrap_or_default().as_chunks::<8>().0.iter().map(|&[a, b, c, d, e, f, g, h]| {
            (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]), u32::from_le_bytes([e, f, g, h]))
        })
    };
    let mask = entries().find(|(tag, ..)| *tag == MASK).map_or(u16::MAX, |(_, allowed, _)| allowed);
    entries().find_map(|(tag, allowed, id)| match tag {
        USER if allowed & mask & WRITE != 0 && id != 0 && id != user => Some(format!("user {id}")),
        GROUP if allowed & mask & WRITE != 0 && id != 0 => Some(format!("group {id}")),
        _ => None,
    })
}

#[cfg(test)]
pub(crate) mod testing {
    /// Returns an access control list with these entries beside owner, group and others.
    pub(crate) fn access_list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let mut list = 2_u32.to_le_bytes().to_vec();
        let mut all = vec![(1, 7, u32::MAX), (4, 5, u32::MAX), (0x20, 5, u32::MAX)];
        all.extend_from_slice(entries);
        all.sort_unstable();
        for (tag, allowed, id) in all {
            list.extend([u16::to_le_bytes(tag), u16::to_le_bytes(allowed)].concat());
            list.extend(u32::to_le_bytes(id));
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::{testing::access_list, *};

    #[test]
    fn a_listed_user_or_group_that_may_write_is_named() {
        assert_eq!(writer_of(&access_list(&[(2, 7, 4711), (0x10, 7, u32::MAX)]), 1000).as_deref(), Some("user 4711"));
        assert_eq!(writer_of(&access_list(&[(8, 6, 4712), (0x10, 7, u32::MAX)]), 1000).as_deref(), Some("group 4712"));
        for (list, why) in [
            (access_list(&[(2, 7, 4711), (0x10, 5, u32::MAX)]), "the mask forbids it"),
            (access_list(&[(2, 5, 4711), (8, 5, 4711), (0x10, 7, u32::MAX)]), "it may only read"),
            (access_list(&[(2, 7, 1000), (2, 7, 0), (0x10, 7, u32::MAX)]), "the agent's user and root"),
            (access_list(&[]), "the list is empty"),
            (vec![2, 0, 0], "cut"),
        ] {
            assert_eq!(writer_of(&list, 1000), None, "{why}");
        }
    }
}
