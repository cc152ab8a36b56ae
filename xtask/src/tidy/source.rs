//! Rust source as tokens, read by the lexer of proc-macro2.

use std::str::FromStr as _;

use anyhow::anyhow;
use proc_macro2::TokenStream;

use crate::prelude::*;

/// Returns the tokens of a file. Comments are gone, except for doc comments: those are attributes.
pub(super) fn tokens(file: &str, text: &str) -> Result<TokenStream> {
    let line = |error: &proc_macro2::LexError| error.span().start().line;
    TokenStream::from_str(text).map_err(|error| anyhow!("{file}:{}: {error}; does it compile?", line(&error)))
}

/// Returns the text before the test module at a file's end.
pub(super) fn without_tests(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or(text)
}

/// Returns whether a file has nothing but tests, or what they share.
pub(super) fn is_test(file: &str) -> bool {
    file.ends_with("tests.rs") || file.contains("/tests/") || file.ends_with("testing.rs")
}
