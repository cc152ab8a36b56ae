//! Rules and dashboard of `contrib/monitoring`: every expression is parsed and uses metrics and labels that the agent exports, and
//! the alerts of recorded incidents are those that the unit tests of the rules expect.

mod dashboard;
mod native;
mod promql;
mod promtool;
mod rules;
mod series;

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Returns the path of a file in the repository.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

/// Returns the text of a file in the repository.
fn text(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}
