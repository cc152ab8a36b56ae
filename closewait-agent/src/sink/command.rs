//! Suggested commands of closewait itself, for the agent that gave the answer.

use std::{borrow::Cow, path::Path};

use closewait_engine::text::harmless_path;

/// Commands of closewait that ask no agent, and have no flag `--socket`.
const WITHOUT_AGENT: [&str; 4] = ["closewait doctor", "closewait explain", "closewait replay", "closewait stacks"];

/// Returns a command with the flag `--socket` if it is one of closewait that asks an agent and the user has given `socket`. The command
/// then asks the same agent.
pub(crate) fn with_socket<'c>(command: &'c str, socket: Option<&Path>) -> Cow<'c, str> {
    with_options(command, &flag(socket))
}

/// Returns a command with options that name an agent, with a blank before each, if it is one of closewait that asks an agent.
pub(crate) fn with_options<'c>(command: &'c str, options: &str) -> Cow<'c, str> {
    let asks_agent = command.starts_with("closewait ")
        && !command.contains(" --socket ")
        && !WITHOUT_AGENT.iter().any(|without| command.starts_with(without));
    if asks_agent && !options.is_empty() { Cow::Owned(format!("{command}{options}")) } else { Cow::Borrowed(command) }
}

/// Returns ` --socket PATH`, quoted for a shell; empty without a path.
pub(crate) fn flag(socket: Option<&Path>) -> String {
    let Some(socket) = socket else { return String::new() };
    let path = harmless_path(socket.as_os_str().as_encoded_bytes());
    let is_plain = |character: char| character.is_ascii_alphanumeric() || "/._-+:@%,".contains(character);
    if !path.is_empty() && path.chars().all(is_plain) {
        format!(" --socket {path}")
    } else {
        format!(" --socket '{}'", path.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_commands_of_closewait_get_the_socket_once() {
        let with = |command: &str, path: &str| with_socket(command, Some(Path::new(path))).into_owned();
        assert_eq!(with("closewait list --port 80", "/tmp/a.sock"), "closewait list --port 80 --socket /tmp/a.sock");
        assert_eq!(with("closewait list", "it's here"), r"closewait list --socket 'it'\''s here'");
        assert_eq!(with("jcmd 7 Thread.print", "/tmp/a.sock"), "jcmd 7 Thread.print");
        assert_eq!(with("closewait doctor", "/tmp/a.sock"), "closewait doctor");
        assert_eq!(with(&with("closewait list", "/a"), "/a"), "closewait list --socket /a");
        assert_eq!(with_socket("closewait list", None), "closewait list");
        assert_eq!(with_options("closewait list", " --alone"), "closewait list --alone");
        assert_eq!(with_options("closewait stacks 7", " --alone"), "closewait stacks 7");
        assert!(!with("closewait list", "/a\x1b[2J").contains('\x1b'));
    }
}
