//! Stacks in which the owners of groups opened their connections, as far as the agent has sampled them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::host_context::HostContext;
use crate::{
    model::{ConnectQuestion, Endpoint},
    process::Process,
    stacks::{ConnectSamples, ConnectStacks},
    time::BootTime,
    track::socket_view::Owners,
};

/// Maximum number of watched pairs of a process and a remote endpoint; those with the most sockets come first. Each has up to 50 KB of
/// names.
const MAX_ENTRIES: usize = 64;

/// Process, network namespace of its socket, and remote endpoint.
type ConnectKey = (u32, Option<u32>, Endpoint);

/// Stacks by the process and the remote endpoint of the connections.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct ConnectLog {
    entries: BTreeMap<ConnectKey, ConnectEntry>,
}

/// Connections of one process to one remote endpoint.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct ConnectEntry {
    /// Time of the first sample; `None` before it.
    began: Option<BootTime>,
    stacks: ConnectStacks,
}

impl ConnectLog {
    /// Stores the samples of an inspection. Drops those to endpoints that no group has.
    pub(super) fn learn(&mut self, read: ConnectSamples) {
        let ConnectSamples { pid, port, connects, samples } = read;
        for (_, entry) in self.entries.iter_mut().filter(|((of, _, remote), _)| *of == pid && remote.port == port) {
            entry.stacks.connects = entry.stacks.connects.saturating_add(connects);
        }
        for sample in samples {
            // Records of the classic tracepoint have no namespace.
            let place = [sample.netns, None].map(|netns| (pid, netns, sample.remote));
            let key = place.into_iter().find(|key| self.entries.contains_key(key));
            if let Some(entry) = key.and_then(|key| self.entries.get_mut(&key)) {
                entry.began.get_or_insert(sample.at);
                entry.stacks.add(&sample.stack);
            }
        }
    }

    /// Forgets all entries but the `wanted` ones, each with a number of sockets, and returns what to watch.
    fn request(&mut self, wanted: BTreeMap<ConnectKey, u64>) -> Vec<ConnectQuestion> {
        let mut ranked: Vec<_> = wanted.into_iter().map(|(key, count)| (u64::MAX - count, key)).collect();
        ranked.sort_unstable();
        ranked.truncate(MAX_ENTRIES);
        let mut before = std::mem::take(&mut self.entries);
        self.entries = ranked.into_iter().map(|(_, key)| (key, before.remove(&key).unwrap_or_default())).collect();
        let mut questions: Vec<_> =
            self.entries.keys().map(|(pid, _, remote)| ConnectQuestion { pid: *pid, port: remote.port }).collect();
        questions.sort_unstable();
        questions.dedup();
        questions
    }

    /// Returns the stacks of a process; `None` if there is no sample, or they are of an earlier process with its number.
    fn of(&self, process: &Process, netns: Option<u32>, remote: Endpoint) -> Option<&ConnectStacks> {
        let entry = self.entries.get(&(process.pid, netns, remote))?;
        let is_same = process.started_ns.map(BootTime) <= entry.began;
        (is_same && entry.began.is_some()).then_some(&entry.stacks)
    }
}

impl HostContext {
    /// Returns the connections that the agent samples from now on: those of the owners of sockets, each with the namespace and the
    /// remote endpoint of its flow. Owners that were not read yet follow later; interpreters have stacks that say nothing.
    pub(crate) fn connect_request<'a>(
        &mut self,
        clients: impl Iterator<Item = (Option<u32>, Endpoint, Owners<'a>)>,
    ) -> Vec<ConnectQuestion> {
        let mut wanted = BTreeMap::<ConnectKey, u64>::new();
        for (netns, remote, owners) in clients {
            for owner in &*owners {
                let process = self.processes().get(&owner.task.pid);
                if process.is_some_and(|process| process.runtime.is_none_or(|runtime| !runtime.is_interpreter())) {
                    *wanted.entry((owner.task.pid, netns, remote)).or_default() += 1;
                }
            }
        }
        self.connects.request(wanted)
    }

    /// Returns the stacks in which a process opened connections to a remote endpoint; `None` if none was sampled.
    pub(crate) fn connect_stacks(
        &self,
        process: &Process,
        netns: Option<u32>,
        remote: Endpoint,
    ) -> Option<&ConnectStacks> {
        self.connects.of(process, netns, remote)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        process::ProgramRuntime,
        stacks::{CodeFrame, CodeLanguage, CodeStack, ConnectSample},
        testing::{owner, process},
    };

    fn remote(port: u16) -> Endpoint {
        Endpoint { address: std::net::Ipv4Addr::LOCALHOST.into(), port }
    }

    fn sample(second: u64, port: u16) -> ConnectSample {
        let frame = CodeFrame {
            function: Some("dial".to_owned()),
            object: Some("/srv/app".to_owned()),
            ..CodeFrame::default()
        };
        let stack = CodeStack {
            language: CodeLanguage::Native,
            tid: Some(7),
            name: None,
            state: None,
            lock_owner: None,
            frames: vec![frame],
            cut: None,
        };
        ConnectSample { at: BootTime(second), netns: Some(1), remote: remote(port), stack }
    }

    fn context(runtime: Option<ProgramRuntime>) -> HostContext {
        let mut context = HostContext::default();
        let process = Process { runtime, started_ns: Some(5), ..process("app", 7, None) };
        context.learn(crate::model::InspectionFact::Process { at: BootTime(9), process: Box::new(process) });
        context
    }

    fn request(context: &mut HostContext, ports: &[u16], netns: Option<u32>) -> Vec<(u32, u16)> {
        let owners = [owner("app", 7, 5), owner("unread", 8, 5)];
        let clients = ports.iter().map(|port| (netns, remote(*port), Owners::Others(&owners)));
        context.connect_request(clients).into_iter().map(|question| (question.pid, question.port)).collect()
    }

    fn learn(context: &mut HostContext, connects: u64, samples: Vec<ConnectSample>) {
        let samples = ConnectSamples { pid: 7, port: 80, connects, samples };
        context.learn(crate::model::InspectionFact::Connects(Box::new(samples)));
    }

    fn sampled(context: &HostContext, started_ns: u64, netns: Option<u32>) -> Option<(u32, u64)> {
        let process = Process { started_ns: Some(started_ns), ..process("app", 7, None) };
        let stacks = context.connect_stacks(&process, netns, remote(80))?;
        Some((stacks.sampled(), stacks.connects))
    }

    #[test]
    fn samples_are_kept_while_the_owner_has_sockets_to_the_endpoint() {
        let mut context = context(None);
        assert_eq!(request(&mut context, &[80, 80, 81], Some(1)), [(7, 80), (7, 81)], "one owner was not read");
        assert_eq!(sampled(&context, 5, Some(1)), None);
        learn(&mut context, 9, vec![sample(20, 80), sample(21, 80), sample(22, 443)]);
        assert_eq!(sampled(&context, 5, Some(1)), Some((2, 9)));
        assert_eq!(sampled(&context, 21, Some(1)), None, "a later process");
        assert_eq!(sampled(&context, 5, Some(2)), None, "another namespace");
        request(&mut context, &[80], Some(1));
        learn(&mut context, 1, Vec::new());
        assert_eq!(sampled(&context, 5, Some(1)), Some((2, 10)));
        request(&mut context, &[81], Some(1));
        request(&mut context, &[80], Some(1));
        assert_eq!(sampled(&context, 5, Some(1)), None);
    }

    #[test]
    fn without_a_namespace_the_endpoint_counts() {
        let mut context = context(None);
        request(&mut context, &[80], None);
        learn(&mut context, 1, vec![sample(20, 80)]);
        assert_eq!(sampled(&context, 5, None), Some((1, 1)));
    }

    #[test]
    fn interpreters_are_not_watched_and_the_most_frequent_endpoints_are() {
        assert!(request(&mut context(Some(ProgramRuntime::CPython)), &[80], None).is_empty());
        assert_eq!(request(&mut context(Some(ProgramRuntime::Go)), &[80], None), [(7, 80)]);
        let ports: Vec<u16> = (1..=70).chain([70]).collect();
        let asked = request(&mut context(None), &ports, None);
        assert_eq!((asked.len(), asked.last()), (MAX_ENTRIES, Some(&(7, 70))));
    }
}
