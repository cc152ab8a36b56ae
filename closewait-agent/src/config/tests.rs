use std::{
    fs::{self, Permissions},
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::Command as Process,
};

use clap::{Arg, ArgAction, Command, value_parser};
use proptest::prelude::*;

use super::*;

/// Returns the keys of a command with each type of option.
fn keys() -> Keys {
    let option = |name: &'static str| Arg::new(name).long(name);
    let command = Command::new("run")
        .arg(option("config").help("File"))
        .arg(option("level").value_parser(["low", "high"]).default_value("low").help("Level"))
        .arg(option("limit").value_name("N").value_parser(value_parser!(u32).range(1..=10)).help("Limit"))
        .arg(option("verbose").action(ArgAction::SetTrue).help("Print more"))
        .arg(option("class").action(ArgAction::Append).value_delimiter(',').default_value("a,b").help("Classes"))
        .arg(option("needs-level").requires("level").help("Another"))
        .arg(option("push-token").help("Secret"))
        .arg(option("endpoint").help("Address"));
    Keys::new(command, &["config"])
}

fn text(text: &str) -> ConfigText {
    ConfigText { path: "a.toml".into(), text: text.to_owned() }
}

/// Returns the problems of a text, one string each.
fn problems(of: &str) -> Vec<String> {
    parse(&text(of), &keys()).unwrap_err().iter().map(ToString::to_string).collect()
}

fn merged(files: &[ConfigText], variables: &[(&str, &str)]) -> Result<Layers, ConfigError> {
    let variable = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| value.into());
    Layers::merge(&keys(), files, variable)
}

fn arguments(layers: &Layers) -> Vec<String> {
    layers.arguments(&keys(), |_| false).into_iter().map(|argument| argument.into_string().unwrap()).collect()
}

#[test]
fn each_type_of_value_becomes_an_argument() {
    let file = text(
        "# comment\nlevel = \"high\"\r\nlimit = 0x0_A\nverbose = true\nclass = [\"x\", \"y,z\"]\nendpoint = '''http://a'''\n",
    );
    let layers = merged(&[file], &[]).unwrap();
    let expected = ["--class=x", "--class=y,z", "--endpoint=http://a", "--level=high", "--limit=10", "--verbose"]
        .map(str::to_owned);
    assert_eq!(arguments(&layers), expected);
    let position = TextPosition { line: 4, column: 1 };
    assert_eq!(layers.get("verbose").unwrap().origin, SettingOrigin::File { path: "a.toml".into(), position });
    assert_eq!(layers.arguments(&keys(), |key| key != "level"), ["--level=high"], "the command line has the others");
    assert!(arguments(&merged(&[text("verbose = false\nclass = []")], &[]).unwrap()).is_empty());
    assert!(arguments(&merged(&[text("")], &[]).unwrap()).is_empty());
}

#[test]
fn later_sources_replace_earlier_ones_with_all_values() {
    let files = [text("level = \"high\"\nclass = [\"x\", \"y\"]\nlimit = 1"), text("class = \"z\"\nverbose = true")];
    let layers =
        merged(&files, &[("CLOSEWAIT_LIMIT", "3"), ("CLOSEWAIT_VERBOSE", "0"), ("CLOSEWAIT_LEVEL", "")]).unwrap();
    assert_eq!(arguments(&layers), ["--class=z", "--level=high", "--limit=3"]);
    assert_eq!(layers.get("limit").unwrap().origin, SettingOrigin::Environment("CLOSEWAIT_LIMIT".to_owned()));
}

#[test]
fn problems_name_line_and_column_and_what_to_do() {
    for (of, expected) in [
        ("levle = \"low\"", "a.toml:1:1: unknown key levle\nhint: the nearest key is level"),
        ("\n  Needs_Level = 1", "a.toml:2:3: unknown key Needs_Level\nhint: the nearest key is needs-level"),
        ("qqq = 1", "a.toml:1:1: unknown key qqq\nhint: list all keys:\n    closewait config example"),
        (
            "config = \"x\"",
            "a.toml:1:1: config cannot be set in a file\nhint: remove it, or give it on the command line: --config",
        ),
        ("level = 'middle'", "a.toml:1:9: invalid value middle for level\nhint: use one of low, high"),
        ("limit = 11", "a.toml:1:9: invalid value 11 for limit: 11 is not in 1..=10\nhint: use a number from 1 to 10"),
        (
            "limit = 1.5",
            "a.toml:1:9: invalid value 1.5 for limit: invalid digit found in string\nhint: write a whole number",
        ),
        (
            "limit = 1\nlimit = 2",
            "a.toml:2:1: duplicate key\nhint: see https://toml.io; a line looks like this:\n    stuck-after = \"60s\"",
        ),
        ("limit = [1]", "a.toml:1:9: limit has one value, not an array\nhint: write it like this:\n    limit = \"N\""),
        (
            "limit = 1979-05-27",
            "a.toml:1:9: limit cannot have a value of this type: datetime\nhint: write a text in quotes, or a number",
        ),
        (
            "class = ['ü', true]",
            "a.toml:1:15: class cannot have a value of this type: boolean\nhint: write a text in quotes, or a number",
        ),
        (
            "limit = true",
            "a.toml:1:9: limit needs a value, not true or false\nhint: write it like this:\n    limit = \"N\"",
        ),
        ("verbose = 1", "a.toml:1:11: verbose is true or false\nhint: write it like this:\n    verbose = true"),
        ("[level]\na = 1", "a.toml:1:2: level is a section\nhint: write all keys without sections"),
        ("level.a = 1", "a.toml:1:1: level is a section\nhint: write all keys without sections"),
        (
            "endpoint = \"a\\u0000b\"",
            "a.toml:1:12: the value of endpoint contains a zero byte\nhint: write it like this:\n    endpoint = \"VALUE\"",
        ),
        (
            "limit = 99999999999999999999999999999999999999999999",
            "a.toml:1:9: the number of limit is too large\nhint: write a smaller number",
        ),
    ] {
        assert_eq!(problems(of), [expected], "{of}");
    }
    let wrong = merged(&[], &[("CLOSEWAIT_LIMIT", "0"), ("CLOSEWAIT_VERBOSE", "yes")]).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "environment variable CLOSEWAIT_LIMIT: invalid value 0 for limit: 0 is not in 1..=10\nhint: use a number from 1 to 10\n\
         environment variable CLOSEWAIT_VERBOSE: verbose is true or false\nhint: set it to true or false"
    );
}

#[test]
fn all_problems_are_reported_in_the_order_of_the_lines_up_to_a_limit() {
    let found = problems("limit = 0\nlevel = 'no'\nnone = 1");
    let starts = ["a.toml:1:9: ", "a.toml:2:9: ", "a.toml:3:1: "];
    assert!(found.len() == 3 && found.iter().zip(starts).all(|(found, start)| found.starts_with(start)), "{found:?}");
    let many: String = (0..100).map(|key| format!("key{key} = 1\n")).collect();
    assert_eq!(problems(&many).len(), 20);
}

#[test]
fn what_is_no_toml_has_a_place_and_is_not_quoted() {
    for (of, start) in [
        ("push-token = \"hunter2", "a.toml:1:"),
        ("push-token = hunter2", "a.toml:1:"),
        ("limit = 1\nlevel \"low\" hunter2", "a.toml:2:"),
        ("limit = 1\0", "a.toml:1:"),
        ("\u{feff}=", "a.toml:1:"),
    ] {
        let found = problems(of);
        assert!(found.iter().all(|problem| problem.starts_with(start)), "{found:?}");
        assert!(found.iter().all(|problem| !problem.contains("hunter2")), "{found:?}");
    }
    assert!(
        arguments(&merged(&[text("\u{feff}limit = 1")], &[]).unwrap()) == ["--limit=1"],
        "a byte order mark is skipped"
    );
}

#[test]
fn deep_nesting_and_long_values_end_with_a_problem() {
    for of in [
        "class = ".to_owned() + &"[".repeat(60_000),
        "class = ".to_owned() + &"{a=".repeat(20_000),
        "a.".repeat(30_000) + "a = 1",
        "[".repeat(60_000),
        format!("limit = {}", "9".repeat(60_000)),
        format!("{} = 1", "k".repeat(60_000)),
    ] {
        assert!(!problems(&of).is_empty());
    }
}

#[test]
fn names_and_values_that_could_change_a_terminal_are_escaped() {
    let found = problems("\"a\\u001b[2J\\nb\" = 1\nlevel = \"\\u001b]0;x\\u0007\"").concat();
    assert!(found.contains("\\u{1b}[2J\\u{a}b") && !found.contains('\u{1b}') && !found.contains('\u{7}'), "{found}");
}

#[test]
fn secrets_are_not_shown() {
    let value = |key: &str, value: &str| keys::shown(key, value.as_ref());
    assert_eq!(value("push-token", "hunter2"), "[hidden]");
    assert_eq!(value("otlp-headers", "a=b"), "[hidden]");
    assert_eq!(value("endpoint", "https://me:hunter2@host:1/p@q"), "https://[hidden]@q");
    assert_eq!(value("endpoint", "https://me:hun@ter2@host"), "https://[hidden]@host");
    assert_eq!(value("endpoint", "http://host/p?a=b@c"), "http://[hidden]@c");
    assert_eq!(value("endpoint", "http://me:hun/ter?2@host/p"), "http://[hidden]@host/[hidden]");
    for hidden in ["me:hunter2@host:1", "//me:hunter2@host", "http:\\\\me:hunter2@host"] {
        assert_eq!(value("endpoint", hidden), "[hidden]", "{hidden}");
    }
    assert_eq!(value("endpoint", "http://host?key=hunter2"), "http://host/[hidden]");
    assert_eq!(value("endpoint", "http://host:4318/"), "http://host:4318/");
    let command = Command::new("run").arg(Arg::new("token").long("token").value_parser(value_parser!(u8)));
    let found = parse(&text("token = \"hunter2\""), &Keys::new(command, &[])).unwrap_err();
    assert!(found.len() == 1 && !found[0].to_string().contains("hunter2"), "{found:?}");
}

#[test]
fn the_example_has_every_key_and_is_valid_with_and_without_its_comments() {
    let example = example(&keys());
    assert!(parse(&text(&example), &keys()).unwrap().is_empty());
    let mut names = Vec::new();
    for line in example
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| !line.starts_with(' ') && !line.is_empty())
    {
        let (key, _) = line.split_once(" = ").unwrap();
        names.push(key.to_owned());
        let words_in_capitals = ["limit", "endpoint", "push-token", "needs-level"];
        match parse(&text(line), &keys()) {
            Ok(entries) => assert_eq!(entries[0].key, key),
            Err(problems) => assert!(words_in_capitals.contains(&key), "{problems:?}"),
        }
    }
    assert!(names.iter().map(String::as_str).eq(keys().names()), "{names:?}");
    assert!(example.contains("# Level [low, high] (CLOSEWAIT_LEVEL)\n#level = \"low\"\n"), "{example}");
    assert!(example.contains("#class = [\"a\", \"b\"]\n"), "{example}");
}

proptest! {
    #[test]
    fn any_text_has_entries_or_problems(line in "[a-z\"'=\\[\\]{}., \n\\\\u0-9#-]{0,80}", bytes: Vec<u8>) {
        for bytes in [line.into_bytes(), bytes] {
            if let Ok(text) = ConfigText::from_bytes("a.toml".into(), bytes)
                && let Err(problems) = parse(&text, &keys())
            {
                prop_assert!(!problems.is_empty());
            }
        }
    }
}

/// Folder that is removed after the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("closewait-config-{}-{name}", std::process::id()));
        fs::create_dir_all(path.join("conf.d")).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, bytes).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        path
    }

    fn read(&self) -> Result<Vec<String>, String> {
        let texts = ConfigFiles::Folder(self.0.clone()).read().map_err(|error| error.to_string())?;
        Ok(texts.into_iter().map(|text| text.text).collect())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.0);
    }
}

fn one(path: &Path) -> Result<String, String> {
    let texts = ConfigFiles::One(path.to_owned()).read().map_err(|error| error.to_string())?;
    Ok(texts.into_iter().map(|text| text.text).collect())
}

#[test]
fn files_are_read_in_the_order_of_their_names_and_may_be_missing() {
    let folder = Folder::new("order");
    assert_eq!(folder.read().unwrap(), [""; 0]);
    for name in ["10-b.toml", "9-c.toml", "10-a.toml", ".hidden.toml", "note.txt", "backup.toml~"] {
        folder.write(&format!("conf.d/{name}"), name);
    }
    assert_eq!(folder.read().unwrap(), ["10-a.toml", "10-b.toml", "9-c.toml"]);
    folder.write("closewait.toml", "main");
    assert_eq!(folder.read().unwrap()[0], "main");
    fs::remove_dir_all(folder.0.join("conf.d")).unwrap();
    assert_eq!(folder.read().unwrap(), ["main"]);
    assert_eq!(ConfigFiles::Folder(folder.0.join("none")).read().unwrap(), []);
    let missing = one(&folder.0.join("none")).unwrap_err();
    assert!(missing.contains("realpath failed: No such file or directory"), "{missing}");
}

#[test]
fn what_is_no_regular_file_of_a_limited_size_is_refused_without_waiting() {
    let folder = Folder::new("kinds");
    let refused = |path: &Path, why: &str| {
        let found = one(path).unwrap_err();
        assert!(found.contains(why) && found.contains("\nhint: "), "{found}");
    };
    refused(&folder.0, "it is not a regular file");
    let fifo = folder.0.join("fifo");
    assert!(Process::new("mkfifo").arg(&fifo).status().unwrap().success());
    refused(&fifo, "it is not a regular file");
    refused(Path::new("/dev/zero"), "it is not a regular file");
    refused(&folder.write("large", vec![b'#'; (64 << 10) + 1]), "the file is larger than 64 KiB");
    assert_eq!(one(&folder.write("limit", vec![b'#'; 64 << 10])).unwrap().len(), 64 << 10);
    refused(&folder.write("latin1", b"# a\nlevel = \"\xe4\""), "latin1:2:10: this is not UTF-8");
    // The problems of all files are reported.
    fs::create_dir(folder.0.join("conf.d/a.toml")).unwrap();
    symlink("/nowhere", folder.0.join("conf.d/b.toml")).unwrap();
    let found = folder.read().unwrap_err();
    assert!(found.contains("a.toml: it is not a regular file") && found.contains("b.toml: realpath failed"), "{found}");
    for name in 0..65 {
        folder.write(&format!("conf.d/{name}.toml"), "");
    }
    assert!(folder.read().unwrap_err().contains("more than 64 files"));
}

#[test]
fn a_link_is_followed_and_what_others_can_change_is_refused() {
    let folder = Folder::new("others");
    let real = folder.write("real", "limit = 1");
    let link = folder.0.join("link");
    symlink("real", &link).unwrap();
    assert_eq!(one(&link).unwrap(), "limit = 1");
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(&real, 0o646);
    let found = one(&link).unwrap_err();
    assert!(found.contains("link: any user may write to ") && found.contains("chmod o-w "), "{found}");
    mode(&real, 0o644);
    mode(&folder.0, 0o777);
    assert!(one(&real).unwrap_err().contains("any user may write to"), "they can replace the file");
    mode(&folder.0, 0o755);
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&real, Some(4711), None).unwrap();
        let found = one(&real).unwrap_err();
        assert!(found.contains("user 4711 may write to") && found.contains("chown root "), "{found}");
    }
}
