//! Instructions of aarch64, as far as they move the stack pointer.
//!
//! Source: Arm Architecture Reference Manual for A-profile, DDI 0487J.a, section C4.1 (encoding index).

use super::{
    code::CallTarget,
    ending::{Base, Effect, Instruction},
};

/// Number of the stack pointer in an instruction.
const SP: u32 = 31;
/// Number of the frame pointer.
const FP: u32 = 29;

/// mov x8, #93; svc #0: the system call `exit`, with which `clone` of musl ends a thread.
const EXIT: [u8; 8] = [0xa8, 0x0b, 0x80, 0xd2, 0x01, 0, 0, 0xd4];

/// Decodes the instruction at `pc`; `None` if it is not known, or no way leads behind it.
pub(super) fn decode(bytes: &[u8], pc: u64) -> Option<Instruction> {
    let word = u32::from_le_bytes(*bytes.first_chunk()?);
    if bytes.get(..8).is_some_and(|code| code == EXIT) {
        return Some(Instruction { len: 8, effect: Effect::Halt });
    }
    Some(Instruction { len: 4, effect: effect(word, pc)? })
}

fn effect(word: u32, pc: u64) -> Option<Effect> {
    let is = |mask: u32, value: u32| word & mask == value;
    let target = |from: u32, bits: u32| pc.wrapping_add_signed(4 * field(word, from, bits));
    let (low, base) = (word & 31, word >> 5 & 31);
    let second = word >> 10 & 31;
    let load = |registers, offset, add| {
        let base = if base == FP { Base::Frame } else { Base::Stack };
        Effect::Load { registers, base, offset, add }
    };
    let of_stack = base == SP || base == FP;
    let one = [number(low), None];
    let two = [number(low), number(second)];
    Some(match word {
        // RET, RETAA, RETAB.
        0xd65f_03c0 | 0xd65f_0bff | 0xd65f_0fff => Effect::Return,
        // B, BL, BLR and its forms with authentication.
        _ if is(0xfc00_0000, 0x1400_0000) => Effect::Jump(target(0, 26)),
        _ if is_call(word) => Effect::Call,
        // B.cond, CBZ and CBNZ, TBZ and TBNZ.
        _ if is(0xff00_0010, 0x5400_0000) || is(0x7e00_0000, 0x3400_0000) => Effect::Branch(target(5, 19)),
        _ if is(0x7e00_0000, 0x3600_0000) => Effect::Branch(target(5, 14)),
        // Other branches through registers, exceptions other than SVC, and UDF.
        _ if is(0xfe00_0000, 0xd600_0000) || is(0xffff_0000, 0) => return None,
        _ if is(0xff00_0000, 0xd400_0000) && !is(0xffe0_001f, 0xd400_0001) => return None,
        // ADD and SUB with the stack pointer as their result.
        _ if is(0xbf80_001f, 0x9100_001f) && base == SP => Effect::Add(immediate(word)),
        _ if is(0xbf80_001f, 0x9100_001f) && base == FP => Effect::FromFramePointer(immediate(word)),
        _ if moves_stack(word) => return None,
        // LDP of general registers: behind the address, and with an offset.
        _ if is(0xffc0_0000, 0xa8c0_0000) && base == SP => load(two, 0, 8 * field(word, 15, 7)),
        _ if is(0xffc0_0000, 0xa940_0000) && of_stack => load(two, 8 * field(word, 15, 7), 0),
        // LDR: the same.
        _ if is(0xffe0_0c00, 0xf840_0400) && base == SP => load(one, 0, field(word, 12, 9)),
        _ if is(0xffc0_0000, 0xf940_0000) && of_stack => load(one, 8 * i64::from(word >> 10 & 0xfff), 0),
        // STP and STR that move the stack pointer first, LDP and LDR of registers for floating-point numbers.
        _ if is(0xffc0_0000, 0xa980_0000) && base == SP => Effect::Add(8 * field(word, 15, 7)),
        _ if is(0xffe0_0c00, 0xf800_0c00) && base == SP => Effect::Add(field(word, 12, 9)),
        _ if is(0xff80_0000, 0x6d80_0000) && base == SP => Effect::Add(8 * field(word, 15, 7)),
        _ if is(0xff80_0000, 0x6c80_0000) && base == SP => Effect::Add(8 * field(word, 15, 7)),
        // Any other load or store that writes its base register, if that is the stack pointer.
        _ if base == SP && (is(0x3b80_0000, 0x2980_0000) || is(0x3b80_0000, 0x2880_0000)) => return None,
        _ if base == SP && is(0x3b20_0400, 0x3800_0400) => return None,
        _ => Effect::Other,
    })
}

/// Whether an instruction calls a function: BL, BLR and the forms of BLR with authentication.
const fn is_call(word: u32) -> bool {
    word & 0xfc00_0000 == 0x9400_0000 || word & 0xffff_fc1f == 0xd63f_0000 || word & 0xfeff_f800 == 0xd63f_0800
}

/// Whether an instruction writes the stack pointer: ADD and SUB of an immediate value or an extended register, and AND.
const fn moves_stack(word: u32) -> bool {
    word & 0xbf80_001f == 0x9100_001f || word & 0xbfe0_001f == 0x8b20_001f || word & 0xff80_001f == 0x9200_001f
}

/// Returns the DWARF number of a register; `None` for the register that is always zero.
fn number(register: u32) -> Option<u16> {
    u16::try_from(register).ok().filter(|register| *register < 31)
}

/// Returns a signed field of an instruction.
const fn field(word: u32, from: u32, bits: u32) -> i64 {
    let left = word << (32 - from - bits);
    (left.cast_signed() >> (32 - bits)) as i64
}

/// Returns what ADD or SUB of an immediate value adds.
fn immediate(word: u32) -> i64 {
    let value = i64::from(word >> 10 & 0xfff);
    let shifted = if word & 1 << 22 != 0 { value << 12 } else { value };
    if word & 1 << 30 != 0 { -shifted } else { shifted }
}

/// Returns the target of the call at the end of `bytes`, which are those before the return address `pc`; `None` if they end with none.
pub(super) fn call_at_end(bytes: &[u8; 8], pc: u64) -> Option<CallTarget> {
    let word = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    if word & 0xfc00_0000 == 0x9400_0000 {
        return Some(CallTarget::Direct(pc.wrapping_sub(4).wrapping_add_signed(4 * field(word, 0, 26))));
    }
    is_call(word).then_some(CallTarget::Any)
}

/// Returns the distance from the stack pointer to the frame pointer, for a function that keeps its stack pointer between its first and
/// its last instructions; `None` for any other function.
pub(super) fn frame_distance(code: &[u8]) -> Option<u64> {
    /// Maximum number of instructions before the frame pointer is set.
    const PROLOGUE: usize = 32;
    let (words, _) = code.as_chunks::<4>();
    let words = || words.iter().map(|word| u32::from_le_bytes(*word));
    let adds = |word: u32, from: u32, to: u32| {
        (word & 0xbf80_001f == 0x9100_0000 | to && word >> 5 & 31 == from).then(|| immediate(word))
    };
    // ADD x29, sp, #n
    let (set, distance) = words().take(PROLOGUE).enumerate().find_map(|(at, word)| Some((at, adds(word, SP, FP)?)))?;
    let mut room = 0;
    for word in words().skip(set + 1) {
        match adds(word, SP, SP) {
            Some(len) if len < 0 && room == 0 => room = len,
            Some(len) if len < 0 => return None,
            // The end of the function.
            Some(_) => {}
            None if adds(word, FP, SP).is_some() => {}
            None if moves_stack(word) => return None,
            None => {}
        }
    }
    u64::try_from(distance.checked_sub(room)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(words: &[u32]) -> Option<Instruction> {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        decode(&bytes, 0x1000)
    }

    #[test]
    fn instructions_have_their_effect_on_the_stack() {
        let pair = [Some(29), Some(30)];
        let cases = [
            // stp x29, x30, [sp, #-48]!; ldp x29, x30, [sp], #48; ldp x29, x30, [sp, #16]
            (0xa9bd_7bfd, Effect::Add(-48)),
            (0xa8c3_7bfd, Effect::Load { registers: pair, base: Base::Stack, offset: 0, add: 48 }),
            (0xa941_7bfd, Effect::Load { registers: pair, base: Base::Stack, offset: 16, add: 0 }),
            // sub sp, sp, #0x20; add sp, sp, #1, lsl #12; mov sp, x29
            (0xd100_83ff, Effect::Add(-0x20)),
            (0x9140_07ff, Effect::Add(0x1000)),
            (0x9100_03bf, Effect::FromFramePointer(0)),
            // ret; retaa; bl; b.ne; cbz; b; paciasp; autiasp
            (0xd65f_03c0, Effect::Return),
            (0xd65f_0bff, Effect::Return),
            (0x97ff_fff0, Effect::Call),
            (0x5400_0041, Effect::Branch(0x1008)),
            (0xb400_0040, Effect::Branch(0x1008)),
            (0x17ff_fff4, Effect::Jump(0xfd0)),
            (0xd503_233f, Effect::Other),
            (0xd503_23bf, Effect::Other),
        ];
        for (word, effect) in cases {
            assert_eq!(decoded(&[word, 0]), Some(Instruction { len: 4, effect }), "{word:#x}");
        }
        // br x16; and sp, x1, #-16; udf
        for word in [0xd61f_0200, 0x927c_ec3f, 0] {
            assert_eq!(decoded(&[word, 0]), None, "{word:#x}");
        }
        // mov x8, #93; svc #0: nothing is behind it. mov x8, #96 is another system call.
        assert_eq!(decoded(&[0xd280_0ba8, 0xd400_0001]), Some(Instruction { len: 8, effect: Effect::Halt }));
        assert_eq!(decoded(&[0xd280_0c08, 0xd400_0001]), Some(Instruction { len: 4, effect: Effect::Other }));
    }

    #[test]
    fn calls_before_a_return_address_are_found_with_their_targets() {
        let at_end = |word: u32| call_at_end(&(u64::from(word) << 32).to_le_bytes(), 0x1000);
        assert_eq!(at_end(0x97ff_fff0), Some(CallTarget::Direct(0xfbc)));
        assert_eq!(at_end(0xd63f_0020), Some(CallTarget::Any));
        assert_eq!(at_end(0xd65f_03c0), None);
    }

    #[test]
    fn the_frame_pointer_has_its_distance_from_the_stack_pointer() {
        let distance =
            |words: &[u32]| frame_distance(&words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>());
        // stp x29, x30, [sp, #-48]!; mov x29, sp; then sub sp, sp, #0x20
        assert_eq!(distance(&[0xa9bd_7bfd, 0x9100_03fd, 0xd65f_03c0]), Some(0));
        assert_eq!(distance(&[0xa9bd_7bfd, 0x9100_03fd, 0xd100_83ff, 0x9100_03bf, 0xd65f_03c0]), Some(0x20));
        // sub sp, sp, x0 moves it by an unknown number.
        assert_eq!(distance(&[0xa9bd_7bfd, 0x9100_03fd, 0xcb20_63ff]), None);
        assert_eq!(distance(&[0xd65f_03c0]), None);
    }
}
