use std::os::unix::fs::MetadataExt as _;

use proptest::prelude::*;

use super::{super::testing::Fixture, *};

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn folder(fixture: &Fixture, path: &str) -> u64 {
    let path = fixture.path().join(path);
    fs::create_dir_all(&path).unwrap();
    inode(&path)
}

fn one(cgroups: &mut Cgroups, id: u64) -> Lookup {
    let mut found = Vec::new();
    cgroups.look_up(&[id], &mut Patience::default(), |of, lookup| found.push((of, lookup)));
    assert_eq!(found.len(), 1, "{found:?}");
    let (of, lookup) = found.remove(0);
    assert_eq!(of, id);
    lookup
}

/// Cgroups whose folders are scanned, as where files cannot be opened by handles.
fn scanned(fixture: &Fixture) -> Cgroups {
    let mut cgroups = Cgroups::at(fixture.path()).unwrap();
    cgroups.scan = Some(Arc::new(Mutex::new(FolderScan::of(fixture.path().to_owned()))));
    cgroups
}

#[test]
fn finds_the_mount_in_both_kinds_of_hosts() {
    let unified = b"31 23 0:28 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
    assert_eq!(mount(unified), Some("/sys/fs/cgroup".into()));
    let hybrid = b"31 23 0:28 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                   32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                   41 31 0:38 / /sys/fs/cgroup/a\\040b rw - cgroup2 cgroup2 rw\n";
    assert_eq!(mount(hybrid), Some("/sys/fs/cgroup/a b".into()));
    let part = b"1 2 0:3 /pod /part rw - cgroup2 c rw\n4 5 0:3 / /whole rw - cgroup2 c rw\n";
    assert_eq!(mount(part), Some("/whole".into()));
    assert_eq!(mount(b"1 2 0:3 / /x rw - tmpfs cgroup2 rw\n"), None);
}

#[test]
fn where_handles_are_of_no_use_folders_are_walked() {
    let fixture = Fixture::new("cgroups");
    let id = folder(&fixture, "system.slice/a.service");
    let mut cgroups = scanned(&fixture);
    assert_eq!(one(&mut cgroups, id), Lookup::Path(b"/system.slice/a.service".to_vec()));
    assert_eq!(one(&mut cgroups, inode(fixture.path())), Lookup::Path(b"/".to_vec()));
}

#[test]
fn a_new_folder_is_found_and_one_that_is_gone_stays_known() {
    let fixture = Fixture::new("cgroups");
    let gone = folder(&fixture, "gone");
    let mut cgroups = scanned(&fixture);
    assert_eq!(one(&mut cgroups, gone), Lookup::Path(b"/gone".to_vec()));
    let new = folder(&fixture, "new");
    fs::remove_dir(fixture.path().join("gone")).unwrap();
    assert_eq!(one(&mut cgroups, new), Lookup::Path(b"/new".to_vec()));
    assert_eq!(one(&mut cgroups, gone), Lookup::Path(b"/gone".to_vec()));
    assert_eq!(one(&mut cgroups, u64::MAX), Lookup::Gone);
}

#[test]
fn a_scan_on_another_thread_is_not_waited_for() {
    let fixture = Fixture::new("cgroups");
    let mut cgroups = scanned(&fixture);
    let scan = cgroups.scan.clone().unwrap();
    let held = scan.lock().unwrap();
    assert!(matches!(one(&mut cgroups, 1), Lookup::Unknown(_)));
    drop(held);
    assert_eq!(one(&mut cgroups, u64::MAX), Lookup::Gone);
}

#[test]
fn a_folder_that_is_no_mount_is_reported() {
    let fixture = Fixture::new("cgroups");
    assert!(matches!(Cgroups::at(fixture.path().join("none")), Err(CgroupError::Open { .. })));
}

#[test]
fn cgroups_of_this_machine_have_their_inode_as_id() {
    match Cgroups::find() {
        Ok(mut cgroups) => {
            let root = inode(cgroups.mount());
            assert_eq!(one(&mut cgroups, root), Lookup::Path(b"/".to_vec()));
            for entry in fs::read_dir(cgroups.mount()).unwrap().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    let name = entry.file_name();
                    match one(&mut cgroups, inode(&entry.path())) {
                        Lookup::Path(path) => assert_eq!(path[1..], *name.as_encoded_bytes()),
                        // Another process may remove one right now.
                        Lookup::Gone => assert!(!entry.path().exists()),
                        Lookup::Unknown(why) => panic!("{why}"),
                    }
                }
            }
            assert_eq!(one(&mut cgroups, u64::MAX), Lookup::Gone);
        }
        // Only a host without cgroup v2 has this error.
        Err(error) => assert!(matches!(error, CgroupError::NotMounted), "{error}"),
    }
}

#[test]
fn the_mount_with_the_largest_part_of_the_hierarchy_is_used() {
    let line = |root: &str, point: &str| format!("41 31 0:38 {root} {point} ro,relatime - cgroup2 cgroup rw\n");
    let found = |lines: &[String]| mount(lines.concat().as_bytes());
    let (own, host) = (line("/", "/sys/fs/cgroup"), line("/../../..", "/host/sys/fs/cgroup"));
    assert_eq!(found(&[own.clone(), host]).unwrap(), Path::new("/host/sys/fs/cgroup"), "a pod with the node's folder");
    let service = line("/system.slice/a.service", "/a");
    assert_eq!(found(&[service.clone(), own]).unwrap(), Path::new("/sys/fs/cgroup"));
    assert_eq!(found(&[service]).unwrap(), Path::new("/a"), "better than none");
    assert_eq!(found(&[line("/", "/b"), line("/", "/c")]).unwrap(), Path::new("/b"));
    assert_eq!(found(&["41 31 0:38 / /d ro - cgroup cgroup rw,pids\n".to_owned()]), None);
}

proptest! {
    #[test]
    fn any_list_of_mounts_is_survived(text: Vec<u8>) {
        drop(mount(&text));
        drop(mount(&[b"1 2 0:3 / ", text.as_slice(), b" - cgroup2 c rw"].concat()));
    }
}
