//! File systems behind a mount, determined by names alone: nothing here opens a path that could hang.

use std::io;

use super::super::mountinfo::{Mount, mounts, unescape};

/// File systems with a server: another machine or a program. The agent opens no file there: if the server is gone, a
/// thread that has opened one on FUSE or 9p can wait in a way that no signal ends (`request_wait_answer` in
/// fs/fuse/dev.c and `p9_client_rpc` in net/9p/client.c, v5.10).
pub(super) const SERVED: [&str; 22] = [
    "9p",
    "afs",
    "autofs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "fuse",
    "fuseblk",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "pvfs2",
    "smb3",
    "vboxsf",
    "virtiofs",
    "vmhgfs",
];
/// File systems on disks and in memory of this machine. Any other type of a layer counts as one with a server.
const LOCAL: [&str; 22] = [
    "bcachefs", "btrfs", "cramfs", "devtmpfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfsplus", "iso9660",
    "jfs", "nilfs2", "ntfs3", "ramfs", "rootfs", "squashfs", "tmpfs", "udf", "vfat", "xfs",
];
/// Maximum number of layers below layers. The kernel stacks two (`FILESYSTEM_MAX_STACK_DEPTH`); a loop device adds
/// one.
const MAX_DEPTH: u32 = 6;
/// Major number of loop devices.
const LOOP_MAJOR: &[u8] = b"7:";

/// Whether a file system of this type has a server that may not answer. Types of FUSE have a suffix: `fuse.sshfs`.
fn is_served(kind: &str) -> bool {
    let stem = kind.split_once('.').map_or(kind, |(stem, _name)| stem);
    SERVED.contains(&stem)
}

fn is_local(kind: &str) -> bool {
    LOCAL.contains(&kind) || kind == "zfs"
}

/// File system behind a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// A file system without a server.
    Local,
    /// A file system of this type that has a server, or may have one.
    Served(String),
}

/// Mark of a mount in a list.
#[derive(Clone, Copy, Debug)]
pub(super) enum MountMark<'b> {
    /// Number of the mount.
    Id(&'b [u8]),
    /// `MAJOR:MINOR` of the device.
    Device(&'b [u8]),
}

/// Mounts of a process, by name.
pub struct Mounts<'a> {
    all: Vec<Mount<'a>>,
}

impl<'a> Mounts<'a> {
    /// Parses the text of `mountinfo`.
    pub fn parse(mountinfo: &'a [u8]) -> Self {
        Self { all: mounts(mountinfo).collect() }
    }

    /// Returns the file system behind the mount with this mark; `None` if there is no such mount. Also searches layers
    /// of overlayfs and ecryptfs in `others`, the `mountinfo` of the process that most likely mounted them:
    /// the path of a layer is a path of that process. Reads it only for a mount that has layers. `backing` returns
    /// the file behind a loop device.
    ///
    /// # Errors
    ///
    /// If `others` cannot be read.
    pub(super) fn behind(
        &self,
        mark: MountMark<'_>,
        others: impl FnOnce() -> io::Result<Vec<u8>>,
        backing: &dyn Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> io::Result<Option<Behind>> {
        let found = match mark {
            MountMark::Id(id) => self.with_id(id),
            MountMark::Device(device) => self.all.iter().find(|mount| mount.device == device),
        };
        let Some(mount) = found else { return Ok(None) };
        // Pages of mapped files are on file systems of known types only, and never on nodes of devices.
        let depth = match mark {
            MountMark::Device(_) if mount.kind == b"devtmpfs" => {
                return Ok(Some(Behind::Served("devtmpfs".to_owned())));
            }
            MountMark::Device(_) => 1,
            MountMark::Id(_) => 0,
        };
        let has_layers = layers(mount, backing).is_some();
        // A finding in these mounts is certain; a path of another mount namespace can lead anywhere here, or nowhere.
        match self.below(mount, backing, depth) {
            Found::Served(kind) => return Ok(Some(Behind::Served(kind))),
            Found::Unknown(kind) if !has_layers => return Ok(Some(Behind::Served(kind))),
            Found::Local | Found::Unknown(_) if has_layers => {}
            Found::Local | Found::Unknown(_) => return Ok(Some(Behind::Local)),
        }
        Ok(Some(match Mounts::parse(&others()?).below(mount, backing, 0) {
            Found::Served(kind) | Found::Unknown(kind) => Behind::Served(kind),
            Found::Local => Behind::Local,
        }))
    }

    /// Returns the type of a file system with a server that is behind the mount with this number; `None` if none is
    /// known.
    pub fn served(&self, id: &[u8]) -> Option<String> {
        match self.below(self.with_id(id)?, &|_| None, 0) {
            Found::Served(kind) => Some(kind),
            Found::Local | Found::Unknown(_) => None,
        }
    }

    fn with_id(&self, id: &[u8]) -> Option<&Mount<'a>> {
        self.all.iter().find(|mount| mount.id == id)
    }

    fn below(&self, mount: &Mount<'_>, backing: &dyn Fn(&[u8]) -> Option<Vec<u8>>, depth: u32) -> Found {
        let kind = closewait_engine::text::harmless(mount.kind);
        if is_served(&kind) {
            return Found::Served(kind);
        }
        if depth > MAX_DEPTH {
            return Found::Unknown(kind);
        }
        // Reads go through a daemon that fetches missing data (fs/erofs/fscache.c, v6.1).
        if kind == "erofs" && option(mount, b"fsid").next().is_some() {
            return Found::Served(kind);
        }
        let Some(layers) = layers(mount, backing) else {
            // A mount that the file itself is on needs no entry in a list: /proc and others are local too.
            return if depth == 0 || is_local(&kind) { Found::Local } else { Found::Unknown(kind) };
        };
        let unknown = || Found::Unknown(format!("{kind}, on an unknown file system"));
        if layers.is_empty() {
            return unknown();
        }
        let absolute = layers.iter().find(|path| path.starts_with(b"/")).and_then(|path| self.holding(path));
        let mut found = Found::Local;
        for layer in &layers {
            let on = if layer.starts_with(b"/") { self.holding(layer) } else { self.ending_with(layer).or(absolute) };
            match on.map(|on| self.below(on, backing, depth + 1)) {
                Some(Found::Local) => {}
                Some(Found::Served(below)) => return Found::Served(below),
                Some(Found::Unknown(_)) | None => found = unknown(),
            }
        }
        found
    }

    /// Returns the mount of a path, by its name: the last one of those with the longest mount point.
    fn holding(&self, path: &[u8]) -> Option<&Mount<'a>> {
        let holds = |point: &[u8]| {
            path.strip_prefix(point).is_some_and(|rest| point == b"/" || rest.is_empty() || rest.starts_with(b"/"))
        };
        let points = self.all.iter().map(|mount| (mount, unescape(mount.point)));
        let (mount, _point) = points.filter(|(_, point)| holds(point)).max_by_key(|(_, point)| point.len())?;
        Some(mount)
    }

    /// Returns the mount whose mount point ends with a path that is relative to an unknown folder.
    fn ending_with(&self, path: &[u8]) -> Option<&Mount<'a>> {
        let ends = |point: &[u8]| point.strip_suffix(path).is_some_and(|rest| rest.ends_with(b"/"));
        self.all.iter().rev().find(|mount| ends(&unescape(mount.point)))
    }
}

/// Findings about the layers below a mount, by their names.
enum Found {
    Local,
    Served(String),
    /// The names are inconclusive.
    Unknown(String),
}

/// Returns the known paths of the layers of a mount; `None` for a file system that has none.
fn layers(mount: &Mount<'_>, backing: &dyn Fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<Vec<u8>>> {
    let source = unescape(mount.source);
    match mount.kind {
        b"overlay" => Some(overlay_layers(mount)),
        b"ecryptfs" => Some(vec![source]),
        // The source is a file, and no device.
        b"erofs" if source.starts_with(b"/") && !source.starts_with(b"/dev/") => Some(vec![source]),
        _ if mount.device.starts_with(LOOP_MAJOR) => Some(backing(mount.device).into_iter().collect()),
        _ => None,
    }
}

/// Returns the paths of the layers of an overlayfs (`ovl_show_options` in fs/overlayfs, v5.10 and v6.18).
fn overlay_layers(mount: &Mount<'_>) -> Vec<Vec<u8>> {
    let lower = option(mount, b"lowerdir").flat_map(|list| split_layers(&list));
    let each = [b"lowerdir+".as_slice(), b"datadir+", b"upperdir"];
    lower.chain(each.into_iter().flat_map(|name| option(mount, name))).collect()
}

/// Returns the values of an option of the file system, unescaped.
fn option<'b>(mount: &'b Mount<'_>, name: &'b [u8]) -> impl Iterator<Item = Vec<u8>> + 'b {
    mount.options().filter_map(move |option| option.strip_prefix(name)?.strip_prefix(b"=").map(unescape))
}

/// Splits `a:b::c`; a colon in a name has a backslash before it.
fn split_layers(list: &[u8]) -> Vec<Vec<u8>> {
    let (mut layers, mut layer, mut bytes) = (Vec::new(), Vec::new(), list.iter().copied());
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' => layer.extend(bytes.next()),
            b':' => layers.push(std::mem::take(&mut layer)),
            _ => layer.push(byte),
        }
    }
    layers.push(layer);
    layers.retain(|layer| !layer.is_empty());
    layers
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOST: &str = "\
22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
23 22 0:30 / /run rw shared:5 - tmpfs tmpfs rw\n\
24 22 0:31 / /images rw - fuse.stargz stargz rw\n\
25 22 0:32 / /data rw - xfs /dev/sdb rw\n\
26 22 0:33 / /odd rw - oddfs none rw\n\
27 22 0:34 / /snap/7/fs rw - fuse.rawBridge stargz rw\n\
28 22 0:35 / /stacked rw - overlay overlay rw,lowerdir=/images/x,upperdir=/data/u,workdir=/data/w\n";

    fn behind(line: &str) -> Behind {
        let own = format!("{line}\n");
        let backing = |device: &[u8]| match device {
            b"7:1" => Some(b"/data/disk".to_vec()),
            b"7:2" => Some(b"/images/disk".to_vec()),
            _ => None,
        };
        Mounts::parse(own.as_bytes()).behind(MountMark::Id(b"99"), || Ok(HOST.into()), &backing).unwrap().unwrap()
    }

    fn overlay(options: &str) -> Behind {
        behind(&format!("99 1 0:50 / / rw - overlay overlay rw,{options}"))
    }

    #[test]
    fn an_overlay_over_local_disks_is_local() {
        for options in [
            "lowerdir=/var/lib/docker/l/A:/var/lib/docker/l/B,upperdir=/var/lib/docker/u,workdir=/var/lib/docker/w",
            "lowerdir=/data/a::/run/b",
            "lowerdir+=/data/a,lowerdir+=/b,datadir+=/c",
            "lowerdir=12/fs:11/fs,upperdir=/var/lib/containerd/13/fs,workdir=/var/lib/containerd/13/work",
            "lowerdir=/imagesx,upperdir=/data/u",
        ] {
            assert_eq!(overlay(options), Behind::Local, "{options}");
        }
    }

    #[test]
    fn an_overlay_with_a_layer_that_has_a_server_is_served() {
        for options in [
            "lowerdir=/images/x,upperdir=/run/u,workdir=/run/w",
            "lowerdir=/data/a:/images,upperdir=/run/u",
            "lowerdir+=/data/a,datadir+=/images/b",
            "lowerdir=/data/a,upperdir=/images/u",
            "lowerdir=7/fs:6/fs,upperdir=/snap/9/fs",
            "lowerdir=/stacked/a",
            "lowerdir=/da\\134:ta:/images/x",
        ] {
            assert!(matches!(overlay(options), Behind::Served(kind) if kind.starts_with("fuse.")), "{options}");
        }
    }

    #[test]
    fn an_overlay_of_what_is_not_known_is_taken_for_served() {
        for options in ["lowerdir=/odd/x", "lowerdir=l/A:l/B,upperdir=x/diff", "index=off"] {
            assert_eq!(overlay(options), Behind::Served("overlay, on an unknown file system".to_owned()), "{options}");
        }
        // An overlay whose only mount is itself.
        let own = b"99 1 0:50 / / rw - overlay overlay rw,lowerdir=/a".as_slice();
        let found = Mounts::parse(own).behind(MountMark::Id(b"99"), || Ok(own.into()), &|_| None).unwrap();
        assert!(matches!(found, Some(Behind::Served(_))));
    }

    #[test]
    fn what_is_below_ecryptfs_erofs_and_loop_devices_counts() {
        let served = |line: &str| matches!(behind(line), Behind::Served(_));
        assert!(
            served("99 1 0:50 / /e rw - ecryptfs /images/x rw") && !served("99 1 0:50 / /e rw - ecryptfs /data/x rw")
        );
        assert!(served("99 1 7:2 / /l rw - ext4 /dev/loop2 rw") && !served("99 1 7:1 / /l rw - ext4 /dev/loop1 rw"));
        assert!(served("99 1 0:50 / /i ro - erofs none ro,fsid=x") && !served("99 1 8:3 / /i ro - erofs /dev/sda3 ro"));
        assert!(served("99 1 0:50 / /i ro - erofs /images/i ro") && !served("99 1 0:50 / /i ro - erofs /data/i ro"));
    }

    #[test]
    fn a_file_on_anything_else_is_local_or_served_by_its_type() {
        assert_eq!(behind("99 1 0:5 / /proc rw - proc proc rw"), Behind::Local);
        assert_eq!(behind("99 1 0:5 / /n rw - nfs4 host:/ rw"), Behind::Served("nfs4".to_owned()));
        let cut = Mounts::parse(b"99 1 0:5 / /n rw -").behind(MountMark::Id(b"99"), || Ok(Vec::new()), &|_| None);
        assert!(cut.unwrap().is_none());
    }

    #[test]
    fn other_mounts_are_read_only_for_one_that_has_layers() {
        let asked = |line: &str| {
            let others = || Err(io::Error::other("asked"));
            Mounts::parse(line.as_bytes()).behind(MountMark::Id(b"99"), others, &|_| None).is_err()
        };
        assert!(!asked("99 1 8:1 / / rw - ext4 /dev/sda1 rw") && !asked("99 1 0:5 / /n rw - nfs4 host:/ rw"));
        assert!(
            asked("99 1 0:50 / / rw - overlay overlay rw,lowerdir=/a")
                && asked("99 1 7:1 / /l rw - ext4 /dev/loop1 rw")
        );
    }

    #[test]
    fn file_systems_with_a_server_are_known_by_their_type() {
        for kind in ["fuse", "fuse.sshfs", "fuseblk", "nfs", "nfs4", "cifs", "9p", "virtiofs"] {
            assert!(is_served(kind), "{kind}");
        }
        for kind in ["ext4", "xfs", "btrfs", "overlay", "tmpfs", "squashfs", "zfs", "fusectl"] {
            assert!(!is_served(kind), "{kind}");
        }
    }

    proptest! {
        #[test]
        fn any_list_of_mounts_is_survived(text: Vec<u8>) {
            for text in [text.clone(), [b"1 0 7:0 / / rw - overlay x lowerdir=", text.as_slice()].concat()] {
                drop(Mounts::parse(&text).behind(MountMark::Id(b"1"), || Ok(text.clone()), &|_| Some(b"/x".to_vec())));
            }
        }
    }
}
