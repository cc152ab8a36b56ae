//! Names that almost every task uses.

pub(crate) use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

pub(crate) use anyhow::{Context as _, Result, bail, ensure};
pub(crate) use clap::Args;
// Its errors name the file.
pub(crate) use fs_err as fs;
pub(crate) use serde_json::Value;

pub(crate) use crate::{
    exec::{self, Workspace},
    markdown,
};
