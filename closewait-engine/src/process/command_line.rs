//! Telling word of a command line: the program that an interpreter or a virtual machine runs.
//!
//! Arguments can be passwords and tokens, so the result is never an argument of the program itself. Each launcher's options are
//! known well enough to find the place of the program. If an unknown option may have taken the next word as its value, only a
//! word with the suffix of a program file counts.

use crate::text::harmless;

/// Maximum length of the word, bytes. A longer one tells a reader nothing.
const MAX_WORD: usize = 64;
/// Suffixes of files that launchers run.
const SUFFIXES: [&str; 15] =
    [".py", ".pyc", ".pyz", ".js", ".mjs", ".cjs", ".ts", ".mts", ".tsx", ".rb", ".ru", ".pl", ".php", ".sh", ".jar"];
/// Servers whose first argument of the form `module:application` names the application.
const APPLICATION_SERVERS: [&str; 5] = ["gunicorn", "uvicorn", "hypercorn", "daphne", "granian"];

/// Program that runs another one, which its command line names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Launcher {
    Python,
    Node,
    Deno,
    Bun,
    Ruby,
    Perl,
    Php,
    Java,
    DotNet,
    Shell,
}

/// Whether the command line of a program at this path can have a telling word.
pub fn can_have_script(exe: &str) -> bool {
    launcher(exe).is_some()
}

/// Returns the telling word of a command line, harmless: the base name of a script or a JAR file, the module after `-m`, the last
/// part of a main class, or `module:application` of a Python application server. `None` if there is none. `exe` is the path of
/// the program file, and `command_line` the content of `/proc/PID/cmdline`: words, each with a zero behind it
/// (`get_mm_cmdline`, fs/proc/base.c at v5.10).
pub fn script(exe: &str, command_line: &[u8]) -> Option<String> {
    let launcher = launcher(exe)?;
    let text = command_line.strip_suffix(b"\0").unwrap_or(command_line);
    let words: Vec<&[u8]> = text.split(|byte| *byte == 0).collect();
    let (first, rest) = words.split_first()?;
    let mut words = Words { rest, in_doubt: false };
    let found = match launcher {
        // A program can replace its command line by a title, which leaves empty words behind.
        Launcher::Python if rest.iter().all(|word| word.is_empty()) => application_in_title(first),
        Launcher::Python => words.python(),
        Launcher::Node => words.script(&NODE),
        Launcher::Deno => words.script(&DENO),
        Launcher::Bun => words.script(&BUN),
        Launcher::Ruby => words.script(&RUBY),
        Launcher::Perl => words.script(&PERL),
        Launcher::Php => words.script(&PHP),
        Launcher::Java => words.java(),
        Launcher::DotNet => words.rest.iter().find(|word| word.ends_with(b".dll")).map(|word| base_name(word)),
        Launcher::Shell if base_name(exe.as_bytes()) == b"busybox" && !is_shell(base_name(first)) => None,
        Launcher::Shell => words.script(&SHELL),
    }?;
    (!found.is_empty() && found.len() <= MAX_WORD).then(|| harmless(found))
}

fn launcher(exe: &str) -> Option<Launcher> {
    let exe = exe.strip_suffix(" (deleted)").unwrap_or(exe);
    let name = exe.rsplit('/').next()?;
    Some(match name.trim_end_matches(|c: char| c.is_ascii_digit() || ".-".contains(c)) {
        "python" | "pypy" => Launcher::Python,
        "node" | "nodejs" => Launcher::Node,
        "deno" => Launcher::Deno,
        "bun" => Launcher::Bun,
        "ruby" => Launcher::Ruby,
        "perl" => Launcher::Perl,
        "php" => Launcher::Php,
        "java" => Launcher::Java,
        "dotnet" => Launcher::DotNet,
        "busybox" => Launcher::Shell,
        other if is_shell(other.as_bytes()) => Launcher::Shell,
        _ => return None,
    })
}

fn is_shell(name: &[u8]) -> bool {
    [&b"sh"[..], b"bash", b"dash", b"ash", b"zsh", b"ksh", b"mksh"].contains(&name)
}

/// Options of a launcher. A cluster is a word such as `-we`: one dash, and an option for each letter.
struct Options {
    /// Letters after which the code itself follows, so that there is no script.
    code: &'static [u8],
    /// Letters of options with a value: the rest of the cluster, or the next word if there is no rest.
    value: &'static [u8],
    /// Letters of options whose value is always the rest of the cluster, so that it can be empty.
    rest: &'static [u8],
    /// Letters of options whose value is the script.
    script: &'static [u8],
    /// Long options after which the code itself follows.
    long_code: &'static [&'static str],
    /// Long options with a value, which is the next word unless the option contains `=`.
    long_value: &'static [&'static str],
    /// Long options without a value.
    long_flag: &'static [&'static str],
    /// Commands in front of the script.
    commands: &'static [&'static str],
    /// Commands that run no script, or one that the command line does not name.
    other_commands: &'static [&'static str],
}

const NONE: Options = Options {
    code: b"",
    value: b"",
    rest: b"",
    script: b"",
    long_code: &[],
    long_value: &[],
    long_flag: &[],
    commands: &[],
    other_commands: &[],
};

const NODE: Options = Options {
    code: b"ep",
    value: b"rC",
    long_code: &["--eval", "--print"],
    long_value: &[
        "--require",
        "--import",
        "--loader",
        "--experimental-loader",
        "--conditions",
        "--env-file",
        "--title",
        "--inspect-port",
        "--icu-data-dir",
        "--openssl-config",
        "--redirect-warnings",
        "--unhandled-rejections",
        "--max-http-header-size",
        "--dns-result-order",
        "--report-dir",
        "--report-directory",
        "--diagnostic-dir",
        "--disable-warning",
        "--input-type",
        "--stack-trace-limit",
    ],
    long_flag: &[
        "--inspect",
        "--inspect-brk",
        "--enable-source-maps",
        "--no-warnings",
        "--no-deprecation",
        "--trace-warnings",
        "--expose-gc",
        "--experimental-strip-types",
        "--experimental-vm-modules",
        "--preserve-symlinks",
        "--watch",
        "--abort-on-uncaught-exception",
        "--trace-deprecation",
        "--trace-uncaught",
    ],
    ..NONE
};

const DENO: Options = Options {
    value: b"cL",
    long_value: &["--config", "--import-map", "--lock", "--cert", "--location", "--log-level", "--seed"],
    long_flag: &[
        "--allow-all",
        "--allow-net",
        "--allow-read",
        "--allow-write",
        "--allow-env",
        "--allow-run",
        "--allow-sys",
        "--allow-ffi",
        "--no-check",
        "--no-prompt",
        "--quiet",
        "--unstable",
        "--cached-only",
        "--no-lock",
    ],
    commands: &["run", "serve"],
    other_commands: &["eval", "repl", "task", "test", "bench", "install", "cache", "jupyter", "lsp", "compile"],
    ..NONE
};

const BUN: Options = Options {
    code: b"ep",
    value: b"rc",
    long_code: &["--eval", "--print"],
    long_value: &["--preload", "--config", "--cwd", "--env-file", "--port", "--conditions"],
    long_flag: &["--hot", "--watch", "--smol", "--bun", "--silent"],
    commands: &["run"],
    other_commands: &["x", "test", "install", "add", "exec", "build", "create", "repl"],
    ..NONE
};

const RUBY: Options = Options {
    code: b"e",
    value: b"rICE",
    rest: b"0iKTWxF",
    long_value: &["--encoding", "--external-encoding", "--internal-encoding"],
    long_flag: &["--yjit", "--jit", "--rjit", "--disable-gems", "--verbose"],
    ..NONE
};

const PERL: Options = Options { code: b"eE", value: b"I", rest: b"0dDiFlmMCVxT", ..NONE };

const PHP: Options = Options {
    code: b"rBRE",
    value: b"cdztS",
    script: b"fF",
    long_value: &["--php-ini", "--define", "--docroot", "--server"],
    long_flag: &["--no-php-ini", "--no-header"],
    ..NONE
};

const SHELL: Options = Options {
    code: b"c",
    value: b"oO",
    long_value: &["--rcfile", "--init-file"],
    long_flag: &["--login", "--posix", "--norc", "--noprofile", "--restricted", "--verbose"],
    ..NONE
};

/// Words of a command line behind the name of the launcher.
struct Words<'a> {
    rest: &'a [&'a [u8]],
    /// Whether an unknown option may have taken the next word as its value.
    in_doubt: bool,
}

impl<'a> Words<'a> {
    fn next(&mut self) -> Option<&'a [u8]> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// Returns the base name of the script.
    fn script(&mut self, options: &Options) -> Option<&'a [u8]> {
        let mut commands = options.commands;
        loop {
            let word = self.next()?;
            match word {
                // Standard input is the script.
                b"-" | b"" => return None,
                b"--" => return self.next().map(base_name),
                _ if word.starts_with(b"--") => self.long(word, options)?,
                [b'-' | b'+', cluster @ ..] => {
                    if let Some(script) = self.cluster(cluster, options)? {
                        return Some(base_name(script));
                    }
                }
                _ if has(options.other_commands, word) => return None,
                _ if has(commands, word) => commands = &[],
                _ => return self.certain(word),
            }
        }
    }

    /// Skips a long option and its value. `None` if there is no script.
    fn long(&mut self, word: &[u8], options: &Options) -> Option<()> {
        let (name, value) = match word.iter().position(|byte| *byte == b'=') {
            Some(at) => word.split_at(at),
            None => (word, &b""[..]),
        };
        if has(options.long_code, name) {
            return None;
        }
        if value.is_empty() && has(options.long_value, name) {
            self.next()?;
        } else if value.is_empty() && !has(options.long_flag, name) {
            self.in_doubt = true;
        }
        Some(())
    }

    /// Skips a cluster and its value, or returns the script that it names. The outer `None` means that there is no script.
    fn cluster(&mut self, cluster: &'a [u8], options: &Options) -> Option<Option<&'a [u8]>> {
        for (at, letter) in cluster.iter().enumerate() {
            let rest = cluster.get(at + 1..).unwrap_or_default();
            if options.code.contains(letter) {
                return None;
            }
            if options.rest.contains(letter) {
                break;
            }
            let takes_value = options.value.contains(letter);
            if takes_value || options.script.contains(letter) {
                let value = if rest.is_empty() { self.next()? } else { rest };
                return Some((!takes_value).then_some(value));
            }
        }
        Some(None)
    }

    /// Returns the base name of a word if it certainly is the script.
    fn certain(&self, word: &'a [u8]) -> Option<&'a [u8]> {
        let name = base_name(word);
        (!self.in_doubt || SUFFIXES.iter().any(|suffix| name.ends_with(suffix.as_bytes()))).then_some(name)
    }

    fn python(&mut self) -> Option<&'a [u8]> {
        let options = Options { code: b"c", value: b"WX", long_value: &["--check-hash-based-pycs"], ..NONE };
        let program = loop {
            let word = self.next()?;
            match word {
                b"-" | b"" => return None,
                _ if word.starts_with(b"--") => self.long(word, &options)?,
                [b'-', cluster @ ..] => match cluster.iter().position(|letter| *letter == b'm') {
                    // Letters before `m` are flags, unless one of them takes the rest as its value.
                    Some(at) if !cluster.iter().take(at).any(|letter| b"cWX".contains(letter)) => {
                        let module = cluster.get(at + 1..).filter(|rest| !rest.is_empty());
                        break module.or_else(|| self.next())?;
                    }
                    Some(_) | None => {
                        self.cluster(cluster, &options)?;
                    }
                },
                _ => break self.certain(word)?,
            }
        };
        let serves = APPLICATION_SERVERS.iter().any(|server| program == server.as_bytes());
        let application = self.rest.iter().copied().find(|word| serves && is_application(word));
        Some(application.unwrap_or(program))
    }

    fn java(&mut self) -> Option<&'a [u8]> {
        const VALUE: [&str; 13] = [
            "-cp",
            "-classpath",
            "--class-path",
            "-p",
            "--module-path",
            "--upgrade-module-path",
            "--add-modules",
            "--add-opens",
            "--add-exports",
            "--add-reads",
            "--patch-module",
            "--limit-modules",
            "--enable-native-access",
        ];
        loop {
            let word = self.next()?;
            if word == b"-jar" {
                return self.next().map(base_name);
            }
            if word == b"-m" || word == b"--module" {
                return self.next().map(last_part);
            }
            if let Some(module) = word.strip_prefix(b"--module=") {
                return Some(last_part(module));
            }
            if has(&VALUE, word) {
                self.next()?;
            } else if word.starts_with(b"@") {
                // The file can name the main class, so that the next word can be an argument of the program.
                return None;
            } else if word.ends_with(b".java") {
                return Some(base_name(word));
            } else if !word.starts_with(b"-") {
                let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"._$/".contains(byte) || !byte.is_ascii();
                return (!word.is_empty() && word.iter().all(is_name)).then(|| last_part(word));
            }
        }
    }
}

fn has(names: &[&str], word: &[u8]) -> bool {
    names.iter().any(|name| name.as_bytes() == word)
}

/// Returns the part of a path behind the last slash, without the query of a URL.
fn base_name(path: &[u8]) -> &[u8] {
    let is_url = path.windows(3).any(|part| part == b"://");
    let end = path.iter().position(|byte| is_url && b"?#".contains(byte)).unwrap_or(path.len());
    let path = path.get(..end).unwrap_or_default();
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

/// Returns the last part of the name of a class, or of `module/class`.
fn last_part(class: &[u8]) -> &[u8] {
    class.rsplit(|byte| b"./".contains(byte)).next().unwrap_or_default()
}

/// Whether a word has the form `package.module:application`.
fn is_application(word: &[u8]) -> bool {
    let is_dotted = |part: &[u8]| {
        let is_name = |name: &[u8]| {
            name.first().is_some_and(|first| first.is_ascii_alphabetic() || *first == b'_')
                && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        };
        part.split(|byte| *byte == b'.').all(is_name)
    };
    let Some(colon) = word.iter().position(|byte| *byte == b':') else { return false };
    let (module, application) = word.split_at(colon);
    let application = application.get(1..).unwrap_or_default();
    is_dotted(module) && is_dotted(application.strip_suffix(b"()").unwrap_or(application))
}

/// Returns the application in a title of gunicorn: `gunicorn: worker [shop:app]`.
fn application_in_title(title: &[u8]) -> Option<&[u8]> {
    let title = title.strip_prefix(b"gunicorn: ")?;
    let start = title.iter().position(|byte| *byte == b'[')? + 1;
    let end = title.iter().rposition(|byte| *byte == b']')?;
    title.get(start..end).filter(|name| is_application(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the word of a command line, whose words are separated by blanks, for a program at `exe`.
    fn word(exe: &str, line: &str) -> Option<String> {
        script(exe, (line.replace(' ', "\0") + "\0").as_bytes())
    }

    #[test]
    fn a_command_line_has_the_word_of_its_launcher() {
        for (exe, line, expected) in [
            ("/usr/bin/python3.11", "python3 orders.py 25010 8", Some("orders.py")),
            ("/usr/bin/python3.11", "python3 -u -W ignore /srv/shop/orders.py --token s3cret", Some("orders.py")),
            ("/usr/bin/python3.11", "python3 -m http.server 8000", Some("http.server")),
            ("/usr/bin/python3.11", "python3 -um shop.api --password x", Some("shop.api")),
            ("/usr/bin/python3.11", "python3 -mshop", Some("shop")),
            ("/usr/bin/python3.11", "python3 -Xdev -Wm app.py", Some("app.py")),
            ("/usr/bin/python3.11", "python3 -c import_secret", None),
            ("/usr/bin/python3.11", "python3", None),
            ("/usr/bin/python3.11", "python3 - secret", None),
            ("/opt/venv/bin/python", "python /opt/venv/bin/gunicorn -w 4 shop.wsgi:app", Some("shop.wsgi:app")),
            ("/opt/venv/bin/python", "python -m uvicorn shop:app --port 80", Some("shop:app")),
            ("/opt/venv/bin/python", "python /usr/bin/gunicorn --bind 127.0.0.1:80 user:pa-ss", Some("gunicorn")),
            ("/opt/venv/bin/python", "python tool.py user:password", Some("tool.py")),
            ("/usr/bin/node", "node --max-old-space-size=4096 -r dotenv/config /srv/api/server.js", Some("server.js")),
            ("/usr/bin/node", "node --require ./trace.js dist/main.js --key k", Some("main.js")),
            ("/usr/bin/node", "node -e require('x')", None),
            ("/usr/bin/node", "node --new-option s3cret server.js", None),
            ("/usr/bin/node", "node --new-option server.mjs", Some("server.mjs")),
            ("/usr/bin/node", "node --inspect server", Some("server")),
            ("/usr/bin/deno", "deno run --allow-net -c deno.json https://u:p@h/app.ts?token=t", Some("app.ts")),
            ("/usr/bin/deno", "deno eval secret()", None),
            ("/usr/bin/bun", "bun run --hot src/index.ts", Some("index.ts")),
            ("/usr/bin/bun", "bun server.ts", Some("server.ts")),
            ("/usr/bin/ruby3.1", "ruby -W0 -I lib bin/rails server", Some("rails")),
            ("/usr/bin/ruby3.1", "ruby -e secret", None),
            ("/usr/bin/perl", "/usr/bin/perl -wT -Ilib /srv/feed.pl --pw x", Some("feed.pl")),
            ("/usr/bin/perl", "perl -MIO::Socket -we secret", None),
            ("/usr/bin/php8.2", "php -d memory_limit=1G artisan serve", Some("artisan")),
            ("/usr/bin/php8.2", "php -f worker.php secret", Some("worker.php")),
            ("/usr/bin/php8.2", "php -r secret", None),
            ("/usr/bin/java", "java -Xmx1g -Dpw=x -jar /opt/shop/shop-1.2.jar --spring.pw=y", Some("shop-1.2.jar")),
            ("/usr/bin/java", "java -cp a.jar:b.jar -XX:+UseZGC org.acme.shop.ShopApi 25140", Some("ShopApi")),
            ("/usr/bin/java", "java --module-path mods -m acme.shop/org.acme.Main x", Some("Main")),
            ("/usr/bin/java", "java @options secret", None),
            ("/usr/bin/java", "java Shop.java 80", Some("Shop.java")),
            ("/usr/bin/java", "java pass:word", None),
            ("/usr/bin/dotnet", "dotnet exec --x y /app/Shop.dll --pw z", Some("Shop.dll")),
            ("/usr/bin/dash", "/bin/sh -e /etc/run.sh secret", Some("run.sh")),
            ("/usr/bin/bash", "bash -eo pipefail ./deploy secret", Some("deploy")),
            ("/usr/bin/bash", "bash -ec secret", None),
            ("/bin/busybox", "sh /init.sh", Some("init.sh")),
            ("/bin/busybox", "wget secret", None),
            ("/usr/bin/python3 (deleted)", "python3 a.py", Some("a.py")),
            ("/usr/sbin/nginx", "nginx: worker secret", None),
        ] {
            assert_eq!(word(exe, line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn a_title_has_only_an_application() {
        let title = |title: &str| script("/usr/bin/python3", title.as_bytes());
        assert_eq!(title("gunicorn: worker [shop:app]\0\0\0\0").as_deref(), Some("shop:app"));
        assert_eq!(title("gunicorn: worker [my secret]\0\0"), None);
        assert_eq!(title("celery -A secret"), None);
    }

    #[test]
    fn the_word_is_harmless_and_short() {
        let python = |line: &[u8]| script("/usr/bin/python3", line);
        assert_eq!(python(b"python3\0/srv/\x1b[31mred\xff.py\0").as_deref(), Some("\\u{1b}[31mred\\xff.py"));
        assert_eq!(python(format!("python3\0{}.py\0", "x".repeat(99)).as_bytes()), None);
        assert_eq!(python(b"python3\0/srv/\0"), None);
        assert_eq!((python(b""), python(b"\0\0")), (None, None));
    }

    #[test]
    fn only_launchers_have_a_script() {
        assert!(can_have_script("/usr/lib/jvm/java-17/bin/java") && can_have_script("/usr/bin/php8.2"));
        assert!(!can_have_script("/usr/sbin/php-fpm8.2") && !can_have_script("/usr/bin/postgres"));
    }
}
