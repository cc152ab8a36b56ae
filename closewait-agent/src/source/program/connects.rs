//! Maps of the connections that the tracepoint's program samples.

use std::collections::BTreeMap;

use aya::maps::{HashMap, RingBuf};
use closewait_common::{connect::ConnectWatch, names};

use super::{KernelProgramError, KernelPrograms};
use crate::source::connects::ConnectReader;
use closewait_engine::model::ConnectQuestion;

impl KernelPrograms {
    /// Returns the reader of sampled connections; `None` if the program samples none. Works once.
    ///
    /// # Errors
    ///
    /// If it was taken before, or a map cannot be used.
    pub fn connect_reader(&mut self) -> Result<Option<ConnectReader>, KernelProgramError> {
        if !self.samples_connects {
            return Ok(None);
        }
        let name = names::CONNECTS;
        let map = self.ebpf.take_map(name).ok_or(KernelProgramError::Missing(name))?;
        let ring = RingBuf::try_from(map).map_err(|source| KernelProgramError::Map { name, source })?;
        let name = names::CONNECT_WATCHES;
        let map = self.ebpf.take_map(name).ok_or(KernelProgramError::Missing(name))?;
        let watches: HashMap<_, u64, ConnectWatch> =
            HashMap::try_from(map).map_err(|source| KernelProgramError::Map { name, source })?;
        // The entries of an earlier agent are removed with the first inspection. No process has the number 0.
        let none = ConnectQuestion { pid: 0, port: 0 };
        let watched: BTreeMap<u64, ConnectQuestion> = watches.keys().flatten().map(|key| (key, none)).collect();
        Ok(Some(ConnectReader { ring, watches, watched }))
    }
}
