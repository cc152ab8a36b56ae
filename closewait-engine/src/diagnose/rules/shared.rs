//! A socket that several processes of one program have.

use crate::diagnose::{About, Judgement, Rule, text};
use crate::{
    diagnose::Case,
    model::{Certainty, Class},
};

/// As long as one of them has it, the FIN does not go out (`__fput` calls `sock_close`; fs/file_table.c, net/socket.c at
/// v5.10). Which of them should close it, the kernel does not tell.
pub(super) struct Shared;

impl Rule for Shared {
    fn about(&self) -> &'static About {
        &About {
            name: "shared",
            when: "a server accepted it, and two or more processes have it; none of the rules above speaks",
            class: &[Class::Inherited],
            certainty: &[(Certainty::Low, "that it is shared is a fact; that this is what keeps it is a guess")],
            says: "a fork has copied the descriptor, and one of the copies was not closed",
            next: "close the copy in the process that does not serve the connection",
            not: &[
                "workers that hang with their sockets: the rules for hung servers come first",
                "programs that share on purpose, as while one hands its connections to the next: only their number tells",
            ],
            seen: &["cherrypy/cherrypy#856", "jgehrcke/gipc#22", "splitio/ruby-client#199"],
        }
    }

    fn check(&self, case: &Case<'_>) -> Option<Judgement> {
        let tasks = text::tasks(case);
        if super::is_handed_over(case)? || !case.is_server() || tasks.len() < 2 {
            return None;
        }
        let (count, who) = (tasks.len(), text::names(&tasks)?);
        Some(Judgement {
            class: Class::Inherited,
            certainty: Certainty::Low,
            text: format!(
                "{count} processes have it, {age} after the peer closed: {who}. Its FIN goes out when the last copy is \
                 closed",
                age = text::age(case)
            ),
            next:
                "see which of them serves it; the others have to close their copy after fork(), as a parent that has \
                   handed a connection to its child"
                    .to_owned(),
        })
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
    fn one_that_a_fork_has_copied_is_said_to_be_shared() {
        let verdict = held_by(Scene::server(), &[(7, 9), (8, 9)]).ask(&Shared).unwrap();
        assert_eq!((verdict.class, verdict.certainty), (Class::Inherited, Certainty::Low));
        assert!(verdict.text.contains("2 processes") && verdict.text.contains("api[8]"), "{}", verdict.text);
    }

    #[test]
    fn one_holder_with_two_descriptors_shares_with_nobody() {
        assert_eq!(held_by(Scene::server(), &[(7, 3), (7, 4)]).ask(&Shared), None);
        assert_eq!(held_by(Scene::client(), &[(7, 9), (8, 9)]).ask(&Shared), None);
    }
}
