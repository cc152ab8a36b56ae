//! Stacks of the owners' threads: groups of equal stacks, the application's line in each, and what the thread waits for there.
//!
//! | file | contents |
//! |---|---|
//! | `connect` | stacks of a program in its `connect(2)` |
//! | `frame` | frames and stacks as the agent reads them |
//! | `origin` | whether a frame is the application's, a library's or the runtime's |
//! | `waits` | functions in which a thread waits, and for what: a table |
//! | `idle` | stacks of threads that wait for work: a table |
//! | `own_loop` | threads that wait in the function that they began with: a table |
//! | `jvm`, `scripts` | the tables of Java, and those of PHP and Ruby |
//! | `carriers` | carriers of virtual threads, and whether all of them are pinned |
//! | `lock_owner` | the thread that owns the lock that others wait for |
//! | `group` | groups of equal stacks |
//! | `redact` | labels instead of names, for strangers |
//! | `sample` | the groups of one process at one time, and since when its threads are where they are |

pub mod carriers;
mod connect;
mod frame;
mod group;
mod idle;
mod jvm;
mod lock_owner;
mod origin;
mod own_loop;
mod redact;
mod sample;
mod scripts;
mod short_name;
mod waits;

pub use self::{
    connect::{ConnectSample, ConnectSamples, ConnectStacks},
    frame::{CodeFrame, CodeLanguage, CodeStack, TASK_STATE},
    group::{HiddenTasks, StackGroup, ThreadWork, group_stacks},
    idle::EVENTS,
    lock_owner::LockOwner,
    sample::{ProcessStacks, largest_lines},
    scripts::NO_SCRIPT,
    waits::CodeWait,
};
