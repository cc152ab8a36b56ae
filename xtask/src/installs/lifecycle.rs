//! A package from its installation to its removal, first without a running systemd, then with one.

use super::{Versions, lists};
use crate::nspawn::Nspawn;
use crate::package::native::Format;
use crate::prelude::*;

/// The configuration file of the package.
const CONFIG: &str = "etc/closewait/closewait.toml";
/// A change of the administrator.
const CHANGED: &str = "stuck-after = \"5s\"\n";
/// The highest exposure that `systemd-analyze security` may compute for the unit.
const MAX_EXPOSURE: f64 = 2.0;
/// Beginnings of lines that are no complaint: deb-systemd-helper's for every package, and systemd-nspawn's own.
const HARMLESS: [&str; 2] = ["Created symlink ", "Attempted to remove disk file system under "];
/// Leaves a socket in CLOSE_WAIT, as another user than the agent, for a minute at most.
const SERVER: &str =
    "use Socket; $a = INADDR_LOOPBACK; socket(L, PF_INET, SOCK_STREAM, 0); bind(L, sockaddr_in(0, $a)); listen(L, 1);
    ($port) = sockaddr_in(getsockname(L)); socket(C, PF_INET, SOCK_STREAM, 0); connect(C, sockaddr_in($port, $a));
    accept(S, L); close(C); sleep 60";

/// What installs packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manager {
    Dpkg,
    Rpm,
    Pacman,
}

impl Manager {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dpkg => "dpkg",
            Self::Rpm => "rpm",
            Self::Pacman => "pacman",
        }
    }

    pub(super) fn format(self) -> Format {
        match self {
            Self::Dpkg => Format::Deb,
            Self::Rpm => Format::Rpm,
            Self::Pacman => Format::Archlinux,
        }
    }

    /// The command that installs a file, or upgrades to it, or installs the same version again.
    fn install(self) -> &'static [&'static str] {
        match self {
            Self::Dpkg => &["dpkg", "--install"],
            // The database of rpm does not know Debian's packages.
            Self::Rpm => &["rpm", "--upgrade", "--nodeps", "--replacepkgs"],
            Self::Pacman => &["pacman", "--upgrade", "--noconfirm", "--noprogressbar"],
        }
    }

    fn remove(self) -> &'static [&'static str] {
        match self {
            Self::Dpkg => &["dpkg", "--remove", "closewait"],
            Self::Rpm => &["rpm", "--erase", "--nodeps", "closewait"],
            Self::Pacman => &["pacman", "--remove", "--noconfirm", "--noprogressbar", "closewait"],
        }
    }

    /// Where a changed configuration file is after a removal.
    fn kept(self) -> String {
        let suffix = match self {
            Self::Dpkg => "",
            Self::Rpm => ".rpmsave",
            Self::Pacman => ".pacsave",
        };
        format!("{CONFIG}{suffix}")
    }

    /// Whether an installation starts the service, as Debian's packages do.
    fn starts(self) -> bool {
        self == Self::Dpkg
    }
}

/// Installs, upgrades and removes a package in a clean root folder. The container's console goes to `log`.
pub(super) fn run(root: &Path, log: &Path, manager: Manager, versions: &Versions) -> Result<()> {
    let (first, second) = (place(root, &versions.first, "first")?, place(root, &versions.second, "second")?);
    without_systemd(root, manager, &first)?;
    let container = Nspawn::boot(root, log, &["--private-network"])?;
    let tried = with_systemd(root, &container, manager, [&first, &second]);
    if tried.is_err() {
        println!("{}", container.run(&["journalctl", "--no-pager", "--boot"]).unwrap_or_default());
    }
    tried
}

/// Copies a package into a folder of the root folder, and returns its path there.
fn place(root: &Path, package: &Path, folder: &str) -> Result<String> {
    let inside = format!("opt/{folder}/{}", package.file_name().context("a package has no name")?.display());
    fs::create_dir(root.join("opt").join(folder))?;
    fs::copy(package, root.join(&inside))?;
    Ok(format!("/{inside}"))
}

/// The beginning of a command that runs another one in a container of its own, in which systemd does not run.
pub(super) fn without_init(root: &Path) -> Result<Command> {
    let mut nspawn = Command::new(exec::find("systemd-nspawn")?);
    nspawn.args([
        "--quiet",
        "--register=no",
        "--keep-unit",
        "--link-journal=no",
        "--private-network",
        "--console=pipe",
    ]);
    nspawn.arg("--directory").arg(root);
    Ok(nspawn)
}

/// Where systemd does not run, as in a chroot or a build of an image, nothing can be started, and no user wants to read that.
fn without_systemd(root: &Path, manager: Manager, package: &str) -> Result<()> {
    let before = lists::paths(root)?;
    let run = |command: &[&str]| -> Result<()> {
        let output = without_init(root)?.args(command).stdin(Stdio::null()).output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        let complains = stderr.lines().any(|line| !HARMLESS.iter().any(|start| line.starts_with(start)));
        ensure!(output.status.success() && !complains, "{} without systemd: {stderr}", command.join(" "));
        Ok(())
    };
    run(&[manager.install(), &[package]].concat())?;
    let enabled = root.join("etc/systemd/system/multi-user.target.wants/closewait.service");
    ensure!(enabled.is_symlink(), "the service is not enabled");
    run(&["closewait", "--version"])?;
    run(manager.remove())?;
    if manager == Manager::Dpkg {
        run(&["dpkg", "--purge", "closewait"])?;
    }
    let left = lists::left(&before, &lists::paths(root)?)?;
    println!(
        "  {} where systemd does not run: installed, enabled and removed, without a complaint; left: {left}",
        manager.name()
    );
    Ok(())
}

fn with_systemd(root: &Path, container: &Nspawn, manager: Manager, [first, second]: [&str; 2]) -> Result<()> {
    container.wait_until_booted()?;
    let before = lists::paths(root)?;
    let install = |package: &str| container.run(&[manager.install(), &[package]].concat());

    install(first)?;
    if !manager.starts() {
        ensure!(container.property("ActiveState")? == "inactive", "{} has started the service", manager.name());
        container.run(&["systemctl", "start", "closewait"])?;
    }
    ensure!(container.property("UnitFileState")? == "enabled", "the service is not enabled");
    ensure!(container.property("ActiveState")? == "active", "the service is not active after the installation");
    container.run(&["closewait"])?;
    names_owner(container)?;
    let exposure = exposure(container)?;
    let systemd = container.run(&["systemctl", "--version"])?;
    let systemd = systemd.split_whitespace().nth(1).unwrap_or_default();
    println!("  installed: active, `closewait` and `closewait list` answer; exposure {exposure} (systemd {systemd})");

    fs::write(root.join(CONFIG), CHANGED)?;
    let pid = container.property("MainPID")?;
    install(second)?;
    ensure!(container.property("ActiveState")? == "active", "the service is not active after the upgrade");
    ensure!(container.property("MainPID")? != pid, "the upgrade has not restarted the service");
    ensure!(fs::read_to_string(root.join(CONFIG))? == CHANGED, "the upgrade has replaced the configuration file");
    ensure!(container.journal()?.contains("stuck after 5s"), "the new agent has not read the configuration file");
    println!("  upgraded: restarted, active; the changed configuration file was kept");

    container.run(&["systemctl", "disable", "--now", "closewait"])?;
    install(second)?;
    let states = [container.property("UnitFileState")?, container.property("ActiveState")?];
    ensure!(states == ["disabled", "inactive"], "the service that was disabled is {}", states.join(" and "));
    println!("  installed again: a disabled service stays disabled and ended");

    container.run(&["systemctl", "enable", "--now", "closewait"])?;
    container.run(manager.remove())?;
    ensure!(container.property("ActiveState")? == "inactive", "the service still runs after the removal");
    ensure!(!root.join("usr/bin/closewait").exists(), "the removal has left the binary");
    ensure!(fs::read_to_string(root.join(manager.kept()))? == CHANGED, "the removal has taken the changed file");
    if manager == Manager::Dpkg {
        install(second)?;
        ensure!(container.property("ActiveState")? == "active", "the service does not run after a second installation");
        container.run(manager.remove())?;
        container.run(&["dpkg", "--purge", "closewait"])?;
    } else {
        fs::remove_file(root.join(manager.kept()))?;
        // Not empty when the package was removed.
        fs::remove_dir(root.join("etc/closewait"))?;
    }
    let left = lists::left(&before, &lists::paths(root)?)?;
    let kept = if manager == Manager::Dpkg { "until the purge" } else { "under another name" };
    println!("  removed: the service has ended, the changed file was kept {kept}; left: {left}");
    Ok(())
}

/// Checks that the agent names the owner of a socket that belongs to another user: the unit hides other users' processes from
/// services without CAP_SYS_PTRACE.
fn names_owner(container: &Nspawn) -> Result<()> {
    container.run(&["systemd-run", "--quiet", "--unit=perl-server", "--property=User=daemon", "perl", "-e", SERVER])?;
    let deadline = exec::now() + Duration::from_secs(20);
    loop {
        let list = container.run(&["closewait", "list"])?;
        if list.contains("perl[") {
            break;
        }
        ensure!(exec::now() < deadline, "`closewait list` does not name the owner of a socket:\n{list}");
        thread::sleep(Duration::from_millis(200));
    }
    container.run(&["systemctl", "stop", "perl-server"]).map(drop)
}

/// Returns the figure of `systemd-analyze security`. It is an error if it is too high.
fn exposure(container: &Nspawn) -> Result<f64> {
    let table = container.run(&["systemd-analyze", "--no-pager", "security", "closewait.service"])?;
    let figure = table.lines().find_map(|line| line.split_once("Overall exposure level for closewait.service: "));
    let (_text, figure) = figure.with_context(|| format!("systemd-analyze printed no level: {table}"))?;
    let figure: f64 = figure.split_whitespace().next().unwrap_or_default().parse()?;
    ensure!(figure <= MAX_EXPOSURE, "the exposure of the unit is {figure}, and the limit is {MAX_EXPOSURE}:\n{table}");
    Ok(figure)
}
