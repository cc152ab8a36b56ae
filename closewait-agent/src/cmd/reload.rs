//! Configuration of a running agent, read again on SIGHUP.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    run::hook_filter,
    settings::{Configuration, ParseError, Resolved},
};
use crate::{
    config::ConfigEntry,
    runtime::{ReadAgain, Reloaded},
};

/// Settings that change while the agent runs. All others are part of the kernel program, of open files, of the hook helper or
/// of the engine, whose settings a recording has only at its start.
const RELOADABLE: [&str; 3] = ["hook-every", "min-certainty", "on-stuck-class"];

/// Returns the function that reads the configuration again, and compares it with the settings in use.
pub(super) fn read_again(configuration: Configuration) -> ReadAgain {
    let in_use = Mutex::new(configuration.in_use.clone());
    Arc::new(move || {
        let Resolved { run, settings } = configuration.resolve().map_err(|error| match error {
            ParseError::Config(error) => anyhow::Error::new(error),
            ParseError::Usage(error) => anyhow::Error::new(error),
        })?;
        let lines = update(&mut in_use.lock().unwrap_or_else(PoisonError::into_inner), settings);
        Ok(Reloaded { filter: hook_filter(&run.hooks), every: run.hooks.hook_every, lines })
    })
}

/// Updates the settings in use by those that can change. Returns lines for the log.
fn update(in_use: &mut [ConfigEntry], settings: Vec<ConfigEntry>) -> Vec<String> {
    let mut lines = Vec::new();
    for (used, new) in in_use.iter_mut().zip(settings).filter(|(used, new)| used.values != new.values) {
        let (key, before, after) = (&new.key, text(used), text(&new));
        if RELOADABLE.contains(&key.as_str()) {
            lines.push(format!("reloaded: {key} is {after} ({}), was {before}", new.origin));
            *used = new;
        } else {
            lines.push(format!("{key} needs a restart: {after} ({}), the agent continues with {before}", new.origin));
        }
    }
    if lines.is_empty() {
        lines.push("reloaded: no setting has changed".to_owned());
    }
    lines
}

fn text(entry: &ConfigEntry) -> String {
    let values = entry.shown();
    if values.is_empty() { "nothing".to_owned() } else { values.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cmd::settings::keys, config::SettingOrigin};

    fn entry(key: &str, values: &[&str]) -> ConfigEntry {
        let values = values.iter().map(|value| value.into()).collect();
        ConfigEntry { key: key.to_owned(), values, origin: SettingOrigin::Environment("X".to_owned()) }
    }

    #[test]
    fn what_can_change_changes_and_the_rest_is_named_each_time() {
        let mut in_use = [entry("hook-every", &["60s"]), entry("pin", &[]), entry("stuck-after", &["60s"])];
        let new = || vec![entry("hook-every", &["5s"]), entry("pin", &["/p"]), entry("stuck-after", &["60s"])];
        let restart = "pin needs a restart: /p (X), the agent continues with nothing";
        assert_eq!(update(&mut in_use, new()), ["reloaded: hook-every is 5s (X), was 60s", restart]);
        assert_eq!(update(&mut in_use, new()), [restart]);
        let old = vec![entry("hook-every", &["5s"]), entry("pin", &[]), entry("stuck-after", &["60s"])];
        assert_eq!(update(&mut in_use, old), ["reloaded: no setting has changed"]);
    }

    #[test]
    fn what_can_change_are_settings() {
        assert!(RELOADABLE.iter().all(|key| keys().names().any(|known| known == *key)));
    }
}
