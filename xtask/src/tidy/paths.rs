//! Every path that a Rust file names, from the crate's root.

use super::tokens::{Token, tokens};

/// One path in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    /// `crate::engine::Engine` or `std::fs`; a glob ends in `*`.
    pub(super) path: Vec<String>,
    pub(super) line: usize,
    /// Inside something that is `#[cfg(test)]`.
    pub(super) in_tests: bool,
}

/// All paths of two names or more, and every `use`. `file` is the path from the package's `src` folder on.
pub(super) fn paths(file: &str, text: &str) -> Vec<Named> {
    let mut walk = Walk { tokens: tokens(text), at: 0, blocks: Vec::new(), module: module_of(file), found: Vec::new() };
    walk.run();
    walk.found
}

/// `sink/json.rs` is `crate::sink::json`, `sink/mod.rs` is `crate::sink`.
fn module_of(file: &str) -> Vec<String> {
    let stem = file.strip_suffix(".rs").unwrap_or(file);
    let stem = stem.strip_suffix("/mod").unwrap_or(stem);
    let names = stem.split('/').filter(|name| !["lib", "main", "mod"].contains(name));
    std::iter::once("crate").chain(names).map(str::to_owned).collect()
}

/// An open brace.
struct Block {
    /// It is the body of an inline module.
    is_module: bool,
    is_tests: bool,
}

struct Walk {
    tokens: Vec<(Token, usize)>,
    at: usize,
    blocks: Vec<Block>,
    /// The module that the walk is in.
    module: Vec<String>,
    found: Vec<Named>,
}

impl Walk {
    fn run(&mut self) {
        // What has been read of the item that the next brace or semicolon belongs to.
        let (mut tests_next, mut module_next) = (false, None);
        while let Some((token, _line)) = self.tokens.get(self.at).cloned() {
            match token {
                Token::Mark('#') if self.is_cfg_test() => {
                    tests_next = true;
                    self.at += 1;
                }
                Token::Mark('{') => {
                    let module: Option<String> = module_next.take();
                    let is_tests = std::mem::take(&mut tests_next);
                    self.blocks.push(Block { is_module: module.is_some(), is_tests });
                    self.module.extend(module);
                    self.at += 1;
                }
                Token::Mark('}') => {
                    if self.blocks.pop().is_some_and(|block| block.is_module) {
                        self.module.pop();
                    }
                    self.at += 1;
                }
                Token::Mark(';') => {
                    (tests_next, module_next) = (false, None);
                    self.at += 1;
                }
                Token::Name(name) if name == "use" => {
                    self.at += 1;
                    self.use_tree(&mut Vec::new(), tests_next);
                }
                Token::Name(name) if name == "mod" => {
                    self.at += 1;
                    module_next = self.name();
                }
                Token::Name(_) => self.path(tests_next),
                Token::Mark(_) | Token::PathSep => self.at += 1,
            }
        }
    }

    fn is_cfg_test(&self) -> bool {
        let wanted = ["#", "[", "cfg", "(", "test", ")", "]"];
        let found = self.tokens[self.at..].iter().zip(wanted).filter(|((token, _line), wanted)| match token {
            Token::Name(name) => name == wanted,
            Token::Mark(mark) => wanted.chars().eq([*mark]),
            Token::PathSep => false,
        });
        found.count() == wanted.len()
    }

    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _line)| token)
    }

    /// Takes the next token if it is a name.
    fn name(&mut self) -> Option<String> {
        let Some(Token::Name(name)) = self.peek().cloned() else { return None };
        self.at += 1;
        Some(name)
    }

    /// A path in code: `a::b::c`, past generic arguments `a::<T>`.
    fn path(&mut self, tests: bool) {
        let line = self.tokens[self.at].1;
        let mut path: Vec<String> = self.name().into_iter().collect();
        while self.peek() == Some(&Token::PathSep) {
            self.at += 1;
            match self.name() {
                Some(name) => path.push(name),
                None => break,
            }
        }
        if path.len() > 1 {
            self.record(&path, line, tests);
        }
    }

    /// The rest of a `use`, up to the end of the part that starts here.
    fn use_tree(&mut self, prefix: &mut Vec<String>, tests: bool) {
        let outer = prefix.len();
        let mut line = self.tokens.get(self.at).map_or(0, |(_token, line)| *line);
        while let Some((token, at_line)) = self.tokens.get(self.at).cloned() {
            match token {
                Token::Name(name) if name == "as" => {
                    self.at += 2;
                }
                Token::Name(name) => {
                    line = at_line;
                    self.at += 1;
                    prefix.push(name);
                }
                Token::Mark('*') => {
                    self.at += 1;
                    prefix.push("*".to_owned());
                }
                Token::PathSep => self.at += 1,
                Token::Mark('{') => {
                    self.at += 1;
                    while !matches!(self.peek(), None | Some(Token::Mark('}'))) {
                        let before = self.at;
                        self.use_tree(prefix, tests);
                        // The comma; also anything that no `use` can have, so that broken text comes to an end.
                        if self.peek() == Some(&Token::Mark(',')) || self.at == before {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    prefix.truncate(outer);
                    return;
                }
                // A comma, a closing brace or the semicolon belongs to the caller.
                Token::Mark(_) => break,
            }
        }
        // `a::{self}` names `a`.
        if prefix.len() > 1 && prefix.last().is_some_and(|name| name == "self") {
            prefix.pop();
        }
        if prefix.is_empty() {
            // Not a `use` item: `use<'a>` in a bound. Go past what stopped the loop.
            self.at += 1;
            return;
        }
        self.record(&prefix.clone(), line, tests);
        prefix.truncate(outer);
    }

    fn record(&mut self, path: &[String], line: usize, tests: bool) {
        let in_tests = tests || self.blocks.iter().any(|block| block.is_tests);
        self.found.push(Named { path: resolve(path, &self.module), line, in_tests });
    }
}

/// The path from the crate's root. The binary names the library by its crate name; that is the same tree.
fn resolve(path: &[String], module: &[String]) -> Vec<String> {
    let (mut base, mut rest) = match path.first().map(String::as_str) {
        Some("closewait") => (vec!["crate".to_owned()], &path[1..]),
        Some("self") => (module.to_vec(), &path[1..]),
        Some("super") => (module.to_vec(), path),
        _ => return path.to_vec(),
    };
    while let Some((_super, more)) = rest.split_first().filter(|(first, _more)| *first == "super") {
        if base.len() > 1 {
            base.pop();
        }
        rest = more;
    }
    base.extend(rest.iter().cloned());
    base
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(file: &str, text: &str) -> Vec<String> {
        paths(file, text).into_iter().map(|named| named.path.join("::")).collect()
    }

    #[test]
    fn groups_are_taken_apart() {
        let text = "use crate::{a, b::{self, c as d}, e::*};\nuse std;\nuse ::log::info;";
        assert_eq!(found("x.rs", text), ["crate::a", "crate::b", "crate::b::c", "crate::e::*", "std", "log::info"]);
    }

    #[test]
    fn every_name_of_a_group_has_its_own_line() {
        let lines: Vec<_> =
            paths("x.rs", "use crate::{\n    a,\n    b::c,\n};\nfn f() { d::e() }").iter().map(|n| n.line).collect();
        assert_eq!(lines, [2, 3, 5]);
    }

    #[test]
    fn paths_in_code_count_too() {
        let text = "fn f(x: std::fs::File) -> Vec<u8> { let y = a.b; Vec::<u8>::new(); log::info!(\"tokio::x\") }";
        assert_eq!(found("x.rs", text), ["std::fs::File", "log::info"]);
    }

    #[test]
    fn super_and_self_are_resolved() {
        assert_eq!(found("sink/json.rs", "use super::{Sink, text};"), ["crate::sink::Sink", "crate::sink::text"]);
        assert_eq!(
            found("sink/mod.rs", "use super::source::Bpf; use self::json::X;"),
            ["crate::source::Bpf", "crate::sink::json::X"]
        );
        assert_eq!(found("main.rs", "use closewait::cmd;"), ["crate::cmd"]);
    }

    #[test]
    fn super_in_an_inline_module_is_the_file() {
        let text = "mod tests { use super::*; fn f() { super::super::host::x() } } use super::y;";
        assert_eq!(found("sink/mod.rs", text), ["crate::sink::*", "crate::host::x", "crate::y"]);
    }

    #[test]
    fn test_code_is_told_apart() {
        let text = "use a::b;\n#[cfg(test)]\nuse c::d;\nuse e::f;\n#[cfg(test)]\nmod tests { use g::h; fn f() { { i::j() } } }\nfn f() { k::l() }";
        let tests: Vec<_> = paths("x.rs", text).iter().map(|named| named.in_tests).collect();
        assert_eq!(tests, [false, true, false, true, true, false]);
    }

    #[test]
    fn a_use_in_a_bound_is_no_import() {
        assert_eq!(found("x.rs", "fn f<'a>() -> impl Sized + use<'a> { a::b() }"), ["a::b"]);
    }
}
