//! User as which a thread of this process asks a Java virtual machine.
//!
//! A JVM answers root only since JDK 11, and not at all if root of this host is no user of its user namespace. As its own user, and
//! without capabilities, the thread has no more rights in its `/tmp` than the process itself has.

use std::io;

use ::caps::{CapSet, CapsHashSet};

use rustix::{
    process::{DumpableBehavior, Gid, Uid, dumpable_behavior, getegid, geteuid, set_dumpable_behavior},
    thread::{set_thread_res_gid, set_thread_res_uid},
};

/// Other user of this thread, until it is dropped.
pub(super) struct OtherIdentity {
    user: Uid,
    group: Gid,
    dumpable: DumpableBehavior,
    /// Effective capabilities.
    effective: CapsHashSet,
}

impl OtherIdentity {
    /// Makes this thread, and no other, one of another user; `None` if it is that user already.
    pub(super) fn of(user: u32, group: u32) -> io::Result<Option<Self>> {
        if geteuid().as_raw() == user {
            return Ok(None);
        }
        let effective = ::caps::read(None, CapSet::Effective).map_err(io::Error::other)?;
        let own = Self { user: geteuid(), group: getegid(), dumpable: dumpable_behavior()?, effective };
        // The C library would change all threads.
        set_thread_res_gid(None::<Gid>, Gid::from_raw(group), None::<Gid>)?;
        // If this fails, the end of `own` gives the group back.
        set_thread_res_uid(None::<Uid>, Uid::from_raw(user), None::<Uid>)?;
        // The kernel does this for root only (`cap_emulate_setxuid`, security/commoncap.c at v5.10).
        ::caps::clear(None, CapSet::Effective).map_err(io::Error::other)?;
        Ok(Some(own))
    }
}

impl Drop for OtherIdentity {
    fn drop(&mut self) {
        // The real and the saved user have stayed, and so have the permitted capabilities: none of this fails. If it did, the thread
        // would have fewer rights, not more.
        let _capabilities = ::caps::set(None, CapSet::Effective, &self.effective);
        let _user = set_thread_res_uid(None::<Uid>, self.user, None::<Uid>);
        let _group = set_thread_res_gid(None::<Gid>, self.group, None::<Gid>);
        // The kernel takes it from the whole process (`commit_creds`, kernel/cred.c at v5.10).
        let _dumpable = set_dumpable_behavior(self.dumpable);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    fn users() -> String {
        let status = fs::read_to_string("/proc/thread-self/status").unwrap();
        status.lines().filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:")).collect()
    }

    #[test]
    fn a_thread_is_another_user_for_a_while_and_its_siblings_are_not() {
        if geteuid().as_raw() != 0 {
            return;
        }
        let before = users();
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let other = OtherIdentity::of(4711, 4712).unwrap().expect("another user");
                let meanwhile = (users(), ::caps::read(None, CapSet::Effective).unwrap());
                drop(other);
                (meanwhile, (users(), ::caps::read(None, CapSet::Effective).unwrap()))
            });
            let ((meanwhile, without), (after, with)) = worker.join().unwrap();
            assert!(
                without.is_empty() && with == ::caps::read(None, CapSet::Effective).unwrap(),
                "{without:?} {with:?}"
            );
            assert!(meanwhile.contains("Uid:\t0\t4711\t0\t4711"), "{meanwhile}");
            assert!(meanwhile.contains("Gid:\t0\t4712\t0\t4712"), "{meanwhile}");
            assert_eq!(after, before);
        });
        assert_eq!(users(), before);
        assert!(OtherIdentity::of(0, 0).unwrap().is_none());
    }
}
