//! `cargo xtask systemd`: contrib/systemd/closewait.service under a real systemd, in a container of systemd-nspawn with this
//! host's /usr and folders of its own for everything else.

use std::{env, ffi::OsString, os::unix::fs::symlink};

use tests_support::http;

use crate::container::Container;
use crate::prelude::*;
use crate::{build, root};

/// Where the unit expects the agent, and where the container has it: /usr is the host's.
const PLACES: (&str, &str) = ("/usr/bin/closewait", "/opt/closewait");
/// Shorter times than the unit's, so that the test need not wait for them.
const DROP_IN: &str = "[Service]\nWatchdogSec=2\nRestartSec=1\n";
/// Settings of the first start, and a change that needs no restart.
const SETTINGS: [&str; 2] = ["stuck-after = \"5s\"\n", "stuck-after = \"5s\"\nmin-certainty = \"high\"\n"];

/// Builds the agent, boots the container, and checks the service from its start to its end.
pub(crate) fn run(workspace: &Workspace, binary: Option<&Path>) -> Result<()> {
    let Some(binary) = binary else {
        root::install(workspace, "systemd")?;
        let binary = ["--binary".into(), build::debug(workspace)?.into()];
        let args: Vec<OsString> = env::args_os().skip(1).chain(binary).collect();
        return root::become_program(&exec::this()?, &args, "booting systemd in a container");
    };
    exec::with_scratch("systemd", |dir| {
        let port = http::free_port()?;
        prepare(workspace, binary, dir, port)?;
        let container = Container::boot(dir, &workspace.target.join("systemd.log"), &["--bind-ro=/usr"])?;
        let checked = check(&container, dir, port);
        if checked.is_err() {
            println!("{}", container.run(&["journalctl", "--no-pager", "--boot"]).unwrap_or_default());
        }
        checked
    })
}

/// Makes the root folder of the container.
fn prepare(workspace: &Workspace, binary: &Path, dir: &Path, port: u16) -> Result<()> {
    let units = dir.join("etc/systemd/system");
    let (wants, drop_in) = (units.join("multi-user.target.wants"), units.join("closewait.service.d"));
    for folder in ["dev", "opt", "proc", "root", "run", "sys", "tmp", "usr", "var", "etc/closewait"] {
        fs::create_dir_all(dir.join(folder))?;
    }
    fs::create_dir_all(&wants)?;
    fs::create_dir_all(&drop_in)?;
    for link in ["bin", "lib", "lib64", "sbin"] {
        symlink(format!("usr/{link}"), dir.join(link)).with_context(|| format!("making the link {link} failed"))?;
    }
    for file in ["passwd", "group", "nsswitch.conf"] {
        fs::copy(Path::new("/etc").join(file), dir.join("etc").join(file))?;
    }
    fs::copy("/usr/lib/os-release", dir.join("etc/os-release"))?;
    fs::write(dir.join("etc/machine-id"), "")?;
    fs::copy(binary, dir.join("opt/closewait"))?;
    let unit = fs::read_to_string(workspace.root.join("contrib/systemd/closewait.service"))?;
    fs::write(units.join("closewait.service"), unit.replace(PLACES.0, PLACES.1))?;
    fs::write(drop_in.join("test.conf"), DROP_IN)?;
    fs::write(dir.join("etc/closewait/closewait.toml"), settings(0, port))?;
    symlink("../closewait.service", wants.join("closewait.service")).context("enabling the unit failed")?;
    symlink("/lib/systemd/system/multi-user.target", units.join("default.target")).context("setting the target failed")
}

/// Returns a file of settings. The container has the network of the host.
fn settings(number: usize, port: u16) -> String {
    format!("{}listen = \"127.0.0.1:{port}\"\n", SETTINGS[number])
}

/// Checks one property after the other.
fn check(container: &Container, dir: &Path, port: u16) -> Result<()> {
    let write = |settings: &str| fs::write(dir.join("etc/closewait/closewait.toml"), settings);
    container.wait_for("ActiveState", |state| state == "active")?;
    let first = container.property("MainPID")?;
    let status = container.wait_for("StatusText", |text| text.contains("sockets in CLOSE_WAIT stuck"))?;
    ensure!(container.journal()?.contains("stuck after 5s"), "the agent has not read its file of settings");
    println!("started as the user of the service; status: {status}");
    let page = http::get(port, "/metrics")?;
    ensure!(page.contains("closewait_sockets{state=\"close_wait\"} "), "the page of metrics: {page}");
    println!("served metrics on loopback");

    write(&settings(1, port))?;
    container.run(&["systemctl", "reload", "closewait"])?;
    container.wait_in_journal("reloaded: min-certainty is high (/etc/closewait/closewait.toml:2), was low")?;
    println!("reloaded a changed file");

    write("min-certainty = 1\n")?;
    ensure!(container.run(&["systemctl", "reload", "closewait"]).is_err(), "a broken file is a failed reload");
    container.wait_in_journal("closewait.toml:1:17: invalid value 1 for min-certainty")?;
    container.wait_for("ActiveState", |state| state == "active")?;
    // SIGHUP by hand, without the check.
    container.run(&["systemctl", "kill", "--signal=HUP", "closewait"])?;
    container.wait_in_journal("the agent continues with the old one")?;
    container.wait_for("ActiveState", |state| state == "active")?;
    ensure!(container.property("MainPID")? == first, "a broken file has restarted the agent");
    println!("refused a broken file, and continued");

    write(&settings(0, port))?;
    // Two periods of the watchdog.
    thread::sleep(Duration::from_secs(4));
    ensure!(container.property("NRestarts")? == "0", "the watchdog has ended a healthy agent");
    container.run(&["systemctl", "kill", "--signal=STOP", "closewait"])?;
    container.wait_for("NRestarts", |restarts| restarts == "1")?;
    container.wait_for("ActiveState", |state| state == "active")?;
    ensure!(container.journal()?.contains("Watchdog timeout"), "another reason for the restart");
    println!("restarted a hanging agent by the watchdog");

    let began = exec::now();
    container.run(&["systemctl", "stop", "closewait"])?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(5), "the end took {took:?}");
    ensure!(container.property("Result")? == "success", "the agent has failed at its end");
    println!("stopped in {:.1} s", took.as_secs_f64());

    write("max-tracked = 0\n")?;
    ensure!(container.run(&["systemctl", "start", "closewait"]).is_err(), "a broken file is a failed start");
    let (code, restarts) = (container.property("ExecMainStatus")?, container.property("NRestarts")?);
    ensure!((code.as_str(), restarts.as_str()) == ("78", "0"), "exit code {code}, {restarts} restarts");
    println!("refused to start with a broken file: exit code 78, no restart");
    Ok(())
}
