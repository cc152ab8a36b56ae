//! systemd-journald with empty folders, beside the journal of the host.

/// Program of Debian's package systemd.
pub const JOURNALD: &str = "/usr/lib/systemd/systemd-journald";
/// Program that reads a journal.
pub const JOURNALCTL: &str = "/usr/bin/journalctl";
/// Socket of the native protocol.
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// Script for a shell in a new mount namespace, with the path of a catalog and of systemd-journald as its arguments: gives the journal
/// empty folders, compiles the catalog, and becomes systemd-journald.
pub const SCRIPT: &str = "
    set -e
    mount -t tmpfs none /run
    for folder in /var/log/journal /var/lib/systemd/catalog; do
        [ ! -d $folder ] || mount -t tmpfs none $folder
    done
    mount -t tmpfs none /usr/lib/systemd/catalog
    mkdir -p /run/systemd/journal /run/log/journal
    cp \"$1\" /usr/lib/systemd/catalog
    journalctl --update-catalog
    exec \"$2\"";
