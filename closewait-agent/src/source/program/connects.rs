//! Maps of the connections that the tracepoint's program samples.

use aya::maps::{HashMap, RingBuf};
use closewait_common::{connect::ConnectWatch, names};

use super::{KernelProgramError, KernelPrograms};
use crate::source::connects::ConnectReader;

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
        Ok(Some(ConnectReader::new(ring, watches)))
    }
}
