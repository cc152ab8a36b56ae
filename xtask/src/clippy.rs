//! `cargo xtask clippy`.

use anyhow::Result;

use crate::{
    exec::{self, Workspace},
    setup,
};

/// Lints what runs on the host, then the kernel program.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    setup::run(workspace)?;
    exec::run(
        workspace
            .cargo("clippy")
            // The kernel program has no standard library and does not build for the host.
            .args(["--workspace", "--exclude", "closewait-ebpf"])
            // `--all-targets` leaves out what a plain `cargo test` does not run.
            .args(["--all-targets", "--test", "kernel"])
            .args(["--", "-D", "warnings"]),
    )?;
    exec::run(
        workspace
            .cargo("clippy")
            .args(["--package", "closewait-ebpf", "--target", "bpfel-unknown-none"])
            // No toolchain ships `core` for this target, and a stable compiler takes -Z only with RUSTC_BOOTSTRAP.
            // Crates of the host's build probe for that variable, hence a target folder of its own: with the shared
            // one, every change between the two would build those crates again.
            .args(["-Z", "build-std=core"])
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_TARGET_DIR", workspace.target.join("ebpf-clippy"))
            .args(["--", "-D", "warnings"]),
    )
}
