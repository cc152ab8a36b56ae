//! Ports whose closes the tracepoint's program counts.

use std::collections::BTreeMap;

use aya::maps::{Array, HashMap, MapError};
use closewait_common::{
    names,
    watched::{Watched, key},
};

use super::{KernelProgramError, KernelPrograms};
use crate::host::plan::Tracepoint;
use closewait_engine::{
    model::{PortCloses, WatchedPort},
    time::BootTime,
};

impl KernelPrograms {
    /// Makes the kernel program count the closes of these ports, and of no others. A port that has been watched since
    /// the same time keeps its count. The classic tracepoint's program counts none.
    ///
    /// # Errors
    ///
    /// If a map cannot be written.
    pub fn watch_ports(&mut self, ports: &[WatchedPort]) -> Result<(), KernelProgramError> {
        let wanted: BTreeMap<u64, u64> =
            ports.iter().filter_map(|port| Some((key(port.netns?, port.port, port.remote), port.since.0))).collect();
        let name = names::WATCHED;
        let failed = |source| KernelProgramError::Map { name, source };
        let map = self.ebpf.map_mut(name).ok_or(KernelProgramError::Missing(name))?;
        let mut map: HashMap<_, u64, Watched> = HashMap::try_from(map).map_err(failed)?;
        let before = match self.watched.take() {
            Some(before) => before,
            // The entries of an earlier agent are replaced.
            None => map.keys().map(|key| Ok((key?, u64::MAX))).collect::<Result<_, _>>().map_err(failed)?,
        };
        for key in before.keys().filter(|key| !wanted.contains_key(key)) {
            match map.remove(key) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(failed(source)),
            }
        }
        for (key, since_ns) in wanted.iter().filter(|(key, since_ns)| before.get(key) != Some(since_ns)) {
            map.insert(key, Watched { since_ns: *since_ns, ..Watched::default() }, 0).map_err(failed)?;
        }
        let name = names::WATCHING;
        let failed = |source| KernelProgramError::Map { name, source };
        let map = self.ebpf.map_mut(name).ok_or(KernelProgramError::Missing(name))?;
        let mut count: Array<_, u32> = Array::try_from(map).map_err(failed)?;
        count.set(0, u32::try_from(wanted.len()).unwrap_or(u32::MAX), 0).map_err(failed)?;
        self.watched = Some(wanted);
        Ok(())
    }

    /// Returns the closes of those of `ports` that are watched since the given time. Empty where the kernel program
    /// counts none.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub fn closes(&self, ports: &[WatchedPort]) -> Result<Vec<PortCloses>, KernelProgramError> {
        let Some(watched) = self.watched.as_ref().filter(|_| self.plan.hook == Tracepoint::Btf) else {
            return Ok(Vec::new());
        };
        let name = names::WATCHED;
        let failed = |source| KernelProgramError::Map { name, source };
        let map = self.ebpf.map(name).ok_or(KernelProgramError::Missing(name))?;
        let map: HashMap<_, u64, Watched> = HashMap::try_from(map).map_err(failed)?;
        let mut closes = Vec::new();
        for port in ports {
            let Some(netns) = port.netns else { continue };
            let key = key(netns, port.port, port.remote);
            if watched.get(&key) != Some(&port.since.0) {
                continue;
            }
            match map.get(&key, 0) {
                Ok(Watched { since_ns, closes: count, last_ns }) if since_ns == port.since.0 => {
                    closes.push(PortCloses { port: *port, count, last: (last_ns != 0).then_some(BootTime(last_ns)) });
                }
                Ok(_) | Err(MapError::KeyNotFound) => {}
                Err(source) => return Err(failed(source)),
            }
        }
        Ok(closes)
    }
}
