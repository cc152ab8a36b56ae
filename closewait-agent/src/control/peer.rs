//! Identity of the process at the other end of a Unix socket, and whether to trust it.

use std::{
    fs, io,
    os::{fd::AsFd, unix::fs::MetadataExt as _},
    path::Path,
};

use rustix::process::geteuid;

use crate::host::{in_time::call, peer_credentials::PeerCredentials};

/// Mode bits: group and others may write.
pub(super) const OTHERS_WRITE: u32 = 0o022;

/// Returns the effective user of this process.
pub(super) fn own_user() -> u32 {
    geteuid().as_raw()
}

/// Returns the user at the other end.
pub(super) fn user_of(stream: impl AsFd) -> io::Result<u32> {
    PeerCredentials::of(stream).map(|peer| peer.user)
}

/// Whether the agent answers a client of this user.
pub(super) fn may_ask(user: u32) -> bool {
    user == 0 || user == own_user()
}

/// Whether a client trusts an agent of this user that listens at `path`: root, the client's own user, or the user to
/// whom root has given the folder, as systemd's `RuntimeDirectory=` does.
pub(super) fn is_trusted(user: u32, path: &Path) -> bool {
    user == 0 || user == own_user() || placed_by_root(path).is_ok_and(|owner| owner == Some(user))
}

/// Returns the owner of the folder of `path`, if only that user can write there and only root to all folders above.
fn placed_by_root(path: &Path) -> io::Result<Option<u32>> {
    call("realpath");
    let folder = fs::canonicalize(folder_of(path))?;
    call("stat");
    let own = fs::metadata(&folder)?;
    if own.mode() & OTHERS_WRITE != 0 {
        return Ok(None);
    }
    for above in folder.ancestors().skip(1) {
        let above = fs::metadata(above)?;
        if above.uid() != 0 || above.mode() & OTHERS_WRITE != 0 {
            return Ok(None);
        }
    }
    Ok(Some(own.uid()))
}

/// Returns the folder of a file.
pub(super) fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::PermissionsExt as _, net::UnixStream};

    use super::*;

    #[test]
    fn the_own_user_is_at_both_ends_of_a_pair_and_may_ask() {
        let (one, other) = UnixStream::pair().unwrap();
        for end in [one, other] {
            let user = user_of(&end).unwrap();
            assert_eq!(user, own_user());
            assert!(may_ask(user) && is_trusted(user, Path::new("/nowhere/agent.sock")));
        }
    }

    #[test]
    fn strangers_may_not_ask_and_are_not_believed() {
        assert!(!may_ask(4711));
        for path in ["/run/agent.sock", "/tmp/agent.sock", "/nowhere/agent.sock", "agent.sock"] {
            assert!(!is_trusted(4711, Path::new(path)), "{path}");
        }
        assert!(may_ask(0) && is_trusted(0, Path::new("/tmp/agent.sock")));
    }

    #[test]
    fn the_owner_of_a_folder_is_believed_only_where_root_has_placed_it() {
        if own_user() != 0 {
            return;
        }
        let name = format!("closewait-peer-{}", std::process::id());
        // Any user can create a folder below /tmp; only root below /run.
        for (above, is) in [("/tmp", false), ("/run", true)] {
            let folder = Path::new(above).join(&name);
            fs::create_dir(&folder).unwrap();
            std::os::unix::fs::chown(&folder, Some(4711), None).unwrap();
            let mut believed = Vec::new();
            for mode in [0o700, 0o755, 0o775, 0o777] {
                fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
                believed.push(is_trusted(4711, &folder.join("agent.sock")));
            }
            assert!(!is_trusted(4712, &folder.join("agent.sock")), "another user");
            fs::remove_dir(&folder).unwrap();
            assert_eq!(believed, [is, is, false, false], "{above}");
        }
    }
}
