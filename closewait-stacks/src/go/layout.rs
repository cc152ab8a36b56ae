//! Offsets in the structs of Go's runtime, for each minor version.
//!
//! From the sources of the releases named: `src/runtime/runtime2.go` (`g`, `gobuf`, `m`, `_func` before 1.20), `src/runtime/symtab.go`
//! (`moduledata`, `pcHeader`, `functab`, `_func`), `src/runtime/symtabinl.go` (`inlinedCall` from 1.20) and
//! `src/internal/abi/symtab.go` (numbers of functions from 1.21).

/// Oldest minor version of Go 1 that is supported.
pub(super) const OLDEST: u32 = 15;
/// Newest minor version of Go 1 that is supported. A later one is an error, since its structs may differ.
pub(super) const NEWEST: u32 = 27;

/// Offset of `g.m` (all versions).
pub(super) const G_M: usize = 48;
/// Offset of `g.sched.sp` (all versions).
pub(super) const G_SP: usize = 56;
/// Offset of `g.sched.pc` (all versions).
pub(super) const G_PC: usize = 64;
/// Offset of `g.sched.g`, which points to its own `g` (all versions).
pub(super) const G_SELF: usize = 72;

/// Offsets in the structs of one minor version, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct GoLayout {
    /// Minor version: 22 of Go 1.22.5.
    pub(super) minor: u32,
    /// `pcHeader.magic`, the first number of the table of functions.
    pub(super) magic: u32,
    /// Whether entries of functions are 4 bytes relative to `moduledata.text`, instead of addresses (1.18).
    pub(super) relative: bool,
    /// `g.sched.lr`.
    pub(super) g_lr: usize,
    /// `g.syscallsp`; `g.syscallpc` follows.
    pub(super) g_syscall: usize,
    /// `g.atomicstatus`; `g.goid` is 8 bytes behind it.
    pub(super) g_status: usize,
    /// `g.waitreason`.
    pub(super) g_wait_reason: usize,
    /// `m.procid`.
    pub(super) m_thread: usize,
    /// Size of `_func`.
    pub(super) function_len: usize,
    /// Number of the function data that has the inlined calls (`FUNCDATA_InlTree`).
    pub(super) inline_tree: usize,
    /// Size of `inlinedCall`.
    pub(super) inlined_len: usize,
    /// `inlinedCall.funcID`.
    pub(super) inlined_kind: usize,
    /// `inlinedCall.nameOff`, or `func_`.
    pub(super) inlined_name: usize,
    /// `inlinedCall.parentPc`.
    pub(super) inlined_parent: usize,
    /// Number of the functions that the compiler made (`FuncIDWrapper`).
    pub(super) wrapper: u8,
    /// Words before `moduledata.ftab`.
    pub(super) words_before_functions: usize,
    /// Word of `moduledata` with `gofunc`; `None` where function data are addresses (before 1.18).
    pub(super) gofunc: Option<usize>,
    /// Word of `moduledata` with `textsectmap`.
    pub(super) text_sections: usize,
}

impl GoLayout {
    /// Returns the layout of a minor version; `None` if it is not supported.
    pub(super) fn of(minor: u32) -> Option<Self> {
        if !(OLDEST..=NEWEST).contains(&minor) {
            return None;
        }
        // 1.25 removed `gobuf.ret`, 1.23 added `g.syscallbp`.
        let ret = if minor < 25 { 8 } else { 0 };
        let syscall_bp = if minor < 23 { 0 } else { 8 };
        let g_lr = 88 + ret;
        let g_syscall = g_lr + 16;
        let g_status = g_syscall + 32 + syscall_bp;
        // `m.g0`, `m.morebuf`, `m.divmod` and its padding come before it.
        let m_thread = 8 + 48 + ret + 8;
        let (inlined_len, inlined_kind, inlined_name, inlined_parent) =
            if minor < 20 { (20, 2, 12, 16) } else { (16, 0, 4, 8) };
        let (gofunc, text_sections) = match minor {
            15 => (None, 27),
            16..=17 => (None, 37),
            18..=19 => (Some(38), 39),
            20..=25 => (Some(40), 41),
            26 => (Some(40), 42),
            _ => (Some(43), 45),
        };
        Some(Self {
            minor,
            magic: match minor {
                15 => 0xffff_fffb,
                16..=17 => 0xffff_fffa,
                18..=19 => 0xffff_fff0,
                _ => 0xffff_fff1,
            },
            relative: minor >= 18,
            g_lr,
            g_syscall,
            g_status,
            g_wait_reason: g_status + 32,
            m_thread,
            function_len: match minor {
                15 | 18 | 19 => 40,
                _ => 44,
            },
            inline_tree: if minor == 15 { 4 } else { 3 },
            inlined_len,
            inlined_kind,
            inlined_name,
            inlined_parent,
            wrapper: match minor {
                15..=17 => 22,
                18..=21 => 21,
                22..=24 => 22,
                _ => 23,
            },
            words_before_functions: if minor == 15 { 3 } else { 16 },
            gofunc,
            text_sections,
        })
    }

    /// Offset of the first field of `_func` behind its entry.
    pub(super) const fn function_fields(&self) -> usize {
        if self.relative { 4 } else { 8 }
    }
}

/// Returns the minor version of `go1.22.5`; `None` for other texts, such as those of unreleased versions.
pub(super) fn minor(version: &str) -> Option<u32> {
    let rest = version.strip_prefix("go1.")?;
    let digits = rest.find(|other: char| !other.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minor_version_is_found_in_what_builders_write() {
        assert_eq!(minor("go1.15"), Some(15));
        assert_eq!(minor("go1.22.5"), Some(22));
        assert_eq!(minor("go1.24rc1"), Some(24));
        assert_eq!(minor("go1.21.4 X:boringcrypto"), Some(21));
        assert_eq!(minor("devel go1.28-abcdef"), None);
        assert_eq!(minor("go2.1"), None);
    }

    #[test]
    fn layouts_are_those_of_the_sources() {
        assert_eq!(GoLayout::of(14), None);
        assert_eq!(GoLayout::of(NEWEST + 1), None);
        let fields = |minor| {
            let layout = GoLayout::of(minor).unwrap();
            (layout.g_lr, layout.g_syscall, layout.g_status, layout.g_wait_reason, layout.m_thread)
        };
        assert_eq!(fields(15), (96, 112, 144, 176, 72));
        assert_eq!(fields(22), (96, 112, 144, 176, 72));
        assert_eq!(fields(23), (96, 112, 152, 184, 72));
        assert_eq!(fields(25), (88, 104, 144, 176, 64));
        assert_eq!(fields(27), (88, 104, 144, 176, 64));
    }
}
