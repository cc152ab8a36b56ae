//! Names of services: the name by which people know the owner of a group.

use std::fmt::Write as _;

use super::Process;
use crate::{model::Pileup, text::Comm, workload::Workload};

/// Length of a shortened id of a container or pod, as in `docker ps`.
const SHORT_ID: usize = 12;

/// Facts that name the owner of a group. The unit comes first, then the pod or container, then the name of the process with the
/// telling word of its command line.
#[derive(Clone, Copy, Debug, Default)]
pub struct Service<'a> {
    /// Unit, container or pod.
    pub workload: Option<&'a Workload>,
    /// Name and pid of the process.
    pub owner: Option<(&'a Comm, u32)>,
    /// Telling word of the command line of the process.
    pub script: Option<&'a str>,
}

impl Service<'_> {
    /// Returns the name without a pid, which is the same after a restart: `orders`, `shop/web-7d4/api`, `python3 orders.py`.
    /// `None` if neither the workload nor the owner is known.
    pub fn label(&self) -> Option<String> {
        self.of_workload().or_else(|| self.of_process(false))
    }

    /// Returns the name for people: as [`Service::label`], with the pid if there is no unit, container or pod:
    /// `python3[12782] orders.py`.
    pub fn name(&self) -> Option<String> {
        self.of_workload().or_else(|| self.of_process(true))
    }

    /// Returns the name of the process with its pid: `python3[12782] orders.py`; `None` without an owner.
    pub fn process(&self) -> Option<String> {
        self.of_process(true)
    }

    fn of_workload(&self) -> Option<String> {
        let Workload { unit, container, pod, .. } = self.workload?;
        if let Some(pod) = pod {
            let named = pod.name.as_deref().map(|name| {
                [pod.namespace.as_deref(), Some(name), pod.container_name.as_deref()].into_iter().flatten().collect()
            });
            let parts: Vec<&str> = named.unwrap_or_else(|| self.in_unnamed(&pod.uid));
            return Some(parts.join("/"));
        }
        if let Some(container) = container {
            return Some(self.in_unnamed(&container.id).join("/"));
        }
        // The name of a scope or of a user's systemd says nothing about the program.
        let unit = unit.as_deref()?.strip_suffix(".service")?;
        (!unit.starts_with("user@")).then(|| unit.to_owned())
    }

    /// Returns the parts of the name of a process in a container or pod of which only the id is known.
    fn in_unnamed<'n>(&'n self, id: &'n str) -> Vec<&'n str> {
        let program = self.script.or(self.owner.map(|(comm, _)| comm.as_str()));
        [id.get(..SHORT_ID).or(Some(id)), program].into_iter().flatten().collect()
    }

    fn of_process(&self, with_pid: bool) -> Option<String> {
        let (comm, pid) = self.owner?;
        let mut name = comm.to_string();
        // Writing to a String cannot fail.
        let _infallible: std::fmt::Result = if with_pid { write!(name, "[{pid}]") } else { Ok(()) };
        if let Some(script) = self.script.filter(|script| *script != comm.as_str()) {
            name.push(' ');
            name.push_str(script);
        }
        Some(name)
    }
}

impl Pileup {
    /// Returns the facts that name the owner of most of the group's sockets, or of their listener if no program has accepted them.
    pub fn service(&self) -> Service<'_> {
        let owner = self.owners.as_deref().and_then(|owners| owners.first()).map(|(task, _)| (&task.comm, task.pid));
        let process = self.evidence.process.as_deref();
        let process = process.filter(|process| owner.is_none_or(|(_, pid)| pid == process.pid));
        let owner = owner.or(process.map(|process| (&process.comm, process.pid)));
        let workload = self.evidence.workload.as_deref();
        Service {
            workload: process.and_then(Process::known_workload).or(workload),
            owner,
            script: process.and_then(|process| process.script.as_deref()),
        }
    }
}

impl Process {
    /// Returns the workload, unless it says nothing about the process.
    fn known_workload(&self) -> Option<&Workload> {
        self.workload.as_deref().filter(|workload| !workload.is_root())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(path: &str, script: Option<&str>) -> [Option<String>; 2] {
        let workload = Workload::parse(path);
        let comm = Comm::from_name(b"python3");
        let service = Service { workload: Some(&workload), owner: Some((&comm, 12782)), script };
        [service.name(), service.label()]
    }

    #[test]
    fn a_unit_names_the_service() {
        let both = |name: &str| [Some(name.to_owned()), Some(name.to_owned())];
        assert_eq!(names("/system.slice/orders.service", Some("orders.py")), both("orders"));
        assert_eq!(names("/user.slice/user@1000.service/app.slice/feed.service", None), both("feed"));
    }

    #[test]
    fn a_scope_or_the_root_does_not_name_the_service() {
        for path in ["/", "/user.slice/user-0.slice/session-3.scope", "/user.slice/user@1000.service/init.scope"] {
            let [name, label] = names(path, Some("orders.py"));
            assert_eq!(name.as_deref(), Some("python3[12782] orders.py"), "{path}");
            assert_eq!(label.as_deref(), Some("python3 orders.py"), "{path}");
        }
        assert_eq!(names("/user@0.service", Some("python3"))[0].as_deref(), Some("python3[12782]"));
    }

    #[test]
    fn an_id_alone_gets_the_program() {
        let id = "3f1c9d2e4a5b".repeat(6)[..64].to_owned();
        let [name, _] = names(&format!("/system.slice/docker-{id}.scope"), Some("api.py"));
        assert_eq!(name.as_deref(), Some("3f1c9d2e4a5b/api.py"));
        let uid = "0a1b2c3d-1111-2222-3333-444455556666";
        let mut workload = Workload::parse(&format!("/kubepods/pod{uid}/{id}"));
        let name = |workload: &Workload| Service { workload: Some(workload), ..Service::default() }.name();
        assert_eq!(name(&workload).as_deref(), Some("0a1b2c3d-111"));
        let pod = workload.pod.as_mut().unwrap();
        (pod.namespace, pod.name) = (Some("shop".to_owned()), Some("web-7d4".to_owned()));
        assert_eq!(name(&workload).as_deref(), Some("shop/web-7d4"));
        workload.pod.as_mut().unwrap().container_name = Some("api".to_owned());
        assert_eq!(name(&workload).as_deref(), Some("shop/web-7d4/api"));
    }

    #[test]
    fn no_process_pretends_to_be_another() {
        let comm = Comm::from_name(b"sshd[1]");
        let service = Service { owner: Some((&comm, 12782)), ..Service::default() };
        assert_eq!(service.name().as_deref(), Some("sshd(1)[12782]"));
        assert_eq!(service.label().as_deref(), Some("sshd(1)"));
    }

    #[test]
    fn nothing_known_has_no_name() {
        assert_eq!((Service::default().name(), Service::default().label()), (None, None));
    }
}
