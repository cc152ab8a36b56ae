//! Sequences of instructions (`iseq`): function, file, and the line of an instruction.

use super::{
    super::{
        blocks::{half, word},
        calls::{NamedCall, RawCall},
        limit::{MAX_FILE_BYTES, MAX_FUNCTION_BYTES},
        memory::MemoryError,
        stack::Frame,
    },
    layout::RubyLayout,
    objects::RubyObjects,
};

/// `imemo_iseq` of `imemo_type` (internal/imemo.h at `v3_1_2`).
const SEQUENCE: u64 = 7;
/// Size of the part of `rb_iseq_constant_body` that is read: `iseq_size` at 4, `iseq_encoded` at 8, `location.pathobj` at 64,
/// `location.label` at 80 (vm_core.h at `v2_7_4`, `v3_1_2` and `v3_3_8`), and `insns_info`.
const BODY: usize = 152;
/// Number of instructions whose ranks are in a table of 9 in each word, 7 bits each (`IMMEDIATE_TABLE_SIZE`, iseq.c at `v3_1_2`).
const IMMEDIATE: u64 = 54;
/// Size of the blocks behind it (`struct succ_dict_block`), which have the ranks of 512 instructions each.
const BLOCK: u64 = 80;

/// Returns the function, file and line of a call.
pub(super) fn named(objects: &RubyObjects<'_>, layout: &RubyLayout, call: &RawCall) -> Result<NamedCall, MemoryError> {
    // `body` of `rb_iseq_t` follows `wrapper`.
    let Some((SEQUENCE, _)) = objects.internal(call.function)? else { return Ok(NamedCall::Damaged) };
    let address = objects.u64(call.function.wrapping_add(16))?;
    let mut body = [0; BODY];
    objects.fill(address, &mut body)?;
    let offset = call.instruction.wrapping_sub(word(&body, 8));
    let position = offset / 8;
    if !offset.is_multiple_of(8) || position > half(&body, 4).into() {
        return Ok(NamedCall::Damaged);
    }
    let path = word(&body, 64);
    // The path, or an array of it and of the path without links.
    let path = objects.element(path, 0)?.unwrap_or(path);
    let file = objects.text(path, MAX_FILE_BYTES)?;
    let function = objects.text(word(&body, 80), MAX_FUNCTION_BYTES)?;
    if file.is_none() || function.is_none() {
        return Ok(NamedCall::Damaged);
    }
    // The program counter is behind the instruction (`calc_pos`, vm_backtrace.c at `v3_3_8`).
    let line = line(objects, layout, &body, position.saturating_sub(1))?;
    Ok(NamedCall::Call(Frame { function, file, line, ..Frame::default() }))
}

/// Returns the line of an instruction, as `get_insn_info_succinct_bitvector` does (iseq.c at `v2_7_4`, `v3_1_2` and `v3_3_8`); `None`
/// if it has none.
fn line(
    objects: &RubyObjects<'_>,
    layout: &RubyLayout,
    body: &[u8],
    position: u64,
) -> Result<Option<u32>, MemoryError> {
    let (entries, count) = (word(body, layout.lines), half(body, layout.lines + 16));
    let rank = match count {
        0 => return Ok(None),
        1 => 1,
        _ => rank(objects, word(body, layout.lines + 24), position)?,
    };
    if rank == 0 || rank > count.into() {
        return Ok(None);
    }
    let mut line = [0; 4];
    objects.fill(entries.wrapping_add((rank - 1) * layout.line), &mut line)?;
    Ok(Some(u32::from_le_bytes(line)).filter(|line| *line != 0 && *line <= u32::MAX / 2))
}

/// Returns the number of entries up to an instruction, as `succ_index_lookup` does (iseq.c at `v3_1_2`).
fn rank(objects: &RubyObjects<'_>, table: u64, position: u64) -> Result<u64, MemoryError> {
    let Some(behind) = position.checked_sub(IMMEDIATE) else {
        let ranks = objects.u64(table.wrapping_add(position / 9 * 8))?;
        return Ok(ranks >> (position % 9 * 7) & 0x7f);
    };
    let block = table.wrapping_add(IMMEDIATE / 9 * 8).wrapping_add(behind / 512 * BLOCK);
    let (part, bit) = (behind % 512 / 64, behind % 64);
    let (first, ranks) = (objects.u64(block)?, objects.u64(block.wrapping_add(8))?);
    let bits = objects.u64(block.wrapping_add(16 + part * 8))?;
    // The first part begins with the block.
    let before = part.checked_sub(1).map_or(0, |index| ranks >> (index * 9) & 0x1ff);
    Ok((first & u64::from(u32::MAX)) + before + u64::from((bits << (63 - bit)).count_ones()))
}
