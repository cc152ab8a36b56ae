//! Registers of a thread at one frame, by their numbers in DWARF.

use object::elf;

use crate::process::Registers;

/// Number of registers that are followed.
const COUNT: usize = 33;

/// Numbers of the registers of an architecture.
///
/// Sources: System V ABI, AMD64 supplement 1.0, figure 3.36; DWARF for the Arm 64-bit Architecture 2023Q3, section 4.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Convention {
    /// Value of `e_machine`.
    pub(super) machine: u16,
    /// Stack pointer.
    pub(super) sp: u16,
    /// Frame pointer.
    pub(super) fp: u16,
    /// Register whose value in the caller is the return address: no real one on x86_64.
    pub(super) return_address: u16,
    /// Link register, if there is one.
    pub(super) lr: Option<u16>,
    /// Bits of a code address. Pointer authentication and tags use those above.
    pub(super) code_bits: u64,
    /// Registers that a function leaves as it found them.
    preserved: &'static [u16],
}

const X86_64: Convention = Convention {
    machine: elf::EM_X86_64,
    sp: 7,
    fp: 6,
    return_address: 16,
    lr: None,
    code_bits: u64::MAX,
    preserved: &[3, 6, 12, 13, 14, 15],
};

const AARCH64: Convention = Convention {
    machine: elf::EM_AARCH64,
    sp: 31,
    fp: 29,
    return_address: 30,
    lr: Some(30),
    // Programs get addresses above 48 bits only if they ask for them (Documentation/arm64/memory.rst at v5.10).
    code_bits: (1 << 48) - 1,
    preserved: &[19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29],
};

impl Convention {
    /// Returns the convention of a value of `e_machine`.
    pub(super) const fn of(machine: u16) -> Option<Self> {
        match machine {
            elf::EM_X86_64 => Some(X86_64),
            elf::EM_AARCH64 => Some(AARCH64),
            _ => None,
        }
    }

    /// Whether functions leave a register as they found it.
    pub(super) fn is_preserved(self, register: u16) -> bool {
        self.preserved.contains(&register)
    }

    /// Returns the name of a register, for people.
    pub(super) const fn name(self, register: u16) -> &'static str {
        if register == self.fp {
            return "frame pointer";
        }
        if register == self.return_address {
            return if self.lr.is_some() { "link register" } else { "return address" };
        }
        "a register"
    }
}

/// Registers at one frame; unknown ones are `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FrameRegisters {
    /// Numbers of the registers.
    pub(super) convention: Convention,
    values: [Option<u64>; COUNT],
}

impl FrameRegisters {
    /// Returns the registers of the innermost frame.
    pub(super) fn innermost(convention: Convention, registers: &Registers) -> Self {
        let mut own = Self { convention, values: [None; COUNT] };
        own.set(convention.sp, Some(registers.sp));
        own.set(convention.fp, registers.fp);
        if let Some(lr) = convention.lr {
            own.set(lr, registers.lr);
        }
        own
    }

    /// Returns the registers of the caller, as far as no table says more: those that functions preserve.
    pub(super) fn preserved(&self) -> Self {
        let mut caller = Self { convention: self.convention, values: [None; COUNT] };
        for register in self.convention.preserved {
            caller.set(*register, self.get(*register));
        }
        caller
    }

    /// Returns the value of a register, if it is known.
    pub(super) fn get(&self, register: u16) -> Option<u64> {
        *self.values.get(usize::from(register))?
    }

    /// Sets the value of a register. Registers that are not followed stay unknown.
    pub(super) fn set(&mut self, register: u16, value: Option<u64>) {
        if let Some(own) = self.values.get_mut(usize::from(register)) {
            *own = value;
        }
    }

    /// Returns the stack pointer.
    pub(super) fn sp(&self) -> u64 {
        self.get(self.convention.sp).unwrap_or(0)
    }
}
