//! List of all goroutines: `runtime.allgs` of `src/runtime/proc.go` (go1.15 to go1.27), a slice that only grows.

use super::{
    goroutine,
    module::{self, GoModule},
};
use crate::{
    memory::{MemoryError, readable, words_of},
    process::TargetProcess,
    stack::StackError,
};

/// Number of goroutines that each program has before `main.main` starts: `runtime.main`, `forcegchelper`, `bgsweep`, `bgscavenge`.
const FEWEST: u64 = 4;
/// Maximum length of the list; a longer one is something else.
const MOST: u64 = 1 << 25;

/// Returns the addresses of the first `most` goroutines.
pub(super) fn addresses(
    process: &TargetProcess<'_>,
    module: &GoModule<'_>,
    most: usize,
) -> Result<Vec<u64>, StackError> {
    let (list, len) = match find(process, module)? {
        Some(found) => found,
        None => named(process, module)?
            .ok_or_else(|| StackError::Unexpected("the list of goroutines of a Go program was not found".to_owned()))?,
    };
    let examined = usize::try_from(len).unwrap_or(most).min(most);
    if len > examined as u64 {
        let more = len - examined as u64;
        module
            .memory
            .leave_out(format!("{more} goroutines of the {len} in the list are not read, the newest or ended ones"));
    }
    let bytes = module.memory.bytes(list, examined * 8)?;
    Ok(words_of(&bytes).filter(|address| *address != 0).collect())
}

/// Finds the list among the variables by its content: each `g` has its own address at a known place (`g.sched.g`).
fn find(process: &TargetProcess<'_>, module: &GoModule<'_>) -> Result<Option<(u64, u64)>, MemoryError> {
    // Another pointer to the same array, such as `allgptr`, may have other numbers behind it. They can pass for a length only if they
    // are smaller: the array has zeros behind its last goroutine.
    let mut best: Option<(u64, u64)> = None;
    module::search(module.memory, module.bss.clone(), 3, |_, words| {
        let [list, len, capacity] = [words[0], words[1], words[2]];
        if is_list(process, module, list, len, capacity)? && best.is_none_or(|(_, longest)| longest < len) {
            best = Some((list, len));
        }
        Ok(None::<()>)
    })?;
    Ok(best)
}

/// Reads the list at the address that the symbol table has for it.
fn named(process: &TargetProcess<'_>, module: &GoModule<'_>) -> Result<Option<(u64, u64)>, MemoryError> {
    let Some(address) = process.symbols.named(module.object.mapping, "runtime.allgs") else { return Ok(None) };
    let address = address.wrapping_add(module.object.bias);
    let [list, len, capacity] = [0, 8, 16].map(|offset| module.memory.u64(address.wrapping_add(offset)));
    let (list, len) = (list?, len?);
    Ok(is_list(process, module, list, len, capacity?)?.then_some((list, len)))
}

fn is_list(
    process: &TargetProcess<'_>,
    module: &GoModule<'_>,
    list: u64,
    len: u64,
    capacity: u64,
) -> Result<bool, MemoryError> {
    if !(FEWEST..=MOST).contains(&len) || len > capacity || capacity > MOST || !list.is_multiple_of(8) {
        return Ok(false);
    }
    if list == 0 || !module::is_anonymous(process, list) {
        return Ok(false);
    }
    for index in [0, 1, len / 2, len - 1] {
        let Some(address) = readable(module.memory.u64(list.wrapping_add(8 * index)))? else { return Ok(false) };
        // The last one may be so new that its own address is not in it yet.
        let is_new = index == len - 1;
        if !module::is_anonymous(process, address) || !is_new && !goroutine::is_goroutine(module, address)? {
            return Ok(false);
        }
    }
    Ok(true)
}
