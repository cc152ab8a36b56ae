//! Sockets with descriptors in several processes.

use crate::diagnose::{About, Explanation, Judgement, Rule, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class},
};

/// Detects a server's socket with descriptors in several processes. The kernel sends the FIN when the last one is closed (`__fput`
/// calls `sock_close`; fs/file_table.c, net/socket.c at v5.10), and does not know which process should close it.
pub(super) struct Shared;

impl Rule for Shared {
    fn about(&self) -> &'static About {
        &About {
            name: "shared",
            when: "the socket is a server's; two or more processes have a descriptor of it, and one of them listens, if the \
                   listener is known; no rule above applies",
            class: &[Class::Inherited],
            certainty: &[(
                Certainty::Low,
                "it is a fact that several processes have the socket, but a guess that this keeps it open",
            )],
            says: "a fork has copied the descriptor, and one of the copies was not closed",
            next: "close the copy in the process that does not serve the connection",
            not: &[
                "workers that hang with their sockets: the rules for hung servers come first",
                "processes of which none listens: they may serve the connection together, as those of sshd",
                "a server and the CGI program that has the connection as one of its descriptors 0 to 3",
                "programs that share sockets intentionally, as while one passes its connections to its successor: only a growing \
                 number shows a leak",
            ],
            seen: &["cherrypy/cherrypy#856", "jgehrcke/gipc#22", "splitio/ruby-client#199"],
        }
    }

    fn check<'c>(&self, case: &'c Case<'_>) -> Option<Judgement<'c>> {
        let tasks = text::tasks(case);
        if super::is_passed_on(case)? || !case.is_server() || tasks.len() < 2 {
            return None;
        }
        // Two processes that serve one connection together (sshd) have it from a third, which listens.
        if case.listener.is_some() && !tasks.iter().any(|task| case.listens(task.pid)) {
            return None;
        }
        let (count, who) = (tasks.len(), text::OwnerNames::new(&tasks)?);
        Some(Judgement::new(Class::Inherited, Certainty::Low, move || {
            Explanation {
                text: format!(
                    "{count} processes have it, {age} after the peer closed: {who}. The kernel sends the FIN when the last copy \
                     is closed",
                    age = text::age(case)
                ),
                next: "see which of them serves it; the others have to close their copies after fork(), as a parent has to for \
                       a connection that its child serves"
                    .into(),
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnose::testing::{Scene, owned_by};

    fn held_by(scene: Scene, descriptors: &[(u32, u32)]) -> Scene {
        let owners = descriptors.iter().map(|(pid, fd)| owned_by(*pid, "api", *fd)).collect();
        Scene { owners: Some(owners), ..scene.aged(300) }
    }

    #[test]
    fn a_socket_that_a_fork_has_copied_is_shared() {
        let verdict = held_by(Scene::server(), &[(7, 9), (8, 9)]).check(&Shared).unwrap();
        assert_eq!((verdict.class, verdict.certainty), (Class::Inherited, Certainty::Low));
        let listened_by =
            |pid| held_by(Scene::server(), &[(7, 9), (8, 9)]).listened_by(&[owned_by(pid, "api", 3)]).check(&Shared);
        assert!(listened_by(7).is_some());
        assert_eq!(listened_by(6), None, "they have it from a third process");
        assert!(verdict.text.contains("2 processes") && verdict.text.contains("api[8]"), "{}", verdict.text);
    }

    #[test]
    fn two_descriptors_of_one_owner_are_not_shared() {
        assert_eq!(held_by(Scene::server(), &[(7, 3), (7, 4)]).check(&Shared), None);
        assert_eq!(held_by(Scene::client(), &[(7, 9), (8, 9)]).check(&Shared), None);
        assert_eq!(held_by(Scene::server(), &[(7, 9), (8, 1)]).check(&Shared), None, "a CGI program");
    }
}
