//! Options of `closewait completions`.

use clap::{Args, ValueEnum};

/// `closewait completions`.
#[derive(Clone, Debug, Args)]
#[command(after_help = INSTALLATION)]
pub struct CompletionsArgs {
    /// Shell that reads the script
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: ShellArg,
}

/// `SHELL` of `closewait completions`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ShellArg {
    /// Bash 4 or newer.
    Bash,
    /// Zsh.
    Zsh,
    /// Fish.
    Fish,
}

const INSTALLATION: &str = "\
For all users, as root; bash needs the package bash-completion:

    closewait completions bash >/etc/bash_completion.d/closewait
    closewait completions zsh >/usr/local/share/zsh/site-functions/_closewait
    closewait completions fish >/etc/fish/completions/closewait.fish

For one shell, or in ~/.bashrc, in ~/.zshrc behind compinit, and in ~/.config/fish/config.fish:

    source <(closewait completions bash)
    source <(closewait completions zsh)
    closewait completions fish | source";
