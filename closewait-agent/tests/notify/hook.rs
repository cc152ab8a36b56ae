//! Hook program with the settings of a test.

use std::{
    env,
    fs::{self, Permissions},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use serde_json::Value;
use tests_support::clock::boot_seconds;

/// Key in the form of one of PagerDuty.
pub(crate) const KEY: &str = "0123456789abcdefGHIJKLMNOPQRSTUV";
/// Secret path of a webhook.
pub(crate) const SLACK_PATH: &str = "/services/T000/B000/XXXXsecretXXXX";

/// Hook program, its environment and a folder for its files.
pub(crate) struct Hook {
    name: &'static str,
    variables: Vec<(&'static str, String)>,
    folder: PathBuf,
}

/// Result of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) log: String,
    pub(crate) took: Duration,
}

impl Hook {
    /// Creates a hook that sends to the service at `base`.
    pub(crate) fn new(name: &'static str, base: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder = env::temp_dir().join(format!("closewait-notify-{}-{number}", process::id()));
        fs::create_dir(&folder).expect("a folder");
        let mut hook = Self { name, variables: Vec::new(), folder };
        match name {
            "alertmanager" => hook.set("CLOSEWAIT_ALERTMANAGER_URL", base),
            "pagerduty" => {
                hook.set("CLOSEWAIT_PAGERDUTY_URL", &format!("{base}/v2/enqueue"));
                hook.set_file("CLOSEWAIT_PAGERDUTY_KEY_FILE", &format!("{KEY}\n"));
            }
            "slack-webhook" => hook.set_file("CLOSEWAIT_SLACK_URL_FILE", &format!("{base}{SLACK_PATH}\n")),
            other => unreachable!("{other}"),
        }
        hook
    }

    /// Sets an environment variable.
    pub(crate) fn set(&mut self, name: &'static str, value: &str) {
        self.variables.retain(|(other, _)| *other != name);
        self.variables.push((name, value.to_owned()));
    }

    /// Writes a file that only its owner may read, and sets a variable to its path.
    pub(crate) fn set_file(&mut self, variable: &'static str, text: &str) {
        let path = self.folder.join(variable);
        fs::write(&path, text).expect("a file");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("chmod");
        self.set(variable, path.to_str().expect("UTF-8"));
    }

    /// Returns a path in the folder of the hook.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs the program for an event.
    pub(crate) fn run(&self, event: &Value) -> Ran {
        self.run_with(event.to_string().as_bytes())
    }

    /// Runs the program with these bytes on standard input. No secret may be in what it writes.
    pub(crate) fn run_with(&self, input: &[u8]) -> Ran {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("../contrib/hooks").join(self.name);
        let began = boot_seconds();
        let mut command = Command::new(program);
        command.env_clear().envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the hook");
        // It need not read all of it.
        let _unread = child.stdin.take().expect("a pipe").write_all(input);
        let output = child.wait_with_output().expect("its end");
        let log = String::from_utf8(output.stderr).expect("UTF-8");
        assert_eq!(String::from_utf8_lossy(&output.stdout), "", "messages are on stderr: {log}");
        assert!(!log.contains(KEY) && !log.contains("XXXXsecretXXXX") && !log.contains("Traceback"), "{log}");
        assert!(log.chars().all(|c| c == '\n' || !c.is_control()), "{log:?}");
        Ran { code: output.status.code(), log, took: Duration::from_secs_f64(boot_seconds() - began) }
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        let _left = fs::remove_dir_all(&self.folder);
    }
}
