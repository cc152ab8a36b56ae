//! Read-only globals that the agent sets before the load.

use aya_ebpf::Global;
use closewait_common::{
    batch::{self, CopyWindows, Window},
    config::{Abilities, Layout, TraceLayout},
};

#[unsafe(no_mangle)]
pub(crate) static LAYOUT: Global<Layout> = Global::new(Layout::NONE);
#[unsafe(no_mangle)]
pub(crate) static TRACE_LAYOUT: Global<TraceLayout> = Global::new(TraceLayout::NONE);
#[unsafe(no_mangle)]
pub(crate) static ABILITIES: Global<Abilities> = Global::new(Abilities::NONE);
#[unsafe(no_mangle)]
pub(crate) static WINDOWS: Global<CopyWindows> = Global::new([Window::NONE; batch::WINDOWS]);

/// Reads one number of a global. `Global::load` would copy the whole struct to the stack each time.
macro_rules! global {
    ($global:ident: $type:ty, $field:ident) => {{
        let whole = (&raw const $crate::globals::$global).cast::<$type>();
        // SAFETY: `Global<T>` is transparent over `MaybeUninit<T>`, and the static is initialized: the field is
        // there. Volatile, because the agent changes the value after compilation.
        unsafe { core::ptr::read_volatile(&raw const (*whole).$field) }
    }};
}

/// Reads the offset of a kernel struct member, [`closewait_common::config::MISSING`] if unknown.
macro_rules! layout {
    ($field:ident) => {
        $crate::globals::global!(LAYOUT: closewait_common::config::Layout, $field)
    };
}

/// Reads the offset of a field of the classic tracepoint.
macro_rules! trace_layout {
    ($field:ident) => {
        $crate::globals::global!(TRACE_LAYOUT: closewait_common::config::TraceLayout, $field)
    };
}

/// Reads a member of [`Abilities`].
macro_rules! ability {
    ($field:ident) => {
        $crate::globals::global!(ABILITIES: closewait_common::config::Abilities, $field)
    };
}

pub(crate) use {ability, global, layout, trace_layout};
