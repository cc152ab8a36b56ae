//! Instructions of x86_64, as far as they move the stack pointer.
//!
//! Source: Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2, appendix A.

use super::{
    code::CallTarget,
    ending::{Base, Effect, Instruction},
};

/// Number of the stack pointer in an instruction.
const SP: u8 = 4;
/// Number of the frame pointer in an instruction.
const BP: u8 = 5;
/// DWARF numbers of the registers, by their numbers in an instruction.
const NUMBERS: [u16; 16] = [0, 2, 1, 3, 7, 6, 4, 5, 8, 9, 10, 11, 12, 13, 14, 15];

/// Operands of an instruction after its opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operands {
    /// None, or that many bytes of an immediate value.
    Immediate(usize),
    /// A ModRM byte, and that many bytes of an immediate value.
    ModRm(usize),
}

/// ModRM byte with what follows it.
#[derive(Clone, Copy, Debug)]
struct ModRm {
    /// Register operand, or extension of the opcode.
    register: u8,
    /// Register of the other operand; `None` if it is memory.
    other: Option<u8>,
    /// Base register and displacement of memory without an index.
    memory: Option<(u8, i64)>,
    len: usize,
}

/// Decodes the instruction at `pc`; `None` if it is not known.
pub(super) fn decode(bytes: &[u8], pc: u64) -> Option<Instruction> {
    let mut at = 0;
    let (mut is_short, mut rex) = (false, 0);
    while let prefix @ (0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3 | 0x2e | 0x36 | 0x3e | 0x26 | 0x64 | 0x65) = *bytes.get(at)? {
        is_short |= prefix == 0x66;
        at += 1;
        if at > 4 {
            return None;
        }
    }
    if bytes.get(at)? & 0xf0 == 0x40 {
        rex = *bytes.get(at)?;
        at += 1;
    }
    let opcode = *bytes.get(at)?;
    at += 1;
    // The opcode in the table of 0F opcodes, if it is in that.
    let mut second = None;
    let operands = match opcode {
        0x0f => {
            let code = *bytes.get(at)?;
            at += 1;
            second = Some(code);
            match code {
                0x38 | 0x3a => {
                    at += 1;
                    Operands::ModRm(usize::from(code == 0x3a))
                }
                _ => long_operands(code)?,
            }
        }
        // VEX: a table of opcodes, in which no instruction writes the stack pointer.
        0xc5 | 0xc4 => {
            let table = if opcode == 0xc5 { 1 } else { bytes.get(at)? & 0x1f };
            at += if opcode == 0xc5 { 1 } else { 2 };
            let code = *bytes.get(at)?;
            at += 1;
            second = Some(0);
            match table {
                1 if code == 0x77 => Operands::Immediate(0),
                1 => long_operands(code)?,
                2 => Operands::ModRm(0),
                3 => Operands::ModRm(1),
                _ => return None,
            }
        }
        _ => short_operands(opcode, is_short, rex & 8 != 0)?,
    };
    let modrm = match operands {
        Operands::Immediate(_) => None,
        Operands::ModRm(_) => Some(modrm(bytes.get(at..)?, rex)?),
    };
    at += modrm.map_or(0, |modrm| modrm.len);
    let immediate_len = match (operands, modrm) {
        // Only TEST of these groups has an immediate value.
        (Operands::ModRm(_), Some(modrm))
            if second.is_none() && matches!(opcode, 0xf6 | 0xf7) && modrm.register & 7 > 1 =>
        {
            0
        }
        (Operands::Immediate(len) | Operands::ModRm(len), _) => len,
    };
    let immediate = signed(bytes.get(at..at.checked_add(immediate_len)?)?)?;
    at += immediate_len;
    let next = pc.wrapping_add(at as u64);
    let target = next.wrapping_add_signed(immediate);
    let effect = match (second, modrm) {
        (Some(0x80..=0x8f), None) => Effect::Branch(target),
        (Some(0x0b), None) => return None,
        (Some(0x40..=0x4f | 0xaf | 0xb6 | 0xb7 | 0xbe | 0xbf), Some(modrm)) if modrm.register == SP => return None,
        (Some(_), _) => Effect::Other,
        (None, None) => plain(opcode, rex, target)?,
        (None, Some(modrm)) => with_operands(opcode, rex & 8 != 0, modrm, immediate)?,
    };
    Some(Instruction { len: at as u64, effect })
}

/// Returns the effect of an instruction without a ModRM byte.
fn plain(opcode: u8, rex: u8, target: u64) -> Option<Effect> {
    let register = usize::from(opcode & 7 | (rex & 1) << 3);
    Some(match opcode {
        0x50..=0x57 | 0x68 | 0x6a => Effect::Add(-8),
        0x58..=0x5f => {
            Effect::Load { registers: [Some(*NUMBERS.get(register)?), None], base: Base::Stack, offset: 0, add: 8 }
        }
        0x70..=0x7f => Effect::Branch(target),
        0xe9 | 0xeb => Effect::Jump(target),
        0xe8 => Effect::Call,
        0xc3 => Effect::Return,
        0xc9 => Effect::Leave,
        0xf4 => Effect::Halt,
        // INT3 is behind calls that do not return.
        0xcc | 0xc2 => return None,
        _ => Effect::Other,
    })
}

fn with_operands(opcode: u8, is_wide: bool, modrm: ModRm, immediate: i64) -> Option<Effect> {
    let is_sp = modrm.other == Some(SP);
    Some(match (opcode, modrm.register & 7) {
        (0x81 | 0x83, 0) if is_sp && is_wide => Effect::Add(immediate),
        (0x81 | 0x83, 5) if is_sp && is_wide => Effect::Add(immediate.checked_neg()?),
        (0x81 | 0x83, 7) => Effect::Other,
        (0x80..=0x83 | 0xc0 | 0xc1 | 0xc6 | 0xc7 | 0xd0..=0xd3 | 0xf7 | 0xfe | 0x8f, _) if is_sp => return None,
        (0xff, 2) => Effect::Call,
        (0xff, 6) => Effect::Add(-8),
        (0xff, 0 | 1) if !is_sp => Effect::Other,
        (0xff, _) => return None,
        (0x8f, _) => Effect::Add(8),
        (0x89, _) if is_sp && modrm.register == BP => Effect::FromFramePointer(0),
        (0x8b, _) if modrm.register == SP && modrm.other == Some(BP) => Effect::FromFramePointer(0),
        (0x8b, _) if modrm.register != SP && is_wide => {
            let registers = [NUMBERS.get(usize::from(modrm.register)).copied(), None];
            match modrm.memory {
                Some((SP, offset)) => Effect::Load { registers, base: Base::Stack, offset, add: 0 },
                Some((BP, offset)) => Effect::Load { registers, base: Base::Frame, offset, add: 0 },
                Some(_) | None => Effect::Other,
            }
        }
        (0x8d, _) if modrm.register == SP => match modrm.memory? {
            (SP, offset) => Effect::Add(offset),
            (BP, offset) => Effect::FromFramePointer(offset),
            _ => return None,
        },
        // Arithmetic and moves: odd opcodes below 3 write the other operand, those above the register. CMP and TEST write none.
        (0x39 | 0x3b | 0x85, _) => Effect::Other,
        (0x00..=0x3b, _) if opcode & 2 == 0 && is_sp || opcode & 2 != 0 && modrm.register == SP => return None,
        (0x86..=0x8b, _) if opcode & 2 == 0 && is_sp || opcode & 2 != 0 && modrm.register == SP => return None,
        (0x63 | 0x69 | 0x6b, _) if modrm.register == SP => return None,
        _ => Effect::Other,
    })
}

/// Returns the operands of an opcode of one byte; `None` if it is in no code of compilers, or not known.
const fn short_operands(opcode: u8, is_short: bool, is_wide: bool) -> Option<Operands> {
    let full = if is_short { 2 } else { 4 };
    Some(match opcode {
        0x00..=0x3f => match opcode & 7 {
            0..=3 => Operands::ModRm(0),
            4 => Operands::Immediate(1),
            5 => Operands::Immediate(full),
            _ => return None,
        },
        0x50..=0x5f | 0x90..=0x99 | 0xa4..=0xa7 | 0xaa..=0xaf | 0xc3 | 0xc9 | 0xcc | 0xf4 | 0xf5 | 0xf8..=0xfd => {
            Operands::Immediate(0)
        }
        0x63 | 0x84..=0x8f | 0xd0..=0xd3 | 0xd8..=0xdf | 0xfe | 0xff => Operands::ModRm(0),
        0x68 | 0xa9 => Operands::Immediate(full),
        0x69 | 0x81 | 0xc7 | 0xf7 => Operands::ModRm(full),
        0x6a | 0x70..=0x7f | 0xa8 | 0xb0..=0xb7 | 0xeb => Operands::Immediate(1),
        0x6b | 0x80 | 0x83 | 0xc0 | 0xc1 | 0xc6 | 0xf6 => Operands::ModRm(1),
        0xb8..=0xbf => Operands::Immediate(if is_wide { 8 } else { full }),
        0xe8 | 0xe9 => Operands::Immediate(4),
        _ => return None,
    })
}

/// Returns the operands of an opcode behind 0F.
const fn long_operands(opcode: u8) -> Option<Operands> {
    Some(match opcode {
        0x05 | 0x0b | 0x31 | 0x77 | 0xa2 | 0xc8..=0xcf => Operands::Immediate(0),
        0x80..=0x8f => Operands::Immediate(4),
        0x70..=0x73 | 0xa4 | 0xac | 0xba | 0xc2 | 0xc4..=0xc6 => Operands::ModRm(1),
        0x0d | 0x10..=0x1f | 0x28..=0x2f | 0x40..=0x6f | 0x74..=0x76 | 0x78..=0x7f | 0x90..=0x9f => Operands::ModRm(0),
        0xa3 | 0xa5 | 0xab | 0xad..=0xb9 | 0xbb..=0xc1 | 0xc3 | 0xc7 | 0xd0..=0xfe => Operands::ModRm(0),
        _ => return None,
    })
}

fn modrm(bytes: &[u8], rex: u8) -> Option<ModRm> {
    let first = *bytes.first()?;
    let (mode, low) = (first >> 6, first & 7);
    let register = first >> 3 & 7 | (rex & 4) << 1;
    if mode == 3 {
        return Some(ModRm { register, other: Some(low | (rex & 1) << 3), memory: None, len: 1 });
    }
    let mut base = Some(low | (rex & 1) << 3);
    let mut len = 1;
    let mut is_absolute = mode == 0 && low == BP;
    if low == SP {
        let scale = *bytes.get(1)?;
        len = 2;
        let has_index = scale >> 3 & 7 != SP || rex & 2 != 0;
        is_absolute = mode == 0 && scale & 7 == BP;
        base = (!has_index).then_some(scale & 7 | (rex & 1) << 3);
    }
    let displacement = match mode {
        0 if is_absolute => 4,
        0 => 0,
        1 => 1,
        _ => 4,
    };
    let offset = signed(bytes.get(len..len + displacement)?)?;
    let memory = base.filter(|_| !is_absolute).map(|base| (base, offset));
    Some(ModRm { register, other: None, memory, len: len + displacement })
}

/// Returns a number of 0, 1, 2, 4 or 8 bytes.
fn signed(bytes: &[u8]) -> Option<i64> {
    Some(match *bytes {
        [] => 0,
        [one] => i64::from(one.cast_signed()),
        [a, b] => i64::from(i16::from_le_bytes([a, b])),
        [a, b, c, d] => i64::from(i32::from_le_bytes([a, b, c, d])),
        _ => i64::from_le_bytes(bytes.try_into().ok()?),
    })
}

/// Returns the target of the call at the end of `bytes`, which are those before the return address `pc`; `None` if they end with none.
pub(super) fn call_at_end(bytes: &[u8; 8], pc: u64) -> Option<CallTarget> {
    if let [.., 0xe8, a, b, c, d] = *bytes {
        return Some(CallTarget::Direct(pc.wrapping_add_signed(i32::from_le_bytes([a, b, c, d]).into())));
    }
    // FF /2 with an operand of 0, 1, 2, 4 or 5 bytes, for registers, displacements and scaled indexes.
    let is_call = |len: usize| {
        let code = &bytes[8 - len..];
        code[0] == 0xff && code[1] >> 3 & 7 == 2 && modrm(&code[1..], 0).is_some_and(|modrm| modrm.len + 1 == len)
    };
    (2..=7).any(is_call).then_some(CallTarget::Any)
}

/// Returns the distance from the stack pointer to that of the caller (CFA), for a function that keeps its stack pointer between its first
/// and its last instructions, has a frame pointer, and has pushed `pushed` registers behind it. `None` for any other function.
///
/// The code is not decoded, so that data in it cannot hide anything: bytes that could be an instruction are taken for one.
pub(super) fn frame_len(code: &[u8], pushed: u64) -> Option<u64> {
    // mov %rsp,%rbp
    const PROLOGUE: usize = 128;
    code.get(..PROLOGUE.min(code.len()))?.windows(3).find(|bytes| *bytes == [0x48, 0x89, 0xe5])?;
    let mut room = None;
    for (at, bytes) in code.windows(3).enumerate() {
        let [prefix, opcode, operand] = *bytes else { continue };
        if prefix & 0xf8 != 0x48 {
            continue;
        }
        let (mode, register, other) = (operand >> 6, operand >> 3 & 7, operand & 7);
        let to_other = mode == 3 && other == SP && prefix & 1 == 0;
        let to_register = register == SP && prefix & 4 == 0;
        match opcode {
            0x81 | 0x83 if operand == 0xec && room.is_none() => {
                let len = if opcode == 0x83 { 1 } else { 4 };
                room = Some(u64::try_from(signed(code.get(at + 3..at + 3 + len)?)?).ok()?);
            }
            // Its shortest form for 128 bytes adds -128.
            0x83 if operand == 0xc4 && code.get(at + 3) == Some(&0x80) && room.is_none() => room = Some(128),
            // A second subtraction, or an alignment.
            0x81 | 0x83 if matches!(operand, 0xec | 0xe4) => return None,
            // Arithmetic with a register, and moves, except those from the frame pointer at the end.
            0x01 | 0x21 | 0x29 | 0x31 if to_other => return None,
            0x03 | 0x23 | 0x2b | 0x33 if to_register => return None,
            0x89 if to_other && operand != 0xec => return None,
            0x8b if to_register && mode == 3 && operand != 0xe5 => return None,
            0x8d if to_register && other != BP => return None,
            _ => {}
        }
    }
    // Return address, frame pointer, registers, room.
    Some(16 + 8 * pushed + room.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_before_a_return_address_are_found_with_their_targets() {
        let at_end = |bytes: [u8; 8]| call_at_end(&bytes, 0x1000);
        assert_eq!(at_end([0, 0, 0, 0xe8, 0xf0, 0xff, 0xff, 0xff]), Some(CallTarget::Direct(0xff0)));
        // call *%rax; call *0x368(%rax); call *0x10(%rip); call *(%rsp,%rbx,8)
        for call in [&[0xff, 0xd0][..], &[0xff, 0x90, 0x68, 3, 0, 0], &[0xff, 0x15, 0x10, 0, 0, 0], &[0xff, 0x14, 0xdc]]
        {
            let mut bytes = [0x90; 8];
            bytes[8 - call.len()..].copy_from_slice(call);
            assert_eq!(at_end(bytes), Some(CallTarget::Any), "{call:x?}");
        }
        // jmp *%rax; mov %rsp,%rbp
        assert_eq!(at_end([0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0xff, 0xe0]), None);
        assert_eq!(at_end([0x90, 0x90, 0x90, 0x90, 0x90, 0x48, 0x89, 0xe5]), None);
    }

    #[test]
    fn instructions_have_their_length_and_their_effect_on_the_stack() {
        let load = |register, base, offset, add| Effect::Load { registers: [Some(register), None], base, offset, add };
        let cases: [(&[u8], Effect); 14] = [
            (&[0x55], Effect::Add(-8)),
            (&[0x41, 0x5c], load(12, Base::Stack, 0, 8)),
            (&[0x48, 0x83, 0xec, 0x18], Effect::Add(-0x18)),
            (&[0x48, 0x81, 0xc4, 0x88, 1, 0, 0], Effect::Add(0x188)),
            (&[0x48, 0x8d, 0x65, 0xd8], Effect::FromFramePointer(-0x28)),
            (&[0x48, 0x8b, 0x5d, 0xf8], load(3, Base::Frame, -8, 0)),
            (&[0xc9], Effect::Leave),
            (&[0xc3], Effect::Return),
            (&[0xf4], Effect::Halt),
            (&[0xe8, 1, 0, 0, 0], Effect::Call),
            (&[0x74, 0x10], Effect::Branch(0x1012)),
            (&[0x0f, 0x84, 0x10, 0, 0, 0], Effect::Branch(0x1016)),
            (&[0xeb, 0xfe], Effect::Jump(0x1000)),
            (&[0x66, 0x0f, 0x6f, 0x05, 1, 2, 3, 4], Effect::Other),
        ];
        for (bytes, effect) in cases {
            let code = [bytes, &[0x90; 8]].concat();
            assert_eq!(decode(&code, 0x1000), Some(Instruction { len: bytes.len() as u64, effect }), "{bytes:x?}");
        }
        // ud2; sub %rax,%rsp; and $-32,%rsp; int3: the stack pointer is unknown, or no way leads on.
        for bytes in [&[0x0f, 0x0b][..], &[0x48, 0x29, 0xc4], &[0x48, 0x83, 0xe4, 0xe0], &[0xcc]] {
            assert_eq!(decode(&[bytes, &[0x90; 8]].concat(), 0x1000), None, "{bytes:x?}");
        }
    }
}
