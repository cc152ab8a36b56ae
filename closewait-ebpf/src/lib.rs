//! Empty: the program is the binary target. A library target lets the agent name this crate as a build-dependency, so
//! that cargo builds the agent again when the program changes.

#![no_std]
