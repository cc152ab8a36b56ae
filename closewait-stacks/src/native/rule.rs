//! Rule that leads from a frame to its caller.

use gimli::{EndianSlice, EvaluationResult, Expression, LittleEndian, Location, Value};

use super::{blocks::StackBlocks, registers::FrameRegisters};

/// Number of bytes of an address, and DWARF's format, of all supported processes.
const ENCODING: gimli::Encoding = gimli::Encoding { address_size: 8, format: gimli::Format::Dwarf32, version: 4 };
/// Maximum number of operations of an expression: those of glibc have up to 10.
const MAX_OPERATIONS: u32 = 128;

/// Rule for one address of code.
///
/// Sources: DWARF 5, section 6.4.1; Linux Standard Base 5.0, section 10.6.1 (`.eh_frame`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct UnwindRule {
    /// Canonical frame address (CFA): the stack pointer of the caller.
    pub(super) cfa: CfaPlace,
    /// Places of the registers of the caller.
    pub(super) saved: Vec<(u16, SavedPlace)>,
    /// Register whose value in the caller is the return address.
    pub(super) return_address: u16,
    /// Whether the caller was interrupted by a signal, so that its address is not behind a call.
    pub(super) is_signal: bool,
    /// Whether the rule is derived from instructions: then its result must be behind a call.
    pub(super) is_derived: bool,
}

/// Canonical frame address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum CfaPlace {
    /// Sum of a register and an offset.
    Register(u16, i64),
    /// Value of a DWARF expression.
    Expression(Box<[u8]>),
}

/// Place of a register of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SavedPlace {
    /// It is lost.
    Undefined,
    /// The register still has it.
    Same,
    /// It is in memory, at this offset from the CFA.
    At(i64),
    /// It is the CFA plus this offset.
    Sum(i64),
    /// It is in another register.
    Register(u16),
    /// It is in memory, at the value of a DWARF expression.
    AtExpression(Box<[u8]>),
    /// It is the value of a DWARF expression.
    Expression(Box<[u8]>),
}

/// Result of a step to the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UnwindStep {
    /// Registers and address of the caller.
    Caller(Box<FrameRegisters>, u64),
    /// The table says that the frame is the outermost one.
    Root,
    /// The return address is 0.
    Zero,
    /// The caller is unknown, for this reason.
    Cut(String),
}

impl UnwindRule {
    /// Returns the number of bytes that it takes beside its own size.
    pub(super) fn size(&self) -> usize {
        let expression = |place: &SavedPlace| match place {
            SavedPlace::AtExpression(bytes) | SavedPlace::Expression(bytes) => bytes.len(),
            SavedPlace::Undefined
            | SavedPlace::Same
            | SavedPlace::At(_)
            | SavedPlace::Sum(_)
            | SavedPlace::Register(_) => 0,
        };
        let cfa = if let CfaPlace::Expression(bytes) = &self.cfa { bytes.len() } else { 0 };
        let saved = self.saved.iter().map(|(_, place)| size_of::<(u16, SavedPlace)>() + expression(place));
        cfa + saved.sum::<usize>()
    }

    /// Returns the number of registers that a function of x86_64 has pushed behind its frame pointer; `None` if they are elsewhere.
    pub(super) fn pushed(&self, fp: u16) -> Option<u64> {
        let others = self.saved.iter().filter(|(register, _)| *register != self.return_address && *register != fp);
        let offset = |place: &SavedPlace| if let SavedPlace::At(offset) = place { Some(*offset) } else { None };
        let mut offsets = others.map(|(_, place)| offset(place)).collect::<Option<Vec<i64>>>()?;
        offsets.sort_unstable_by(|a, b| b.cmp(a));
        // Below the return address and the frame pointer.
        let is_next = offsets.iter().zip((1..).map(|place| -16 - 8 * place)).all(|(offset, next)| *offset == next);
        is_next.then_some(offsets.len() as u64)
    }

    /// Steps from a frame with these registers to its caller. `is_exact` says that the frame is the innermost one, or was interrupted
    /// by a signal: then the link register can have its return address.
    pub(super) fn step(&self, frame: &FrameRegisters, stack: &mut StackBlocks<'_>, is_exact: bool) -> UnwindStep {
        let convention = frame.convention;
        let unknown = |register: u16| UnwindStep::Cut(format!("{} unknown", convention.name(register)));
        let cfa = match &self.cfa {
            CfaPlace::Register(register, offset) => match frame.get(*register) {
                Some(value) => value.wrapping_add_signed(*offset),
                None => return unknown(*register),
            },
            CfaPlace::Expression(bytes) => match evaluate(bytes, frame, stack, None) {
                Ok(value) => value,
                Err(why) => return UnwindStep::Cut(why),
            },
        };
        // Each register can take a search in the blocks of the stack.
        if let Err(error) = stack.memory().work(8 + 8 * self.saved.len() as u64) {
            return UnwindStep::Cut(error.to_string());
        }
        let mut caller = frame.preserved();
        caller.set(convention.sp, Some(cfa));
        let (mut target, mut has_rule) = (None, false);
        for (register, place) in &self.saved {
            let is_return = *register == self.return_address;
            has_rule |= is_return;
            let value = match place {
                SavedPlace::Undefined if is_return => return UnwindStep::Root,
                SavedPlace::Undefined => None,
                SavedPlace::Same if is_return && !is_exact => None,
                SavedPlace::Same => frame.get(*register),
                SavedPlace::Register(other) => frame.get(*other),
                SavedPlace::Sum(offset) => Some(cfa.wrapping_add_signed(*offset)),
                SavedPlace::At(offset) => match stack.u64(cfa.wrapping_add_signed(*offset)) {
                    Ok(value) => Some(value),
                    Err(error) if is_return => return UnwindStep::Cut(format!("stack: {error}")),
                    Err(_) => None,
                },
                SavedPlace::AtExpression(bytes) => {
                    evaluate(bytes, frame, stack, Some(cfa)).ok().and_then(|at| stack.u64(at).ok())
                }
                SavedPlace::Expression(bytes) => evaluate(bytes, frame, stack, Some(cfa)).ok(),
            };
            caller.set(*register, value);
            if is_return {
                target = value;
            }
        }
        if !has_rule {
            // A function that has not saved the link register returns to it. In a frame that has called another one it is overwritten.
            target = frame.get(self.return_address).filter(|_| is_exact);
        }
        let Some(target) = target else { return unknown(self.return_address) };
        let target = target & convention.code_bits;
        if target == 0 {
            return UnwindStep::Zero;
        }
        if !self.is_signal {
            // Only what a signal interrupted can be read from a register that callers do not preserve.
            if let Some(lr) = convention.lr {
                caller.set(lr, None);
            }
            let grown = caller.sp().checked_sub(frame.sp());
            let may_stay = is_exact && convention.lr.is_some();
            if grown.is_none_or(|grown| grown == 0 && !may_stay) {
                return UnwindStep::Cut("the stack does not grow".to_owned());
            }
        }
        UnwindStep::Caller(Box::new(caller), target)
    }
}

/// Returns the value of a DWARF expression with an initial value on its stack.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "expressions of unwinding have no other results, and gimli has 15 of them"
)]
fn evaluate(
    bytes: &[u8],
    frame: &FrameRegisters,
    stack: &mut StackBlocks<'_>,
    initial: Option<u64>,
) -> Result<u64, String> {
    let failed = || "an expression for unwinding is wrong".to_owned();
    stack.memory().work(8 * u64::from(MAX_OPERATIONS)).map_err(|error| error.to_string())?;
    let mut evaluation = Expression(EndianSlice::new(bytes, LittleEndian)).evaluation(ENCODING);
    evaluation.set_max_iterations(MAX_OPERATIONS);
    if let Some(value) = initial {
        evaluation.set_initial_value(value);
    }
    let mut result = evaluation.evaluate();
    loop {
        result = match result.map_err(|_malformed| failed())? {
            EvaluationResult::Complete => break,
            EvaluationResult::RequiresRegister { register, .. } => {
                let value = frame.get(register.0);
                let value = value.ok_or_else(|| format!("{} unknown", frame.convention.name(register.0)))?;
                evaluation.resume_with_register(Value::Generic(value))
            }
            EvaluationResult::RequiresMemory { address, size: 8, .. } => {
                let value = stack.u64(address).map_err(|error| format!("stack: {error}"))?;
                evaluation.resume_with_memory(Value::Generic(value))
            }
            _ => return Err(failed()),
        };
    }
    match evaluation.as_result() {
        [piece] => match piece.location {
            Location::Address { address } => Ok(address),
            Location::Value { value } => value.to_u64(u64::MAX).map_err(|_other_type| failed()),
            _ => Err(failed()),
        },
        _ => Err(failed()),
    }
}
