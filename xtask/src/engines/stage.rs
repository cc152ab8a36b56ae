//! Programs with sockets in CLOSE_WAIT: a server that hangs, one that leaks, and a client with a healthy pool, each with its peers in a
//! network namespace of its own.

use super::service::Service;
use crate::prelude::*;

/// Port of each server in its namespace.
const PORT: &str = "8080";
/// Services as the agent names them.
pub(super) const HANG: &str = "python3 worker_pool.py";
pub(super) const LEAK: &str = "python3 forgets.py";
pub(super) const POOL: &str = "python3 idle_pool.py";
pub(super) const SERVICES: [&str; 3] = [HANG, LEAK, POOL];
/// Number of connections in the healthy pool.
pub(super) const POOL_SIZE: u64 = 12;

/// Running programs.
pub(super) struct Stage(Vec<Service>);

impl Stage {
    /// Starts all programs.
    pub(super) fn start(workspace: &Workspace, dir: &Path) -> Result<Self> {
        let mut stage = Self(Vec::new());
        let folder = workspace.root.join("closewait-agent/tests/scenarios/programs");
        let hang = stage.server("hang", &folder, &["worker_pool.py", "stuck"], dir)?;
        stage.beside("hang-clients", hang, &folder, &["clients.py", PORT, "/order", "400", "1.5", "1"], dir)?;
        let leak = stage.server("leak", &folder, &["forgets.py"], dir)?;
        stage.beside("leak-clients", leak, &folder, &["clients.py", PORT, "/forget", "300", "2", "1"], dir)?;
        stage.beside("leak-served", leak, &folder, &["clients.py", PORT, "/", "300", "2", "1"], dir)?;
        let pool = stage.server("pool-server", &folder, &["idle_server.py"], dir)?;
        stage.beside("pool", pool, &folder, &["idle_pool.py", PORT], dir)?;
        Ok(stage)
    }

    /// Ends all programs.
    pub(super) fn end(self) -> Result<()> {
        self.0.into_iter().rev().try_for_each(Service::end)
    }

    /// Starts a server in a new network namespace, and returns its process id once it listens.
    fn server(&mut self, name: &'static str, folder: &Path, arguments: &[&str], dir: &Path) -> Result<u32> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh", "python3"]).args(arguments);
        let listens = |server: &Service| {
            let sockets = fs::read_to_string(format!("/proc/{}/net/tcp", server.pid())).unwrap_or_default();
            // 127.0.0.1:8080 in state LISTEN.
            sockets.contains(" 0100007F:1F90 00000000:0000 0A ")
        };
        let server = Service::start(name, command.current_dir(folder), dir)?.wait_until(listens)?;
        let pid = server.pid();
        self.0.push(server);
        Ok(pid)
    }

    /// Starts a program in the namespace of a process.
    fn beside(&mut self, name: &'static str, pid: u32, folder: &Path, arguments: &[&str], dir: &Path) -> Result<()> {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).arg("python3").args(arguments).current_dir(folder);
        self.0.push(Service::start(name, &mut command, dir)?);
        Ok(())
    }
}
