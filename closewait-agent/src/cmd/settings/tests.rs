use std::{collections::BTreeSet, fs};

use super::*;
use crate::cmd::run::hooks;

/// Returns the configuration of a command line, with this file and these environment variables.
fn configuration(line: &str, text: &str, variables: &[(&str, &str)]) -> (Configuration, TestFile) {
    let file = TestFile::new(text);
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), value.into())).collect();
    let arguments = line.split(' ').map(OsString::from).collect();
    (Configuration::of(arguments, Some(file.0.clone()), variables), file)
}

fn resolve(line: &str, text: &str, variables: &[(&str, &str)]) -> Result<Resolved, ParseError> {
    let (configuration, _file) = configuration(line, text, variables);
    configuration.resolve()
}

/// File that is removed after the test.
struct TestFile(PathBuf);

impl TestFile {
    fn new(text: &str) -> Self {
        let name = format!("closewait-settings-{}-{:?}.toml", std::process::id(), std::thread::current().id());
        let path = env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        let _left = fs::remove_file(&self.0);
    }
}

fn problem(resolved: Result<Resolved, ParseError>) -> String {
    match resolved.unwrap_err() {
        ParseError::Config(error) => error.to_string(),
        ParseError::Usage(error) => panic!("{error}"),
    }
}

fn usage(resolved: Result<Resolved, ParseError>) -> String {
    match resolved.unwrap_err() {
        ParseError::Config(error) => panic!("{error}"),
        ParseError::Usage(error) => error.to_string(),
    }
}

#[test]
fn the_options_of_run_are_keys_except_those_of_one_run() {
    let run = Cli::command().find_subcommand("run").unwrap().clone();
    let options: BTreeSet<_> = run.get_arguments().filter_map(|option| option.get_long()).collect();
    let keys = keys();
    let names: BTreeSet<_> = keys.names().collect();
    assert!(names.is_disjoint(&NOT_KEYS.into()) && options == &names | &NOT_KEYS.into(), "{options:?}");
    assert!(SHARED_KEYS.iter().all(|key| names.contains(key)));
    assert!(run.get_arguments().all(|option| option.get_long().is_some()), "a positional argument is no key");
    for command in ASKING {
        let command = Cli::command().find_subcommand(command).unwrap().clone();
        assert!(command.get_arguments().any(|option| option.get_long() == Some("socket")), "{command}");
    }
}

#[test]
fn a_hook_does_not_get_variables_that_are_settings() {
    let docs = include_str!("../../../../docs/hooks.md");
    for key in keys().names() {
        let variable = format!("`{}`", variable_name(key));
        assert!(
            !docs.contains(&variable),
            "{variable} is a fact for hooks, and would be a setting of commands that they run"
        );
    }
    // The log has its own parser.
    assert!(keys().names().all(|key| key != "log"));
}

#[test]
fn the_command_line_goes_before_the_environment_and_that_before_the_file() {
    let text =
        "stuck-after = \"5s\"\nhistogram-every = \"7s\"\nmax-tracked = 9\nopeners = true\nconnection-limit = \"80=1\"";
    let variables = [("CLOSEWAIT_HISTOGRAM_EVERY", "8s"), ("CLOSEWAIT_MAX_TRACKED", "10"), ("CLOSEWAIT_PORT", "1")];
    let resolved = resolve("closewait run --max-tracked 11 --connection-limit 90=2", text, &variables).unwrap();
    let Resolved { run, settings } = resolved;
    assert_eq!((run.stuck_after.as_secs(), run.histogram_every.as_secs(), run.max_tracked), (5, 8, Some(11)));
    assert_eq!((run.openers, run.kernel_log), (true, false));
    assert_eq!(run.connection_limit, [(90, 2)], "a list is replaced");
    let origin = |key: &str| settings.iter().find(|setting| setting.key == key).unwrap().origin.clone();
    assert_eq!(origin("max-tracked"), SettingOrigin::CommandLine);
    assert_eq!(origin("histogram-every"), SettingOrigin::Environment("CLOSEWAIT_HISTOGRAM_EVERY".to_owned()));
    assert!(matches!(origin("stuck-after"), SettingOrigin::File { position, .. } if position.line == 1));
    assert_eq!(origin("record-max"), SettingOrigin::Default);
    let value = |key: &str| settings.iter().find(|setting| setting.key == key).unwrap().values.clone();
    assert_eq!((value("record-max"), value("pin")), (vec!["64M".into()], vec![]));
    assert!(settings.iter().map(|setting| &setting.key).eq(keys().names()));
}

#[test]
fn options_that_need_each_other_may_be_in_different_sources() {
    let text = "on-stuck = \"/bin/true\"";
    let run = resolve("closewait run --on-stuck-class hung", text, &[]).unwrap().run;
    assert_eq!(run.hooks.on_stuck_class.len(), 1);
    let found = problem(resolve("closewait run", "on-stuck-class = [\"hung\", \"leak\"]", &[]));
    assert!(found.contains(":1:1: on-stuck-class needs on-stuck\nhint: set on-stuck too, or remove"), "{found}");
    assert!(usage(resolve("closewait run --on-stuck-class hung", "", &[])).contains("--on-stuck <CMD>"));
}

#[test]
fn each_setting_that_does_not_fit_is_named_with_its_place() {
    let found = problem(resolve("closewait run", "\non-stuck-class = \"hung\"", &[("CLOSEWAIT_RETAIN", "1h")]));
    let places =
        [":2:1: on-stuck-class needs on-stuck\n", "environment variable CLOSEWAIT_RETAIN: retain needs record\n"];
    assert!(places.iter().all(|place| found.contains(place)), "{found}");
    let found = problem(resolve("closewait run --output json", "\njournal = true", &[]));
    assert!(
        found.contains(":2:1: journal does not go together with output (command line)\nhint: remove one"),
        "{found}"
    );
    let found = problem(resolve("closewait run", "output = \"json\"\njournal = true", &[]));
    assert!(found.contains("journal") && found.contains("output") && found.contains(".toml:"), "{found}");
}

#[test]
fn each_hook_that_cannot_be_used_is_named_with_its_place() {
    let text = "\non-pileup = \"/nonexistent/pileup\"";
    let resolved = resolve("closewait run --on-stuck /nonexistent/stuck", text, &[]).unwrap();
    let found = hooks(&resolved.run.hooks, &resolved.settings).unwrap_err().to_string();
    assert!(found.starts_with("command line: on-stuck cannot be used: realpath of /nonexistent/stuck"), "{found}");
    assert!(found.contains(":2:1: on-pileup cannot be used: realpath of /nonexistent/pileup"), "{found}");
    assert_eq!(found.matches("\nhint: give the path of a program").count(), 2, "{found}");
}

#[test]
fn an_invalid_command_line_is_reported_before_an_invalid_file() {
    assert!(usage(resolve("closewait run --stuck-after soon", "nonsense", &[])).contains("--stuck-after"));
    assert!(usage(resolve("closewait run --stuck-after soon", "openers = true", &[])).contains("--stuck-after"));
    assert!(problem(resolve("closewait run", "stuck-after = \"soon\"", &[])).contains(":1:15: invalid value soon"));
    assert!(problem(resolve("closewait run --stuck-after 5s", "stuck-after = \"soon\"", &[])).contains("soon"));
}

#[test]
fn the_environment_can_name_the_file() {
    let file = TestFile::new("openers = true");
    let variables = BTreeMap::from([("CLOSEWAIT_CONFIG".to_owned(), file.0.clone().into_os_string())]);
    let configuration = Configuration::of(vec!["closewait".into(), "run".into()], None, variables.clone());
    assert!(configuration.resolve().unwrap().run.openers);
    let configuration = Configuration::of(vec![], Some("/other".into()), variables);
    assert_eq!(configuration.files, ConfigFiles::One("/other".into()));
}

#[test]
fn commands_that_query_an_agent_take_its_socket_unless_the_user_gives_another() {
    let socket = |line: &str| {
        let (configuration, _file) = configuration(line, "", &[]);
        let options = if line.starts_with("closewait --") || line == "closewait" { 1 } else { 2 };
        let arguments = configuration.with(&["--socket=/s".into()], options);
        let parsed = Cli::try_parse_from(arguments).or_else(|_| Cli::try_parse_from(&configuration.arguments)).unwrap();
        let command = parsed.into_command();
        if let Command::Status(args) = command {
            args.asked.socket
        } else if let Command::List(args) = command {
            args.asked.socket
        } else if let Command::Top(args) = command {
            args.asked.socket
        } else if let Command::Check(args) = command {
            args.asked.socket
        } else {
            panic!("{command:?}")
        }
    };
    for line in
        ["closewait", "closewait --color never", "closewait status", "closewait list --port 80", "closewait check"]
    {
        assert_eq!(socket(line), Some("/s".into()), "{line}");
    }
    assert_eq!(socket("closewait list --socket /t"), Some("/t".into()));
    for line in ["closewait top --replay FILE", "closewait check -- true"] {
        assert_eq!(socket(line), None, "{line}");
    }
}

#[test]
fn the_example_matches_the_options() {
    let example = crate::config::example(&keys());
    assert!(
        tests_support::generated::is_current("contrib/closewait.toml", &example),
        "contrib/closewait.toml does not match the options; run `cargo xtask docs` and commit the result"
    );
    // Every line with a default is valid, and all of them together change nothing but `on-stuck-class`, which needs a hook.
    let placeholders = |line: &str| line.bytes().any(|byte| byte.is_ascii_uppercase());
    let lines = example.lines().filter_map(|line| line.strip_prefix('#')).filter(|line| line.contains(" = "));
    let set: String = lines.filter(|line| !placeholders(line)).map(|line| format!("{line}\n")).collect();
    let text = format!("{set}on-stuck = \"/bin/true\"");
    let with = resolve("closewait run", &text, &[]).unwrap().settings;
    let without = resolve("closewait run", "", &[]).unwrap().settings;
    for (with, without) in with.iter().zip(&without).filter(|(with, _)| with.key != "on-stuck") {
        let joined = |values: &[OsString]| values.join(OsStr::new(","));
        assert_eq!((&with.key, joined(&with.values)), (&without.key, joined(&without.values)));
    }
}

#[test]
fn a_limit_of_a_recording_is_given_once_for_each_kind() {
    let record = "record = \"/r/\"\n";
    let both = resolve("closewait run", &format!("{record}retain = [\"1h\", \"1G\"]"), &[]).unwrap();
    assert_eq!(both.run.retain.len(), 2);
    let hint = "give one time, one size, or one of each: 1h,1GiB";
    for (retain, kind) in [("\"1h,1h\"", "times"), ("[\"1h\", \"2h\"]", "times"), ("[\"1G\", \"1h\", \"2G\"]", "sizes")]
    {
        let text = problem(resolve("closewait run", &format!("{record}retain = {retain}"), &[]));
        assert!(text.ends_with(&format!(":2:1: retain has two {kind}\nhint: {hint}")), "{text}");
    }
    let text = problem(resolve("closewait run", record, &[("CLOSEWAIT_RETAIN", "1h,2h")]));
    assert!(text.starts_with("environment variable CLOSEWAIT_RETAIN: retain has two times\nhint: "), "{text}");
    for line in ["--retain 1h,1h", "--retain 1h --retain 2h"] {
        let text = usage(resolve(&format!("closewait run --record /r/ {line}"), "", &[]));
        assert!(text.starts_with(&format!("error: --retain has two times; {hint}\n")), "{text}");
    }
    // The command line replaces the file.
    assert!(resolve("closewait run --retain 1h", &format!("{record}retain = \"2h,2h\""), &[]).is_ok());
}

#[test]
fn java_virtual_machines_are_asked_only_if_stacks_are_read() {
    for (line, text, variables) in [
        ("closewait run --stacks auto --stacks-jvm", "", &[][..]),
        ("closewait run --stacks-jvm", "stacks = \"auto\"", &[]),
        ("closewait run", "stacks = \"auto\"\nstacks-jvm = true", &[]),
        ("closewait run --stacks auto", "", &[("CLOSEWAIT_STACKS_JVM", "true")]),
    ] {
        assert!(resolve(line, text, variables).unwrap().run.stacks.jvm, "{line}");
    }
    assert!(resolve("closewait run", "stacks-jvm = false", &[]).is_ok());
    let hint = "turn the reading of stacks on as well: stacks auto";
    for line in ["--stacks-jvm", "--stacks never --stacks-jvm"] {
        let text = usage(resolve(&format!("closewait run {line}"), "", &[]));
        assert!(text.starts_with(&format!("error: --stacks-jvm needs stacks auto; {hint}\n")), "{text}");
    }
    let text = problem(resolve("closewait run", "\nstacks-jvm = true", &[]));
    assert!(text.ends_with(&format!(":2:1: stacks-jvm needs stacks auto\nhint: {hint}")), "{text}");
    let text = problem(resolve("closewait run --stacks never", "stacks = \"auto\"\nstacks-jvm = true", &[]));
    assert!(text.contains(":2:1: stacks-jvm needs"), "{text}");
}

#[test]
fn a_value_out_of_range_has_a_hint_with_the_range() {
    for (line, hint) in [
        ("max-sockets = 0", "max-sockets: 0 is not in 1..=1048576\nhint: use a number from 1 to 1048576"),
        ("ring-buffer = 5000", "ring-buffer\nhint: it must be a power of two from 4096 (4K) to 1073741824 (1G)"),
        ("stuck-after = \"0s\"", "stuck-after\nhint: it must be at least 1ms"),
        (
            "record = \"/r/\"\nretain = \"1ns\"",
            "retain\nhint: it must be a time from 10s to 3650d, or a size of at least 1M",
        ),
        ("record = \"/r/\"\nretain = \"1K\"", "retain\nhint: it must be at least 1048576 (1M)"),
        (
            "listen = \"unix:m.sock\"",
            "listen\nhint: write unix: and an absolute path, for example unix:/run/closewait/metrics.sock",
        ),
    ] {
        let text = problem(resolve("closewait run", line, &[]));
        assert!(text.ends_with(hint), "{text}");
    }
    let path = "x".repeat(108);
    let text = problem(resolve("closewait run", &format!("listen = \"unix:/{path}\""), &[]));
    assert!(
        text.contains("the path has 109 bytes, and the path of a socket at most 107\nhint: write a shorter one"),
        "{text}"
    );
}

#[test]
fn a_variable_that_is_almost_a_setting_is_named_with_it() {
    let misspelled = |name: &str| configuration("closewait run", "", &[(name, "1")]).0.misspelled(&keys());
    for (written, meant) in [
        ("CLOSEWAIT_STUCKAFTER", "CLOSEWAIT_STUCK_AFTER"),
        ("CLOSEWAIT_STUCK_AFTR", "CLOSEWAIT_STUCK_AFTER"),
        ("CLOSEWAIT_SOCKT", "CLOSEWAIT_SOCKET"),
        ("CLOSEWAIT_LISTEM", "CLOSEWAIT_LISTEN"),
    ] {
        assert_eq!(misspelled(written), [(written.to_owned(), meant.to_owned())]);
    }
    for other in [
        "CLOSEWAIT_STUCK_AFTER",
        "CLOSEWAIT_CONFIG",
        "CLOSEWAIT_LOG",
        "CLOSEWAIT_SERVICE_HOST",
        "CLOSEWAIT_SERVICE_PORT",
        "CLOSEWAIT_PORT",
        "CLOSEWAIT_PORT_9753_TCP_ADDR",
        "CLOSEWAIT_REQUIRE_EBPF",
    ] {
        assert_eq!(misspelled(other), []);
    }
}
