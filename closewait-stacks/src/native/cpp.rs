//! Names of C++ in the source, from mangled ones.
//!
//! Only the name is read, not the parameters, and arguments of templates are left out: `shop::Stock<…>::reserve`. Each byte is read once:
//! libraries for this show the arguments, and take exponential time for a name that a hostile program makes for that (`cpp_demangle`
//! 0.5.1: twice the time for each 20 bytes).
//!
//! Source: Itanium C++ ABI, 5.1 "External Names (a.k.a. Mangling)". What is not here, as an argument that is an expression, has no name
//! here.

/// Depth of the types and names in a name.
const MAX_DEPTH: u8 = 64;

/// Returns the name in the source of a mangled one; `None` if it is none of C++, or has a part that is not known here.
pub(super) fn name(mangled: &str) -> Option<String> {
    let rest = mangled.strip_prefix("_Z")?.as_bytes();
    let mut parser = Parser { rest, depth: 0 };
    let mut name = String::new();
    parser.name(&mut name)?;
    Some(name)
}

struct Parser<'a> {
    rest: &'a [u8],
    depth: u8,
}

impl<'a> Parser<'a> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    /// Takes `text` if it comes next.
    fn takes(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text.as_bytes());
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Takes all next bytes that are `wanted`.
    fn while_next(&mut self, wanted: impl Fn(u8) -> bool) -> &'a [u8] {
        let len = self.rest.iter().take_while(|byte| wanted(**byte)).count();
        let (taken, rest) = self.rest.split_at(len);
        self.rest = rest;
        taken
    }

    /// Reads one level deeper by `read`.
    fn deeper<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = read(self)?;
        self.depth -= 1;
        Some(value)
    }

    /// `<name>`: appends it to `to`.
    fn name(&mut self, to: &mut String) -> Option<()> {
        self.deeper(|parser| match parser.peek()? {
            b'N' => parser.nested_name(to),
            b'Z' => parser.local_name(to),
            b'S' => parser.substitution(to),
            _ => parser.unqualified_name(to),
        })?;
        self.arguments_if_any(to)
    }

    /// `<nested-name>`
    fn nested_name(&mut self, to: &mut String) -> Option<()> {
        self.next()?;
        self.while_next(|byte| b"rVKRO".contains(&byte));
        let start = to.len();
        loop {
            match self.peek()? {
                b'E' => return self.next().map(drop),
                b'I' => self.arguments_if_any(to)?,
                b'M' => self.next().map(drop)?,
                first => {
                    if to.len() > start {
                        to.push_str("::");
                    }
                    if first == b'S' { self.substitution(to)? } else { self.unqualified_name(to)? }
                }
            }
        }
    }

    /// `<local-name>`: a name inside a function.
    fn local_name(&mut self, to: &mut String) -> Option<()> {
        self.next()?;
        self.name(to)?;
        while self.peek()? != b'E' {
            self.skip_type()?;
        }
        self.next()?;
        if self.takes("s") {
            return self.discriminator();
        }
        if self.takes("d") {
            self.number_and_underscore()?;
        }
        to.push_str("::");
        self.name(to)?;
        self.discriminator()
    }

    fn discriminator(&mut self) -> Option<()> {
        if self.takes("__") {
            return self.number_and_underscore();
        }
        if self.takes("_") {
            self.next().filter(u8::is_ascii_digit)?;
        }
        Some(())
    }

    /// `<substitution>`: the names of the standard library have a form of their own. Any other one stands for a part that came before:
    /// only names in arguments and parameters have it, which are not shown.
    fn substitution(&mut self, to: &mut String) -> Option<()> {
        self.next()?;
        let name = match self.next()? {
            b'_' => "…",
            b'0'..=b'9' | b'A'..=b'Z' => {
                self.while_next(|byte| byte.is_ascii_digit() || byte.is_ascii_uppercase());
                self.takes("_").then_some("…")?
            }
            b't' => {
                to.push_str("std::");
                return self.unqualified_name(to);
            }
            b'a' => "std::allocator",
            b'b' => "std::basic_string",
            b's' => "std::string",
            b'i' => "std::istream",
            b'o' => "std::ostream",
            b'd' => "std::iostream",
            _ => return None,
        };
        to.push_str(name);
        Some(())
    }

    /// `<unqualified-name>`, with the tags behind it.
    fn unqualified_name(&mut self, to: &mut String) -> Option<()> {
        // A name that other files do not see.
        self.takes("L");
        match self.peek()? {
            b'0'..=b'9' => {
                let name = self.source_name()?;
                to.push_str(if name.starts_with("_GLOBAL__N") { "(anonymous namespace)" } else { name });
            }
            b'C' | b'D' => self.constructor(to)?,
            b'U' => self.unnamed(to)?,
            b'a'..=b'z' => self.operator(to)?,
            _ => return None,
        }
        while self.takes("B") {
            self.source_name()?;
        }
        Some(())
    }

    /// `<source-name>`
    fn source_name(&mut self) -> Option<&'a str> {
        let digits = str::from_utf8(self.while_next(|byte| byte.is_ascii_digit())).ok()?;
        let (name, rest) = self.rest.split_at_checked(digits.parse().ok()?)?;
        self.rest = rest;
        str::from_utf8(name).ok()
    }

    /// `<ctor-dtor-name>`: the name of the class again.
    fn constructor(&mut self, to: &mut String) -> Option<()> {
        let class = to.strip_suffix("::")?;
        let class = class.strip_suffix("<…>").unwrap_or(class);
        let class = class.rsplit("::").next()?.to_owned();
        let (kind, number) = (self.next()?, self.next()?);
        if !number.is_ascii_digit() {
            return None;
        }
        if kind == b'D' {
            to.push('~');
        }
        to.push_str(&class);
        Some(())
    }

    /// `<unnamed-type-name>`, `<closure-type-name>`
    fn unnamed(&mut self, to: &mut String) -> Option<()> {
        if self.takes("Ul") {
            while self.peek()? != b'E' {
                self.skip_type()?;
            }
            self.next()?;
            to.push_str("{lambda}");
        } else if self.takes("Ut") {
            to.push_str("{unnamed}");
        } else {
            return None;
        }
        self.number_and_underscore()
    }

    /// `<operator-name>`
    fn operator(&mut self, to: &mut String) -> Option<()> {
        if self.takes("cv") {
            to.push_str("operator ");
            // The type has no name here.
            to.push('…');
            return self.skip_type();
        }
        if self.takes("li") {
            to.push_str("operator\"\" ");
            to.push_str(self.source_name()?);
            return Some(());
        }
        let (first, second) = (self.next()?, self.next()?);
        let (_, symbol) = OPERATORS.iter().find(|(code, _)| code.as_bytes() == [first, second])?;
        to.push_str("operator");
        to.push_str(symbol);
        Some(())
    }

    fn number_and_underscore(&mut self) -> Option<()> {
        self.while_next(|byte| byte.is_ascii_digit());
        self.takes("_").then_some(())
    }

    /// `<template-args>`: shown as `<…>`.
    fn arguments_if_any(&mut self, to: &mut String) -> Option<()> {
        if self.peek() == Some(b'I') {
            to.push_str("<…>");
            self.deeper(Self::skip_arguments)?;
        }
        Some(())
    }

    /// Skips arguments up to their end, from the byte that begins them.
    fn skip_arguments(&mut self) -> Option<()> {
        self.next()?;
        loop {
            match self.peek()? {
                b'E' => return self.next().map(drop),
                b'J' => self.deeper(Self::skip_arguments)?,
                b'L' => {
                    self.next()?;
                    if self.peek()? == b'_' {
                        return None;
                    }
                    self.skip_type()?;
                    self.while_next(|byte| byte != b'E');
                    self.next()?;
                }
                _ => self.skip_type()?,
            }
        }
    }

    /// Skips a `<type>`.
    fn skip_type(&mut self) -> Option<()> {
        self.deeper(Self::skip_type_here)
    }

    fn skip_type_here(&mut self) -> Option<()> {
        let mut skipped = String::new();
        match self.peek()? {
            b'N' | b'Z' | b'S' | b'0'..=b'9' => self.name(&mut skipped),
            b'T' => {
                self.next()?;
                if self.while_next(|byte| b"sue".contains(&byte)).is_empty() {
                    self.number_and_underscore()?;
                    return self.arguments_if_any(&mut skipped);
                }
                self.name(&mut skipped)
            }
            b'P' | b'R' | b'O' | b'K' | b'V' | b'r' | b'C' | b'G' => {
                self.next()?;
                self.skip_type()
            }
            b'F' => {
                self.next()?;
                self.takes("Y");
                loop {
                    match self.peek()? {
                        b'E' => return self.next().map(drop),
                        b'R' | b'O' if self.rest.get(1) == Some(&b'E') => self.next().map(drop)?,
                        _ => self.skip_type()?,
                    }
                }
            }
            b'A' => {
                self.next()?;
                self.number_and_underscore()?;
                self.skip_type()
            }
            b'M' => {
                self.next()?;
                self.skip_type()?;
                self.skip_type()
            }
            b'U' => {
                self.next()?;
                self.source_name()?;
                self.arguments_if_any(&mut skipped)?;
                self.skip_type()
            }
            b'D' => {
                self.next()?;
                match self.next()? {
                    b'n' | b'i' | b's' | b'u' | b'a' | b'c' | b'd' | b'e' | b'f' | b'h' => Some(()),
                    b'p' | b'o' => self.skip_type(),
                    b'F' => {
                        self.while_next(|byte| byte.is_ascii_digit());
                        self.next().filter(|byte| b"_xb".contains(byte)).map(drop)
                    }
                    b'v' => {
                        self.number_and_underscore()?;
                        self.skip_type()
                    }
                    _ => None,
                }
            }
            b'u' => {
                self.next()?;
                self.source_name().map(drop)
            }
            b'a'..=b'z' => self.next().map(drop),
            _ => None,
        }
    }
}

/// Operators by their codes.
const OPERATORS: [(&str, &str); 48] = [
    ("nw", " new"),
    ("na", " new[]"),
    ("dl", " delete"),
    ("da", " delete[]"),
    ("aw", " co_await"),
    ("ps", "+"),
    ("ng", "-"),
    ("ad", "&"),
    ("de", "*"),
    ("co", "~"),
    ("pl", "+"),
    ("mi", "-"),
    ("ml", "*"),
    ("dv", "/"),
    ("rm", "%"),
    ("an", "&"),
    ("or", "|"),
    ("eo", "^"),
    ("aS", "="),
    ("pL", "+="),
    ("mI", "-="),
    ("mL", "*="),
    ("dV", "/="),
    ("rM", "%="),
    ("aN", "&="),
    ("oR", "|="),
    ("eO", "^="),
    ("ls", "<<"),
    ("rs", ">>"),
    ("lS", "<<="),
    ("rS", ">>="),
    ("eq", "=="),
    ("ne", "!="),
    ("lt", "<"),
    ("gt", ">"),
    ("le", "<="),
    ("ge", ">="),
    ("ss", "<=>"),
    ("nt", "!"),
    ("aa", "&&"),
    ("oo", "||"),
    ("pp", "++"),
    ("mm", "--"),
    ("cm", ","),
    ("pm", "->*"),
    ("pt", "->"),
    ("cl", "()"),
    ("ix", "[]"),
];

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn all_kinds_of_names_have_a_form() {
        for (mangled, expected) in [
            ("_Z4workv", "work"),
            ("_ZN4shop12_GLOBAL__N_16caughtEi", "shop::(anonymous namespace)::caught"),
            ("_ZN4shopL6hiddenEi", "shop::hidden"),
            (
                "_ZNK4shop5StockIlE7reserveERKNSt7__cxx1112basic_stringIcSt11char_traitsIcESaIcEEEi",
                "shop::Stock<…>::reserve",
            ),
            ("_ZN4shop5StockIlEC2Ev", "shop::Stock<…>::Stock"),
            ("_ZN4shop5StockD0Ev", "shop::Stock::~Stock"),
            ("_ZSt4moveIRiEONSt16remove_referenceIT_E4typeEOS2_", "std::move<…>"),
            ("_ZNSsaSEPKc", "std::string::operator="),
            ("_ZNSt6vectorIiSaIiEEixEm", "std::vector<…>::operator[]"),
            ("_ZN1AcvbEv", "A::operator …"),
            ("_ZL4mainv.isra.0", "main"),
            ("_ZZ4mainENKUlvE0_clEv", "main::{lambda}::operator()"),
            ("_ZZN4shop4workEiPKcENKUlRKT_E_clIiEEDaS4_", "shop::work::{lambda}::operator()<…>"),
            (
                "_ZNSt6thread11_State_implINS_8_InvokerISt5tupleIJZ4mainEUlvE1_EEEEE6_M_runEv",
                "std::thread::_State_impl<…>::_M_run",
            ),
            ("_ZN3foo3barB5cxx11Ev", "foo::bar"),
            ("_ZN1fILi42ELb1ELin7EE1gEv", "f<…>::g"),
            ("_ZN1fIPFivEM1AFvvEA4_cDv4_fDpT_E1gEv", "f<…>::g"),
            ("_Zli3_kmy", "operator\"\" _km"),
        ] {
            assert_eq!(name(mangled).as_deref(), Some(expected), "{mangled}");
        }
    }

    #[test]
    fn other_names_have_none() {
        for other in [
            "",
            "_",
            "_Z",
            "_ZN",
            "_ZN4shop",
            "_ZN4sho",
            "_Z99999999999999999999work",
            "_Z9work",
            "_ZTV4shop",
            "_ZNC1Ev",
            "_ZN1fIXplLi1ELi2EEE1gEv",
            "_ZNSt",
            "_ZN1fILE",
            "main",
            "_R4main",
            "_ZNé",
        ] {
            assert_eq!(name(other), None, "{other}");
        }
        for nested in ["P", "1AI", "NS_I", "F", "Z1fI", "J", "Dp", "M", "UlU"] {
            assert_eq!(name(&format!("_Z1fI{}", nested.repeat(100_000))), None, "{nested}");
        }
    }

    /// `c++filt -p` gives the names, and a script leaves out the arguments of templates.
    #[test]
    fn names_of_a_whole_library_are_as_those_of_a_demangler() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/names/cpp.txt");
        let text = fs::read_to_string(file).unwrap();
        let lines: Vec<_> = text.lines().map(|line| line.split_once('\t').unwrap()).collect();
        assert!(lines.len() > 200, "{}", lines.len());
        for (mangled, expected) in lines {
            assert_eq!(name(mangled).as_deref(), Some(expected), "{mangled}");
        }
    }
}
