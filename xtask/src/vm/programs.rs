//! The programs of a guest that the project does not build: busybox, and `ss` with its libraries.

use super::{apt::Apt, initramfs::Tree};
use crate::{dist::Arch, prelude::*};

/// Suite of Debian that has the programs for another architecture than that of this machine.
const SUITE: &str = "trixie";
/// Packages of the programs.
const PACKAGES: [&str; 2] = ["busybox-static", "iproute2"];

/// Files of the programs on this machine.
#[derive(Debug)]
pub(super) struct Programs {
    /// Static: it is the first process, before anything else.
    pub(super) busybox: PathBuf,
    /// `ss` and its libraries, each with its path in the guest.
    ss: Vec<(PathBuf, String)>,
}

impl Programs {
    /// Finds them on this machine, or downloads them into `dir` if they are for another architecture. `work` is for apt's own
    /// files.
    pub(super) fn find(dir: &Path, work: &Path, arch: Arch) -> Result<Self> {
        if arch.is_of_this_machine() {
            return Self::of_this_machine();
        }
        if !dir.is_dir() {
            let start = exec::now();
            let apt = Apt::new(work, arch, &[SUITE])?;
            apt.update().with_context(|| format!("cannot get the lists of {SUITE}"))?;
            apt.unpack_with_dependencies(&PACKAGES, dir)?;
            println!("vm: unpacked {} ({:.1} s)", PACKAGES.join(", "), start.elapsed().as_secs_f64());
        }
        Self::in_folder(dir, arch)
    }

    fn of_this_machine() -> Result<Self> {
        let busybox = exec::find("busybox")?;
        // The guest has no libraries for it.
        let dynamic = exec::quiet(Command::new("ldd").arg(&busybox)).is_ok_and(|text| text.contains("=>"));
        ensure!(!dynamic, "busybox is not linked statically\nhint: install busybox-static");
        let program = exec::find("ss")?;
        let libraries = exec::quiet(Command::new("ldd").arg(&program))?;
        let program = program.to_str().context("the path of a program is not UTF-8")?;
        let files = libraries.split_whitespace().filter(|word| word.starts_with('/')).chain([program]);
        Ok(Self { busybox, ss: files.map(|file| (file.into(), file.to_owned())).collect() })
    }

    /// Finds them among unpacked packages.
    fn in_folder(dir: &Path, arch: Arch) -> Result<Self> {
        // Debian's packages have their files below usr; base-files, which is not among them, makes /lib and /bin lead there.
        let libraries = format!("usr/lib/{}-linux-gnu", arch.name());
        let mut ss = vec![(dir.join("usr/bin/ss"), "/usr/bin/ss".to_owned())];
        // No program here lists those that another architecture's program needs. All of them are some 20 MB.
        for folder in ["usr/lib", &libraries] {
            for entry in fs::read_dir(dir.join(folder))? {
                let file = entry?.path();
                let name = file.file_name().and_then(|name| name.to_str()).context("a library's name is not UTF-8")?;
                if name.contains(".so.") {
                    let to = format!("/{}/{name}", folder.trim_start_matches("usr/"));
                    ss.push((file, to));
                }
            }
        }
        Ok(Self { busybox: dir.join("usr/bin/busybox"), ss })
    }

    /// Copies `ss` and its libraries into a guest.
    pub(super) fn copy_ss(&self, tree: &Tree) -> Result<()> {
        self.ss.iter().try_for_each(|(from, path)| tree.copy(from, path))
    }
}
